"""Label matrices and filter pairs of the XC repository's format, checked against the texts they belong to.

A matrix is points × labels: `.npz` (scipy), text ("rows columns", then `label:value …` for each row, as
pyxclib reads it) or the lists `target_ind` of `trn.json.gz`. Filters are lines of `row column`: pairs that
are left out of evaluation.
"""

import re
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz

from stages.core import rows as xc_rows
from stages.core.errors import UserError, reason
from stages.core.files import check_expansion

TWO_NUMBERS = re.compile(r"\d{1,18}\s+\d{1,18}")

Labels = tuple[int, list[int], list[float]]  # number of the row, labels, their values
Csr = tuple[np.ndarray, np.ndarray, np.ndarray]  # starts of rows, columns, values


def read_matrix(path: Path, shape: tuple[int, int], warnings: Counter) -> csr_matrix:
    """A canonical float32 csr matrix of `shape`, (points, labels).

    A pair that is named twice is kept once, at its larger value, and a pair of value 0 is dropped; both are
    counted in `warnings` under `duplicate_pairs` and `zero_pairs`. Raises UserError with file, row and field
    for a shape that is not the texts', an index out of range, and a value that is negative or not finite.
    """
    if path.suffix == ".npz":
        matrix = _read_npz(path)
        _check_shape(path, "its shape is", matrix.shape, shape)
        starts, columns, values = matrix.indptr, matrix.indices, matrix.data
    elif ".json" in path.suffixes:
        starts, columns, values = _gathered(path, _labels_of_records(path))
        _check_shape(path, "it has", (len(starts) - 1, shape[1]), shape)
    else:
        starts, columns, values = _read_text(path, shape)
    with np.errstate(over="ignore"):
        values = np.asarray(values, dtype=np.float32)
    _check_pairs(path, starts, columns, values, shape)
    rows = np.repeat(np.arange(shape[0]), np.diff(starts))
    return _canonical(rows, columns, values, shape, warnings)


def _read_npz(path: Path) -> csr_matrix:
    try:
        with zipfile.ZipFile(path) as arrays:
            check_expansion(path, sum(array.file_size for array in arrays.infolist()))
        matrix = load_npz(path)  # without pickle: scipy never allows it
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and scipy raise a dozen others for damage
        raise UserError(
            f"{path}: not a whole scipy sparse matrix ({reason(error)}); save it with save_npz"
        ) from None
    if matrix.format != "csr":
        raise UserError(f"{path}: a '{matrix.format}' matrix; save it as csr: matrix.tocsr()")
    if matrix.dtype.kind not in "biuf":
        raise UserError(f"{path}: its values are {matrix.dtype}, expected numbers")
    return matrix


def _read_text(path: Path, shape: tuple[int, int]) -> Csr:
    """(starts, columns, values) of label:value lines under a header."""
    lines = xc_rows.lines(path)
    _check_header(path, next(lines, None), shape)
    starts, columns, values = _gathered(path, _labels_of_lines(path, lines))
    if len(starts) - 1 != shape[0]:
        raise UserError(f"{path}: {len(starts) - 1:,} rows under the header, which says {shape[0]:,}")
    return starts, columns, values


def _labels_of_lines(path: Path, lines: Iterator[str]) -> Iterator[Labels]:
    for row, line in enumerate(lines, start=2):
        pairs = [pair.partition(":") for pair in line.split()]
        try:
            yield row, [int(label) for label, _, _ in pairs], [float(value) for _, _, value in pairs]
        except ValueError:
            raise UserError(
                f"{path}, row {row}: expected label:value, found {line[:40]!r}; lines of "
                "'row column' pairs are read from filter files only: save the matrix as .npz"
            ) from None


def _gathered(path: Path, rows: Iterator[Labels]) -> Csr:
    """(starts, columns, values) of the labels and values of each row."""
    starts, columns, values = array("q", [0]), array("q"), array("d")
    for row, labels, relevance in rows:
        try:
            columns.extend(labels)
            values.extend(relevance)
        except OverflowError:
            raise UserError(f"{path}, row {row}: a label or a value of too many digits") from None
        starts.append(len(columns))
    return np.asarray(starts), np.asarray(columns), np.asarray(values)


def _check_header(path: Path, line: str | None, shape: tuple[int, int]) -> None:
    if line is None:
        raise UserError(f"{path}: empty; expected a first line of 'rows columns'")
    if not TWO_NUMBERS.fullmatch(line.strip()):
        raise UserError(f"{path}, row 1: expected a header 'rows columns', found {line[:40]!r}")
    rows, columns = map(int, line.split())
    _check_shape(path, "its header says", (rows, columns), shape)


def _check_shape(path: Path, what: str, got: tuple[int, int], expected: tuple[int, int]) -> None:
    if tuple(got) != tuple(expected):
        raise UserError(
            f"{path}: {what} {got[0]:,} points × {got[1]:,} labels, but the texts have "
            f"{expected[0]:,} points × {expected[1]:,} labels; are they of the same dataset?"
        )


def _labels_of_records(path: Path) -> Iterator[Labels]:
    """The lists `target_ind` (and `target_rel`, where given)."""
    for row, record in xc_rows.records(path):
        labels = record.get("target_ind")
        if not isinstance(labels, list):
            has = ", ".join(record) or "no fields"
            raise UserError(f"{path}, row {row}: field 'target_ind' is not a list (this row has {has})")
        relevance = record.get("target_rel", [1.0] * len(labels))
        if not isinstance(relevance, list) or len(relevance) != len(labels):
            raise UserError(f"{path}, row {row}: field 'target_rel' is not as long as 'target_ind'")
        if not {*map(type, labels)} <= {int} or not {*map(type, relevance)} <= {int, float}:
            raise UserError(f"{path}, row {row}: 'target_ind' and 'target_rel' must hold numbers only")
        yield row, labels, relevance


def _check_pairs(path: Path, starts, columns, values, shape: tuple[int, int]) -> None:
    """Raise UserError for the first index or value that cannot be."""
    if len(columns) != len(values) or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        raise UserError(f"{path}: indptr, indices and data do not fit together; save it again")
    header = 2 if path.suffix in (".txt", ".gz") and ".json" not in path.suffixes else 1
    for wrong, what in (
        ((columns < 0) | (columns >= shape[1]), f"label {{}} is out of range: there are {shape[1]:,} labels"),
        (~np.isfinite(values), "the value of label {} is not a finite number"),
        (values < 0, "the value of label {} is negative"),
    ):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            row = int(np.searchsorted(starts, place, side="right")) - 1 + header
            raise UserError(f"{path}, row {row}: {what.format(int(columns[place]))} (labels count from 0)")


def _canonical(rows, columns, values, shape: tuple[int, int], warnings: Counter) -> csr_matrix:
    if not values.all():
        kept = values != 0
        warnings["zero_pairs"] += int((~kept).sum())
        rows, columns, values = rows[kept], columns[kept], values[kept]
    keys = rows * shape[1] + columns
    if (keys[1:] <= keys[:-1]).any():
        order = np.lexsort((-values, keys))
        keys, values = keys[order], values[order]
        kept = np.ones(len(keys), dtype=bool)
        kept[1:] = keys[1:] != keys[:-1]
        warnings["duplicate_pairs"] += int((~kept).sum())
        keys, values = keys[kept], values[kept]
    rows, columns = np.divmod(keys, max(shape[1], 1))
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))
    return csr_matrix((values, columns, starts), shape=shape)


def read_filters(path: Path | None, shape: tuple[int, int], warnings: Counter) -> np.ndarray:
    """int64 (pairs, 2) of (row, column), sorted, each once; none without a file. Raises UserError."""
    listed: list[tuple[int, int]] = []
    for row, line in enumerate(xc_rows.lines(path) if path else (), start=1):
        if not TWO_NUMBERS.fullmatch(line.strip()):
            raise UserError(f"{path}, row {row}: expected 'row column', found {line[:40]!r}")
        point, label = map(int, line.split())
        if point >= shape[0] or label >= shape[1]:
            raise UserError(
                f"{path}, row {row}: the pair {point} {label} is out of range: there are {shape[0]:,} "
                f"points and {shape[1]:,} labels (they count from 0)"
            )
        listed.append((point, label))
    pairs = np.unique(np.array(listed, dtype=np.int64).reshape(-1, 2), axis=0)
    warnings["duplicate_filters"] += len(listed) - len(pairs)
    return pairs


def text_form(matrix: csr_matrix) -> Iterator[str]:
    """The lines of the text form, which pyxclib (and so Renee) reads: labels of a row ascend."""
    yield f"{matrix.shape[0]} {matrix.shape[1]}\n"
    for start, stop in pairwise(matrix.indptr.tolist()):
        columns, values = matrix.indices[start:stop].tolist(), matrix.data[start:stop].tolist()
        pairs = zip(columns, values, strict=True)
        yield " ".join(f"{column}:{value:.5f}" for column, value in pairs) + "\n"
