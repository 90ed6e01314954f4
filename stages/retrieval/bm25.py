"""BM25 over texts: their scores for a query, and at which rank a line finds its own page."""

from collections.abc import Sequence

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN
from bm25s.tokenization import Tokenized

from stages.core.text import tokens

K1, B = 0.82, 0.68  # the setting tuned on MS MARCO passages (Anserini); Lucene's variant of the formula


class Bm25:
    """An index (bm25s, numpy) over texts: stems with identifier parts, less Lucene's stop words."""

    def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B):
        self.count = len(texts)
        self.vocabulary: dict[str, int] = {}
        stop, number = frozenset(STOPWORDS_EN), self.vocabulary.setdefault
        ids = [[number(t, len(self.vocabulary)) for t in tokens(text) if t not in stop] for text in texts]
        if not self.vocabulary:  # texts without a word, which bm25s cannot index
            ids, self.vocabulary = [[0] for _ in texts], {"": 0}
        self.index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        self.index.index(Tokenized(ids=ids, vocab=self.vocabulary), show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """float32 (texts,): the score of every text; zeros where no word is shared."""
        known = [self.vocabulary[t] for t in tokens(query) if t in self.vocabulary]
        return self.index.get_scores_from_ids(known)

    def rank(self, query: str, target: int) -> int:
        """The 1-based rank of text `target`; ties count against it: it is the last of its score."""
        scores = self.scores(query)
        return int((scores >= scores[target]).sum())

    def within(self, query: str, target: int, rank: int) -> bool:
        """Is text `target` among the first `rank`, and not for want of others? It must share a word."""
        scores = self.scores(query)
        return bool(scores[target] > 0 and (scores >= scores[target]).sum() <= rank)
