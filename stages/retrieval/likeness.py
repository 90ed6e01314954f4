"""How near texts are to each other, by an encoder's vectors, and how near they are by chance."""

from collections.abc import Iterable, Sequence

import numpy as np

from stages.retrieval.knobs import is_none
from stages.retrieval.vectors import Vectors, prompt_of


class Likeness:
    """Cosines of texts, each as a document of a sentence-transformers directory; NaN where there is none."""

    def __init__(self, encoder: str, texts: Iterable[str]):
        """`encoder`: the directory, or one that stands for none. Raises UserError for any other."""
        self.places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self.vectors = np.full((len(self.places), 1), np.nan)
        if not is_none(encoder, "encoder"):
            stored = Vectors().of(list(self.places), encoder, 0, prompt_of(encoder, "document"))
            self.vectors = np.asarray(stored, dtype=np.float64)
            self.vectors /= np.linalg.norm(self.vectors, axis=1, keepdims=True)  # rounded to 16 bits

    def of(self, text: str, other: str) -> float:
        """The cosine of two texts that are known; 0 where one of them is empty."""
        cosine = float(self.vectors[self.places[text]] @ self.vectors[self.places[other]])
        return cosine if (text.strip() and other.strip()) or np.isnan(cosine) else 0.0

    def floor(self, references: Sequence[str]) -> float:
        """The mean cosine of all pairs of different references; NaN where there is no pair.

        That is what answers get that have nothing to do with their questions: reference answers, shuffled.
        """
        own = self.vectors[[self.places[text] for text in dict.fromkeys(references)]]
        pairs = len(own) * (len(own) - 1)
        return float((own.sum(axis=0) ** 2).sum() - len(own)) / pairs if pairs else np.nan


def calibrated(cosine: float, floor: float) -> float:
    """A cosine scaled so that `floor` is 0 and equality 1. Not clipped: clipped means would be above 0."""
    return (cosine - floor) / (1 - floor)
