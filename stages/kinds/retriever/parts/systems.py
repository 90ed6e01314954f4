"""The systems that are compared, and how each ranks the keys of a task: all over the same keys.

base and trained: cosines of their vectors; bm25; hybrid: base and bm25, hybrid_trained: trained and bm25;
reranked and hybrid_reranked: the first keys of trained and of hybrid_trained by their scores there and the
cross-encoder's;
trained_last_turn: trained, given the last turn of a conversation alone.
"""

from collections.abc import Sequence

import numpy as np

from stages.core import layout
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.keys import Keys
from stages.kinds.retriever.parts.rows import Row
from stages.retrieval.ranking import Hits, by_bm25, by_dense, by_hybrid, load_reranker, reranked
from stages.retrieval.vectors import Vectors, prompt_of

PAIRS = (
    ("trained", "base"),
    ("hybrid_trained", "bm25"),
    ("hybrid_trained", "hybrid"),
    ("hybrid_trained", "trained"),
    ("reranked", "trained"),
    ("hybrid_reranked", "hybrid_trained"),
    ("trained", "trained_last_turn"),
)


class Systems:
    """Loads each model when it is first needed."""

    def __init__(self, dataset: str, knobs: EvaluateRetrieverKnobs):
        self.knobs = knobs
        self.encoders = {"base": knobs.base, "trained": layout.model(dataset, "retriever").as_posix()}
        self.reranker = load_reranker(knobs.reranker)
        self.kept = Vectors()

    def rank(self, keys: Keys, rows: Sequence[Row]) -> dict[str, Hits]:
        """Each system's hits for each row, whose own candidates, where it has some, are all that count."""
        queries, count = [row["query"] for row in rows], max(self.knobs.hits, *self.knobs.cutoffs)
        among = None
        if any("among" in row for row in rows):
            among = [[keys.number[key] for key in row["among"]] if "among" in row else None for row in rows]
        weight = self.knobs.bm25_weight
        found: dict[str, Hits] = {"bm25": by_bm25(keys.index, queries, count, among)}
        for name, hybrid in (("base", "hybrid"), ("trained", "hybrid_trained")):
            own = self.vectors(name, keys.task, "query", queries)
            theirs = self.vectors(name, keys.task, "document", keys.texts)
            found[name] = by_dense(own, theirs, count, among, self.knobs)
            found[hybrid] = by_hybrid(own, theirs, keys.index, queries, count, among, weight)
        if all("last" in row for row in rows):
            last = self.vectors("trained", keys.task, "query", [row["last"] for row in rows])
            found["trained_last_turn"] = by_dense(last, theirs, count, among, self.knobs)
        if self.reranker:
            both = [found["trained"], found["hybrid_trained"]]  # in one call: most pairs are in both
            joint = Hits(*(np.concatenate(part) for part in zip(*both, strict=True)))
            again = reranked(self.reranker, queries * 2, keys.texts, joint, self.knobs.rerank)
            for half, name in enumerate(("reranked", "hybrid_reranked")):
                found[name] = Hits(*(np.split(part, 2)[half] for part in again))
        return found

    def vectors(self, encoder: str, task: str, side: str, texts: Sequence[str]) -> np.ndarray:
        """float16 unit rows of the texts of a side, query or document, with the encoder's prompt for it."""
        folder = self.encoders[encoder]
        length = self.knobs.query_max_length if side == "query" else self.knobs.key_max_length
        return self.kept.of(texts, folder, length, prompt_of(folder, side, task))
