"""Write a dataset in the format of the extreme classification repository, with the labels that SKIM added.

Reads `data/<dataset>/corpus/` and `data/<dataset>/mapped/`; writes `data/<dataset>/xc/`: the texts, one a
line; the label matrices as .npz and as text, before (`trn_X_Y`) and after mapping (`trn_X_Y_skim`), and of
the test; the filter pairs. Renee and DEXML read the folder as it is: each finds the names it expects, which
docs/kinds/xc/format.md lists. Rows and columns are in the order of the corpus.
"""

import shutil
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from stages.core import layout
from stages.core import rows as xc_rows
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, verify_manifest
from stages.core.stage import NoKnobs
from stages.kinds.xc import places
from stages.kinds.xc.parts.format.matrices import text_form
from stages.kinds.xc.parts.format.texts import one_line

TEXTS = ("trn_X", "tst_X", "Y")
# The names that DEXML, or Renee, has for a file: the same bytes twice, since links do not survive every copy.
COPIES = {
    "raw/trn_X.txt": "trn_X.txt",
    "raw/tst_X.txt": "tst_X.txt",
    "raw/Y.txt": "Y.txt",
    "Y.trn.npz": "trn_X_Y.npz",
    "Y.tst.npz": "tst_X_Y.npz",
    "trn_filter_labels.txt": "filter_labels_train.txt",
    "tst_filter_labels.txt": "filter_labels_test.txt",
}


def run(dataset: str, knobs: NoKnobs) -> dict:
    corpus, mapped = layout.corpus(dataset), places.mapped(dataset)
    verify_manifest(corpus)
    verify_manifest(mapped)
    points = read_json(corpus / "shape.json")["points"]
    counts: dict[str, int] = {}
    with atomic_directory(places.packed(dataset), "pack", counts) as directory:
        ids = write_texts(corpus, points, directory)
        for name, file in (("trn_X", "X.txt"), ("Y", "Y.txt")):
            check_ids(mapped / file, ids[name], corpus)
        matrices = write_matrices(corpus, mapped, points, ids, directory)
        filters = write_filters(corpus, points, ids, directory)
        (directory / "raw").mkdir()
        for copy, name in COPIES.items():
            shutil.copyfile(directory / name, directory / copy)
        counts.update({f"{name}.txt": len(ids[name]) for name in TEXTS})
    original, augmented, test = (matrices[name] for name in ("trn_X_Y", "trn_X_Y_skim", "tst_X_Y"))
    return {
        "train_points": len(ids["trn_X"]),
        "test_points": len(ids["tst_X"]),
        "labels": len(ids["Y"]),
        "pairs_original": int(original.nnz),
        "pairs_augmented": int(augmented.nnz),
        "test_pairs": int(test.nnz),
        "labels_without_train_pairs": {
            name: int((np.bincount(matrix.indices, minlength=matrix.shape[1]) == 0).sum())
            for name, matrix in (("original", original), ("augmented", augmented))
        },
        "filters": filters,
    }


def texts(corpus: Path, points: str) -> Iterator[tuple[str, str, str]]:
    """(file, id, line) of every point and label, in the order of the corpus.

    `metadata.line` is the line of the source only where the corpus says that it keeps such lines.
    """
    kept = read_json(corpus / "shape.json").get("lines", False)
    for _, batch in xc_rows.records(corpus / "documents.jsonl"):
        for row in batch:
            line = row["metadata"].get("line") if kept else None
            line = one_line(row["title"], row["text"]) if line is None else line
            point = "tst_X" if row["split"] == "xc_test" else "trn_X"
            yield point if points == "documents" else "Y", row["id"], one_line(line)
    for _, batch in xc_rows.records(corpus / "queries.jsonl"):
        for row in batch:
            point = "tst_X" if row["split"] == "test" else "trn_X"
            yield point if points == "queries" else "Y", row["id"], one_line(row["text"])


def write_texts(corpus: Path, points: str, directory: Path) -> dict[str, list[str]]:
    """Write trn_X.txt, tst_X.txt and Y.txt; returns the ids of their rows."""
    ids: dict[str, list[str]] = {name: [] for name in TEXTS}
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(open(directory / f"{name}.txt", "w", encoding="utf-8", newline="\n"))
            for name in TEXTS
        }
        for name, row, line in texts(corpus, points):
            ids[name].append(row)
            files[name].write(f"{line}\n")
    return ids


def write_matrices(
    corpus: Path, mapped: Path, points: str, ids: dict[str, list[str]], directory: Path
) -> dict:
    """Write the three label matrices as .npz and as text; returns them. Raises UserError."""
    places = places_of(corpus / "pairs.jsonl", points, "test", ids["tst_X"], ids["Y"])
    ones = np.ones(len(places), dtype=np.float32)
    shape = (len(ids["tst_X"]), len(ids["Y"]))
    matrices = {"tst_X_Y": csr_matrix((ones, (places[:, 0], places[:, 1])), shape=shape)}
    save_npz(directory / "tst_X_Y.npz", matrices["tst_X_Y"])
    for name in ("trn_X_Y", "trn_X_Y_skim"):
        matrices[name] = mapped_matrix(mapped / f"{name}.npz", (len(ids["trn_X"]), len(ids["Y"])))
        shutil.copyfile(mapped / f"{name}.npz", directory / f"{name}.npz")
    for name, matrix in matrices.items():
        with open(directory / f"{name}.txt", "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(text_form(matrix))
    return matrices


def write_filters(corpus: Path, points: str, ids: dict[str, list[str]], directory: Path) -> dict[str, int]:
    """Write the filter pairs, `row column` a line, an empty file if there are none; returns their numbers."""
    numbers = {}
    for split, name in (("train", "trn_X"), ("test", "tst_X")):
        pairs = places_of(corpus / "filters.jsonl", points, split, ids[name], ids["Y"]).tolist()
        lines = "".join(f"{row} {column}\n" for row, column in sorted(pairs))
        (directory / f"filter_labels_{split}.txt").write_text(lines, encoding="utf-8", newline="\n")
        numbers[split] = len(pairs)
    return numbers


def check_ids(path: Path, expected: list[str], corpus: Path) -> None:
    """Raise UserError where the ids that were mapped are not those of the corpus."""
    count = 0
    for first, batch in xc_rows.lines(path):
        theirs = expected[count : count + len(batch)]
        for row, (mine, their) in enumerate(zip(batch, theirs, strict=False), start=first):
            if mine != their:
                raise UserError(
                    f"{path}, row {row}: {mine!r}, but {corpus} has {their!r} there; run the map stage again"
                )
        count += len(batch)
    if count != len(expected):
        raise UserError(
            f"{path}: {count:,} rows, but {corpus} has {len(expected):,}; run the map stage again"
        )


def mapped_matrix(path: Path, shape: tuple[int, int]):
    """The csr matrix. Raises UserError where it is not (training points, labels)."""
    matrix = load_npz(path)
    if matrix.shape != shape:
        raise UserError(
            f"{path}: {matrix.shape[0]:,} × {matrix.shape[1]:,}, but the corpus has {shape[0]:,} training "
            f"points and {shape[1]:,} labels; run the map stage again"
        )
    matrix.sort_indices()
    return matrix


def places_of(path: Path, points: str, split: str, rows: list[str], columns: list[str]):
    """int64 (pairs, 2): row and column of the pairs of one split; none where there is no such file.

    `rows` and `columns` are sorted ids. Raises UserError for an id that is not among them.
    """
    fields = ("query_id", "document_id") if points == "queries" else ("document_id", "query_id")
    found = array("q")
    for first, batch in xc_rows.records(path) if path.is_file() else ():
        for number, pair in enumerate(batch, start=first):
            if pair["split"] != split:
                continue
            for field, ids in zip(fields, (rows, columns), strict=True):
                place = bisect_left(ids, pair[field])
                if place == len(ids) or ids[place] != pair[field]:
                    raise UserError(
                        f"{path}, row {number}: {field} {pair[field]!r} is not in the corpus, or not of the "
                        f"split '{split}'; run the corpus stage again"
                    )
                found.append(place)
    return np.frombuffer(found, dtype=np.int64).reshape(-1, 2)
