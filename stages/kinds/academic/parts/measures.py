"""Measures of an answer about a paper: cosine with its reference, does it say that the text says nothing?"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from stages.retrieval.knobs import is_none
from stages.retrieval.vectors import Vectors, prompt_of

# What says that the text does not answer: the text does not say it, or it is not said in the text. Of the 267
# answers held out in the data of David & Goliath 84 do, by reading, and by this.
TEXT = r"(?:text|passage|context|article|paper|document|chunk|excerpt|section|literature|information)s?"
TELL = r"""(?:say|state|mention|specify|provide|contain|include|give|tell|answer|discuss|describe|explain|
    indicate|address|cover|detail|define|report)"""
NOT_SAID = re.compile(
    rf"""\b{TEXT}\b [^.]{{0,40}}? \b(?:do|does|did|has|have)(?:\ not|n['’]t)\ (?:\w+\ ){{0,2}}?{TELL}
    | \b(?:is|are|was|were)(?:\ not|n['’]t)\ (?:\w+\ ){{0,2}}?
      (?:said|stated|mentioned|specified|provided|given|told|answered|discussed|described|available)
      (?: \W*\Z | \b[^.]{{0,20}}\b{TEXT}\b )
    | \bno\ (?:\w+\ )?(?:information|mention|answer)\b | \bnot\ enough\ information\b | \bunanswerable\b
    | \b(?:cannot|can\ not|can['’]t|could\ not)\ be\ (?:answered|determined|inferred|found)\b
    | \bdo(?:\ not|n['’]t)\ know\b""",
    re.I | re.X,
)
SENTENCE = re.compile(r"(?<=[.!?。！？])\s")
ENDED = re.compile(r"[.!?…。！？][\"'”’)\]*]*\Z")


def says_not(answer: str) -> bool:
    """Does an answer begin by saying that the text does not answer the question?"""
    return bool(NOT_SAID.search(SENTENCE.split(answer.strip(), maxsplit=1)[0]))


def ended(answer: str) -> bool:
    """Does an answer end as a sentence does? What can be known of one whose last token is not known."""
    return bool(ENDED.search(answer.strip()))


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
