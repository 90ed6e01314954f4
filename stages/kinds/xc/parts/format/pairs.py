"""The pairs of an XC dataset: which are withheld, which queries a prompt may show, and their rows on disk.

Points are numbered as the corpus sorts them: the test points first (`t…`), then the training points (`x…`).
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_matrix, vstack

from stages.core.text import comparable
from stages.kinds.xc.parts.format.texts import line_hashes

LEAST_DIGITS = 7
SPLITS = ("train", "hidden", "test")

RowIds = Callable[[int], str]


def row_ids(letter: str, rows: int) -> RowIds:
    """The ids of a set of rows: a letter and the row's number, padded so that they sort by it."""
    return f"{letter}{{:0{max(LEAST_DIGITS, len(str(max(rows - 1, 0))))}d}}".format


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 hashes of uint64 numbers (splitmix64; Steele, Lea and Flood 2014)."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hidden_pairs(trn: csr_matrix, share: float) -> np.ndarray:
    """Bool (nnz): the pairs to withhold, `share` of all by a hash of row and column.

    A point keeps at least one pair for training: a hidden one is a label that is missing from a row which is
    not empty, as in a real log.
    """
    counts = np.diff(trn.indptr)
    rows = np.repeat(np.arange(trn.shape[0], dtype=np.uint64), counts)
    unit = mixed(mixed(rows) ^ trn.indices.astype(np.uint64)) / 2.0**64
    keep = np.zeros(trn.shape[0])
    if trn.nnz:
        keep[counts > 0] = np.maximum.reduceat(unit, trn.indptr[:-1][counts > 0])
    return unit < np.minimum(share, np.repeat(keep, counts))


class KnownQueries:
    """Up to `most` known queries for each label: those of the metadata, then training queries in their order.

    Never one with the text of a test query, nor with that of a hidden pair of the label. `hashes` and
    `test_hashes` are int64 (line_hashes) of the training and test queries; `hidden` is bool (trn.nnz). The
    training queries' texts have to pass by once (`see`) before any label's can be told.
    """

    def __init__(
        self, trn: csr_matrix, hidden: np.ndarray, hashes: np.ndarray, test_hashes: np.ndarray, most: int
    ):
        self.most, self.withheld = most, 0
        self.secret = {*test_hashes.tolist(), *line_hashes([""]).tolist()}
        rows = np.repeat(np.arange(trn.shape[0]), np.diff(trn.indptr))
        pairs = zip(trn.indices[hidden].tolist(), hashes[rows[hidden]].tolist(), strict=True)
        self.hidden = set(pairs)  # (label, hash of a text)
        by_label = csr_matrix((~hidden, (rows, trn.indices)), shape=trn.shape).tocsc()
        self.starts, self.rows = array("q", [0]), array("q")  # of each label: the rows that it may show
        for label, (start, stop) in enumerate(pairwise(by_label.indptr.tolist())):
            shown: dict[int, int] = {}
            for row in by_label.indices[start:stop][by_label.data[start:stop]].tolist():
                text_hash = int(hashes[row])
                if len(shown) < most and self._may_show(label, text_hash):
                    shown.setdefault(text_hash, row)
            self.rows.extend(shown.values())
            self.starts.append(len(self.rows))
        self.texts: dict[int, str] = {}

    def _may_show(self, label: int, text_hash: int) -> bool:
        return text_hash not in self.secret and (label, text_hash) not in self.hidden

    def see(self, texts: Iterable[str]) -> Iterator[str]:
        """Pass on the texts of the training queries, which come in order, and keep what is needed of them."""
        needed = set(self.rows)
        for row, text in enumerate(texts):
            if row in needed:
                self.texts[row] = text
            yield text

    def of(self, label: int, relevant: list[str]) -> list[str]:
        """The known queries of a label; `relevant` are those that its metadata names."""
        shown: dict[str, str] = {}
        for text in (" ".join(text.split()) for text in relevant):
            if self._may_show(label, hash(comparable(text))):
                shown.setdefault(comparable(text), text)
            else:
                self.withheld += 1
        for row in self.rows[self.starts[label] : self.starts[label + 1]]:
            shown.setdefault(comparable(self.texts[row]), self.texts[row])
        return list(shown.values())[: self.most]


def split_counts(hidden: np.ndarray, tst: csr_matrix) -> dict[str, int]:
    """How many pairs each split has."""
    withheld = int(hidden.sum())
    return {"train": len(hidden) - withheld, "hidden": withheld, "test": int(tst.nnz)}


def pair_rows(
    trn: csr_matrix, hidden: np.ndarray, tst: csr_matrix, points: str, ids: dict[str, RowIds]
) -> Iterator[dict]:
    """The rows of pairs.jsonl, sorted by query and document; `points` says which of the two the rows are."""
    marked = csr_matrix((1 + hidden.astype(np.uint8), trn.indices, trn.indptr), shape=trn.shape)
    test = csr_matrix((np.full(tst.nnz, 3, dtype=np.uint8), tst.indices, tst.indptr), shape=tst.shape)
    pairs, tests = vstack([test, marked], format="csr"), tst.shape[0]
    label = ids["Y"]

    def point(row: int) -> str:
        return ids["tst_X"](row) if row < tests else ids["trn_X"](row - tests)

    if points == "documents":
        pairs = pairs.tocsc()
    pairs.sort_indices()
    query, document = (point, label) if points == "queries" else (label, point)
    for outer, (begin, end) in enumerate(pairwise(pairs.indptr.tolist())):
        name = query(outer)
        inner, splits = pairs.indices[begin:end].tolist(), pairs.data[begin:end].tolist()
        for place, split in zip(inner, splits, strict=True):
            yield {"query_id": name, "document_id": document(place), "split": SPLITS[split - 1]}


def filter_rows(filters: dict[str, np.ndarray], points: str, ids: dict[str, RowIds]) -> list[dict]:
    """The rows of filters.jsonl, sorted; `filters` are (row, column) keyed by train and test."""
    rows = []
    for split, pairs in filters.items():
        point = ids["trn_X" if split == "train" else "tst_X"]
        names = ((point(row), ids["Y"](column)) for row, column in pairs.tolist())
        rows += [(*(pair if points == "queries" else pair[::-1]), split) for pair in names]
    fields = ("query_id", "document_id", "split")
    return [dict(zip(fields, row, strict=True)) for row in sorted(rows)]
