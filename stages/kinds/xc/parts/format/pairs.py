"""The pairs of an XC dataset: which are withheld, which queries a prompt may show, and their rows on disk.

Points are numbered as the corpus sorts them: the test points first (`t…`), then the training points (`x…`).
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix, vstack

from stages.kinds.xc.parts.format.texts import Texts, line_hashes
from stages.kinds.xc.parts.mapping import among

AT_ONCE = 1 << 16
LEAST_DIGITS = 7
SPLITS = ("train", "hidden", "test")


class Ids:
    """The ids of a set of rows: a letter and the row's number, padded so that they sort by it."""

    def __init__(self, letter: str, rows: int):
        self.form = f"{letter}{{:0{max(LEAST_DIGITS, len(str(max(rows - 1, 0))))}d}}"

    def __call__(self, row: int) -> str:
        return self.form.format(row)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64 hashes of uint64 numbers (splitmix64; Steele, Lea and Flood 2014)."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hidden_pairs(trn: csr_matrix, share: float) -> np.ndarray:
    """bool (nnz): the pairs to withhold, `share` of all by a hash of row and column.

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
        self,
        trn: csr_matrix,
        hidden: np.ndarray,
        hashes: np.ndarray,
        test_hashes: np.ndarray,
        most: int,
    ):
        rows = np.repeat(np.arange(trn.shape[0]), np.diff(trn.indptr))
        self.most, self.withheld = most, 0
        self.secret = np.sort(np.concatenate([test_hashes, line_hashes([""])]))
        self.hidden = np.sort(_of_pairs(trn.indices[hidden], hashes[rows[hidden]]))
        order = np.argsort(trn.indices[~hidden], kind="stable")
        labels, rows = trn.indices[~hidden][order], rows[~hidden][order]
        kept = self._allowed(labels, hashes[rows])
        labels, rows = labels[kept], rows[kept]
        _, once = np.unique(_of_pairs(labels, hashes[rows]), return_index=True)
        once.sort()
        labels, rows = labels[once], rows[once]
        every = np.arange(trn.shape[1] + 1)
        few = np.arange(len(labels)) - np.searchsorted(labels, every)[labels] < most
        self.starts, chosen = np.searchsorted(labels[few], every), rows[few]
        self.rows, self.slots = np.unique(chosen, return_inverse=True)
        self.texts = Texts()

    def _allowed(self, labels: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """bool (texts,): may the texts with these hashes be shown for these labels?"""
        return ~(among(hashes, self.secret) | among(_of_pairs(labels, hashes), self.hidden))

    def see(self, first: int, texts: list[str]) -> None:
        """Keep what is needed of the training queries from row `first` on; they come in order."""
        low, high = np.searchsorted(self.rows, [first, first + len(texts)])
        for row in self.rows[low:high].tolist():
            self.texts.append(texts[row - first])

    def of(self, first: int, relevant: list[list[str]]) -> list[list[str]]:
        """The known queries of the labels from `first` on; `relevant` are those that their metadata names."""
        relevant = [[" ".join(text.split()) for text in texts] for texts in relevant]
        labels = np.repeat(np.arange(first, first + len(relevant)), [len(texts) for texts in relevant])
        hashes = line_hashes(text for texts in relevant for text in texts)
        allowed = iter(self._allowed(labels, hashes).tolist())
        known = []
        for label, texts in enumerate(relevant, start=first):
            shown = [text for text in texts if next(allowed)]
            self.withheld += len(texts) - len(shown)
            slots = self.slots[self.starts[label] : self.starts[label + 1]].tolist()
            shown += map(self.texts.__getitem__, slots)
            once: dict[str, str] = {}
            for text in shown:
                once.setdefault(text.casefold(), text)
            known.append(list(once.values())[: self.most])
        return known


def _of_pairs(labels: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """uint64 hashes of (label, text)."""
    return mixed(labels) ^ hashes.view(np.uint64)


def split_counts(hidden: np.ndarray, tst: csr_matrix) -> dict[str, int]:
    """How many pairs each split has."""
    withheld = int(hidden.sum())
    return {"train": len(hidden) - withheld, "hidden": withheld, "test": int(tst.nnz)}


def pair_rows(
    trn: csr_matrix, hidden: np.ndarray, tst: csr_matrix, points: str, ids: dict[str, Ids]
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
    for start in range(0, len(pairs.indptr) - 1, AT_ONCE):
        bounds = pairs.indptr[start : start + AT_ONCE + 1].tolist()
        inner = pairs.indices[bounds[0] : bounds[-1]].tolist()
        splits = pairs.data[bounds[0] : bounds[-1]].tolist()
        for outer, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False), start=start):
            name = query(outer)
            for place in range(begin - bounds[0], end - bounds[0]):
                split = SPLITS[splits[place] - 1]
                yield {"query_id": name, "document_id": document(inner[place]), "split": split}


def filter_rows(filters: dict[str, np.ndarray], points: str, ids: dict[str, Ids]) -> list[dict]:
    """The rows of filters.jsonl, sorted; `filters` are (row, column) keyed by train and test."""
    rows = []
    for split, pairs in filters.items():
        point = ids["trn_X" if split == "train" else "tst_X"]
        names = ((point(row), ids["Y"](column)) for row, column in pairs.tolist())
        rows += [(*(pair if points == "queries" else pair[::-1]), split) for pair in names]
    fields = ("query_id", "document_id", "split")
    return [dict(zip(fields, row, strict=True)) for row in sorted(rows)]
