"""Write a dataset in the format of the extreme classification repository, with the labels that SKIM added.

Reads `data/<dataset>/{corpus,filtered,mapped}/`; writes `data/<dataset>/xc/`: the texts, one a line; the
label matrices as .npz and as text, of the observed pairs (`trn_X_Y`), with the new ones (`trn_X_Y_skim`), and
of the test; the filter pairs. Where points are queries, the synthetic ones are further rows of
`trn_X_Y_skim`, below those of `trn_X`, each with the documents that it was written for; `trn_X_skim` has the
texts of all its rows. Renee and DEXML read the folder as it is: each finds the names it expects, which
docs/kinds/xc/format.md lists. Rows and columns are in the order of the corpus.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz, vstack

from stages.core import layout
from stages.core.files import atomic_directory, read_json, verify_manifest
from stages.core.rows import lines, records
from stages.core.stage import NoKnobs
from stages.kinds.xc import places
from stages.kinds.xc.parts.format.matrices import text_form
from stages.kinds.xc.parts.format.texts import one_line
from stages.kinds.xc.parts.mapping import Points, Shape, check_ids, read_pairs

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
    corpus, filtered, mapped = layout.corpus(dataset), places.filtered(dataset), places.mapped(dataset)
    for folder in (corpus, filtered, mapped):
        verify_manifest(folder)
    points = read_json(corpus / "shape.json")["points"]
    counts: dict[str, int] = {}
    with atomic_directory(places.packed(dataset), "pack", counts) as directory:
        ids = write_texts(corpus, points, directory)
        for name, file in (("trn_X", "X.txt"), ("Y", "Y.txt")):
            check_ids(mapped / file, ids[name], corpus, "map")
        synthetic = synthetic_points(corpus, filtered, points, ids["Y"])
        shutil.copyfile(directory / "trn_X.txt", directory / "trn_X_skim.txt")
        with open(directory / "trn_X_skim.txt", "a", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{text}\n" for text in synthetic[0])
        matrices = write_matrices(corpus, mapped, points, ids, synthetic[1], directory)
        filters = write_filters(corpus, points, ids, directory)
        (directory / "raw").mkdir()
        for copy, name in COPIES.items():
            shutil.copyfile(directory / name, directory / copy)
        counts.update({f"{name}.txt": len(ids[name]) for name in TEXTS})
        counts["trn_X_skim.txt"] = len(ids["trn_X"]) + len(synthetic[0])
    original, augmented, test = (matrices[name] for name in ("trn_X_Y", "trn_X_Y_skim", "tst_X_Y"))
    return {
        "train_points": len(ids["trn_X"]),
        "synthetic_points": len(synthetic[0]),
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
    for _, row in records(corpus / "documents.jsonl"):
        line = row["metadata"].get("line") if kept else None
        line = one_line(row["title"], row["text"]) if line is None else line
        point = "tst_X" if row["split"] == "xc_test" else "trn_X"
        yield point if points == "documents" else "Y", row["id"], one_line(line)
    for _, row in records(corpus / "queries.jsonl"):
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


def synthetic_points(
    corpus: Path, filtered: Path, points: str, labels: list[str]
) -> tuple[list[str], csr_matrix]:
    """The distinct synthetic queries, in order, and their documents (queries, labels); none for categories.

    A model that trains on them learns of documents that no observed query led to.
    """
    if points != "queries":
        return [], csr_matrix((0, len(labels)), dtype=np.float32)
    check_ids(filtered / "documents.txt", labels, corpus, "filter")
    starts = np.load(filtered / "start_indices.npy")
    places_of_text: dict[str, int] = {}
    rows = [
        places_of_text.setdefault(one_line(t), len(places_of_text))
        for t in lines(filtered / "raw_rewrites.txt")
    ]
    columns = np.repeat(np.arange(len(labels)), np.diff(starts))
    shape = (len(places_of_text), len(labels))
    pairs = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    pairs.data[:] = 1  # a query that is written twice for a document
    return [*places_of_text], pairs


def write_matrices(
    corpus: Path,
    mapped: Path,
    points: str,
    ids: dict[str, list[str]],
    synthetic: csr_matrix,
    directory: Path,
) -> dict:
    """Write the three label matrices as .npz and as text; returns them. Raises UserError.

    `synthetic` (queries, labels) goes below the rows of the augmented one.
    """
    rows, columns = places_of(corpus / "pairs.jsonl", points, "test", ids["tst_X"], ids["Y"])
    ones, shape = np.ones(len(rows), dtype=np.float32), (len(ids["tst_X"]), len(ids["Y"]))
    augmented = vstack([load_npz(mapped / "trn_X_Y_skim.npz"), synthetic], format="csr")
    matrices = {
        "tst_X_Y": csr_matrix((ones, (rows, columns)), shape=shape),
        "trn_X_Y": load_npz(mapped / "trn_X_Y.npz"),
        "trn_X_Y_skim": augmented,
    }
    for name, matrix in matrices.items():
        save_npz(directory / f"{name}.npz", matrix)
        with open(directory / f"{name}.txt", "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(text_form(matrix))
    return matrices


def write_filters(corpus: Path, points: str, ids: dict[str, list[str]], directory: Path) -> dict[str, int]:
    """Write the filter pairs, `row column` a line, an empty file if there are none; returns their numbers."""
    numbers = {}
    for split, name in (("train", "trn_X"), ("test", "tst_X")):
        pairs = places_of(corpus / "filters.jsonl", points, split, ids[name], ids["Y"])
        text = "".join(f"{row} {column}\n" for row, column in zip(*pairs, strict=True))
        (directory / f"filter_labels_{split}.txt").write_text(text, encoding="utf-8", newline="\n")
        numbers[split] = len(pairs[0])
    return numbers


def places_of(
    path: Path, points: Points, split: str, rows: list[str], columns: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, int64, of the pairs of one split, sorted; none where there is no such file.

    `rows` and `columns` are the ids of the matrix. Raises UserError for a pair of another one.
    """
    queries, documents = (rows, columns) if points == "queries" else (columns, rows)
    shape = Shape(points, len(queries), len(documents))
    pairs = np.zeros(0, dtype=np.int64)
    if path.is_file():
        [pairs] = read_pairs(path, queries, documents, shape, (split,))
    return np.divmod(pairs, max(len(columns), 1))
