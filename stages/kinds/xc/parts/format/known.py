"""The observed queries of a label that its prompt may show: none that testing or hiding keeps secret."""

import numpy as np
from scipy.sparse import csr_matrix

from stages.kinds.xc.parts.format.pairs import mixed
from stages.kinds.xc.parts.format.texts import Texts, line_hashes
from stages.kinds.xc.parts.mapping import among


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
