"""What finds passages for questions: one for a dataset's training rows, its answers and those who ask."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from sentence_transformers import CrossEncoder

from stages.core.errors import UserError
from stages.retrieval.bm25 import Bm25
from stages.retrieval.knobs import MODEL, Retrieving, method_of
from stages.retrieval.passages import Passage, titled
from stages.retrieval.ranking import Hits, by_bm25, by_dense, by_hybrid, load_reranker, reranked
from stages.retrieval.vectors import Vectors, prompt_of

# Documents seldom hold the words that ask, so BM25 takes these for rare, telling ones. Without them all gold
# passages are among the first four for .838 of pydoc's training questions, with them for .785.
ASKING = frozenset(
    """a an are can could did do does get how i if is it its me my should the there was were what when where
    which who why will would you""".split()
)


def without_asking(question: str) -> str:
    """The words of a question that say what it is about; all of them where none is left."""
    return " ".join(word for word in question.split() if word.lower().strip("?,.") not in ASKING) or question


class Retriever:
    """Finds passages for questions. Models are loaded, and passages read, when they are needed.

    Raises UserError where there is no passage, and for an encoder that does not fit `by`.
    """

    def __init__(self, passages: Mapping[str, Passage], knobs: Retrieving) -> None:
        if not passages:
            raise UserError("no passage to retrieve from; put documents there and make the passages again")
        if method_of(knobs.encoder, "encoder", ("none",)) != MODEL and knobs.by != "bm25":
            raise UserError(
                f"encoder: {knobs.encoder}: by {knobs.by} needs a sentence-transformers directory"
            )
        self.knobs, self.ids = knobs, list(passages)
        self.texts = [titled(passage) for passage in passages.values()]
        self.vectors = Vectors()

    @cached_property
    def words(self) -> Bm25:
        return Bm25(self.texts)

    @cached_property
    def keys(self) -> np.ndarray:
        """The passages' vectors: to find them in scratch, all texts are hashed."""
        return self._vectors(self.texts, "document")

    @cached_property
    def reranker(self) -> CrossEncoder | None:
        return load_reranker(self.knobs.reranker)

    def find(self, questions: Sequence[str], count: int) -> list[tuple[list[str], list[float]]]:
        """(ids, scores) of the best `count` passages of each question, best first; fewer share a word."""
        ranked = self._hits(questions, max(count, self.knobs.rerank if self.reranker else 0))
        if self.reranker is not None:
            ranked = reranked(self.reranker, questions, self.texts, ranked, self.knobs.rerank)
        found = []
        for row in range(len(questions)):
            numbers, scores = ranked.of(row)
            ids = [self.ids[number] for number in numbers[:count]]
            found.append((ids, [round(float(score), 4) for score in scores[:count]]))
        return found

    def _hits(self, questions: Sequence[str], count: int) -> Hits:
        about = [without_asking(question) for question in questions]
        if self.knobs.by == "bm25":
            return by_bm25(self.words, about, count)
        asked = self._vectors(questions, "query")
        if self.knobs.by == "dense":
            return by_dense(asked, self.keys, count)
        return by_hybrid(asked, self.keys, self.words, about, count, weight=self.knobs.bm25_weight)

    def _vectors(self, texts: Sequence[str], side: str) -> np.ndarray:
        folder = self.knobs.encoder
        return self.vectors.of(texts, folder, self.knobs.max_length, prompt_of(folder, side))
