"""A dataset in the XC repository's format: which files it has, which it lacks, and its texts.

Points X (rows) and labels Y (columns) are texts, one a line, or JSON lines; a label matrix says which labels
a point has (matrices.py). The names are those of the repository and of SKIM, DEXML and Renee;
docs/kinds/xc/format.md lists them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core import rows as xc_rows
from stages.core.errors import UserError
from stages.core.text import comparable

NO_METADATA = "none"  # `metadata` of a dataset whose lines are all its text


def _texts(name: str, json: str) -> tuple[str, ...]:
    plain = (f"{name}.txt", f"{name}.txt.gz", f"raw/{name}.txt", f"raw/{name}.txt.gz")
    return (*plain, f"{json}.json.gz", f"{json}.json")


def _matrices(which: str) -> tuple[str, ...]:
    plain = (f"{which}_X_Y.npz", f"{which}_X_Y.txt", f"{which}_X_Y.txt.gz", f"Y.{which}.npz")
    return (*plain, f"{which}.json.gz", f"{which}.json")


# What is needed: the names that may hold it. The first that exists is read.
NAMES = {
    "trn_X": _texts("trn_X", "trn"),
    "tst_X": _texts("tst_X", "tst"),
    "Y": _texts("Y", "lbl"),
    "trn_X_Y": _matrices("trn"),
    "tst_X_Y": _matrices("tst"),
    "metadata": tuple(f"metadata.{kind}{gz}" for kind in ("jsonl", "json", "tsv") for gz in ("", ".gz")),
    "filter_train": ("filter_labels_train.txt", "trn_filter_labels.txt"),
    "filter_test": ("filter_labels_test.txt", "tst_filter_labels.txt"),
}
FILTERS = ("filter_train", "filter_test")  # may be absent

REPOSITORY = (
    "the XC repository, http://manikvarma.org/downloads/XC/XMLRepository.html, for datasets named LF-…; "
    "https://github.com/bicycleman15/skim, folder artifacts/, as its README says, for those of the SKIM paper"
)
PUBLISHED = {
    "queries": f"{REPOSITORY}; https://microsoft.github.io/msmarco/ORCAS for ORCAS's clicks and "
    "https://microsoft.github.io/msmarco/Datasets for its pages (msmarco-docs.tsv: docid, url, title, body)",
    "documents": REPOSITORY,
}


def find(folder: Path, metadata: str | None = None) -> dict[str, Path]:
    """The files of a dataset that are there, by the keys of NAMES; `metadata` names another file for it."""
    names = {**NAMES, "metadata": (metadata,) if metadata else NAMES["metadata"]}
    there = {
        key: [folder / name for name in some if (folder / name).is_file()] for key, some in names.items()
    }
    return {key: some[0] for key, some in there.items() if some}


def missing_files(folder: Path, points: str, metadata: str | None = None) -> list[str]:
    """The files that a dataset lacks, each with the names that would do.

    `points` says what X is, "queries" or "documents". Metadata is needed where documents are plain lines,
    unless `metadata` is "none".
    """
    present = find(folder, metadata)
    needed = [key for key in NAMES if key not in (*FILTERS, "metadata")]
    documents = present.get("trn_X" if points == "documents" else "Y")
    if metadata != NO_METADATA and (metadata or documents is None or ".json" not in documents.suffixes):
        needed.append("metadata")
    names = {**NAMES, "metadata": (metadata,) if metadata else NAMES["metadata"]}
    return [_or(names[key]) for key in needed if key not in present]


def _or(names: tuple[str, ...]) -> str:
    return names[0] + (f" (or {', '.join(names[1:])})" if len(names) > 1 else "")


def check_files(folder: Path, points: str, metadata: str | None = None) -> dict[str, Path]:
    """`find`, once nothing is missing. Raises UserError with every missing file and where the data is."""
    if metadata and (Path(metadata).is_absolute() or ".." in Path(metadata).parts):
        raise UserError(f"metadata: {metadata!r} is not in the dataset's folder; put the file into {folder}")
    missing = missing_files(folder, points, metadata)
    if missing:
        lacks = "no such folder; it must hold" if not folder.is_dir() else "these files are missing:"
        raise UserError(
            f"{folder}: {lacks} {'; '.join(missing)}. Where data is published: {PUBLISHED[points]}. "
            "docs/kinds/xc/format.md says what each file holds"
        )
    return find(folder, metadata)


def one_line(*parts: str) -> str:
    """Texts as one line: white space of any kind is a single space."""
    return " ".join(" ".join(parts).split())


def line_hashes(lines: Iterable[str]) -> np.ndarray:
    """int64 hashes of texts in one line: equal within a process for what is `comparable`."""
    return np.fromiter((hash(comparable(line)) for line in lines), dtype=np.int64)


class Row(NamedTuple):
    """A point or label as its file has it: `body` is None in a file of plain lines."""

    line: str
    title: str = ""
    body: str | None = None
    uid: str | None = None


def rows(path: Path) -> Iterator[Row]:
    """The rows of trn_X, tst_X or Y in any of their forms. Raises UserError with file, row and field."""
    if ".json" not in path.suffixes:
        yield from map(Row, lines_of(path))
        return
    for number, record in xc_rows.records(path):
        title, body = (field(record, name, path, number) for name in ("title", "content"))
        if title is None and body is None:
            has = ", ".join(record) or "no fields"
            raise UserError(f"{path}, row {number}: neither 'title' nor 'content' (this row has {has})")
        title, uid = title or "", field(record, "uid", path, number)
        yield Row(one_line(title, body or ""), one_line(title), body, uid)


def field(record: dict, name: str, path: Path, row: int) -> str | None:
    """A text field, None where it is absent or null; whole numbers become text. Raises UserError."""
    value = record.get(name)
    text = xc_rows.as_text(value)
    if text is None and value is not None:
        kind = xc_rows.kind_of(value)
        raise UserError(f"{path}, row {row}: field '{name}' is {kind}, expected text or a whole number")
    return text


def lines_of(path: Path) -> Iterator[str]:
    """The texts of trn_X, tst_X or Y, one line each."""
    if ".json" in path.suffixes:
        return (row.line for row in rows(path))
    return (" ".join(line.split()) for line in xc_rows.lines(path))


@dataclass
class Survey:
    """What one pass over a file of texts tells: `hashes` int64 (rows), and the first empty row, from 1."""

    path: Path
    hashes: np.ndarray
    empty: int
    first_empty: int

    @property
    def rows(self) -> int:
        return len(self.hashes)


def survey(path: Path) -> Survey:
    """Count the rows of a file of texts and hash them. Raises UserError where it holds none."""
    hashes = line_hashes(lines_of(path))
    if not len(hashes):
        raise UserError(f"{path}: holds no rows")
    empty = np.flatnonzero(hashes == line_hashes([""]))
    return Survey(path, hashes, len(empty), int(empty[0]) + 1 if len(empty) else 0)


def duplicates(texts: Survey) -> int:
    """How many rows have the text of an earlier one; empty rows are none."""
    distinct = len(np.unique(texts.hashes))
    return texts.rows - distinct - max(texts.empty - 1, 0)
