"""What is wrong with an answer, claim by claim, after RAGChecker (Ru et al. 2024): its claims against the
reference, the reference's against it, and both against the passages.

Which text entails which claim is for a plug-in to say, `entails(text, claim)`. Claims are sentences, and
`stands_in` is a local stand-in for a model of entailment: it compares words, so it sees neither a changed
number nor a negation. `validated` measures that.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import mannwhitneyu

from stages.core.text import STEMMER, content_words

STAND_IN = "sentences, entailed where 60% of their content stems stand in one sentence: a local stand-in"
SHARE = 0.6
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
NEGATED = re.compile(r"\b(is|are|was|were|can|may|must|will|should|does|do|has|have)\b(?! not)")
CORRUPTIONS = ("numbers", "negation", "another")

Entails = Callable[[str, str], bool]


@lru_cache(maxsize=1 << 16)
def stems_of(text: str) -> frozenset[str]:
    return frozenset(STEMMER.stemWords(content_words(text)))


@lru_cache(maxsize=1 << 16)
def claims_of(text: str) -> list[str]:
    """The sentences of a text that have a word beside stop words."""
    return [sentence for sentence in SENTENCE_END.split(text) if stems_of(sentence)]


@lru_cache(maxsize=1 << 18)  # a reference's claims meet the same passages for every system
def stands_in(text: str, claim: str) -> bool:
    """Do SHARE of the claim's content stems stand in one sentence of the text?"""
    wanted = stems_of(claim)
    least = SHARE * len(wanted)
    if len(wanted & stems_of(text)) < least:
        return False
    return any(len(wanted & stems_of(sentence)) >= least for sentence in claims_of(text))


def diagnosis(
    answer: str, reference: str, passages: Sequence[str], entails: Entails = stands_in
) -> dict[str, float]:
    """The measures that docs/kinds/rag/measures.md defines; NaN without claims, or without passages."""
    own, wanted = claims_of(answer), claims_of(reference)
    right = np.array([entails(reference, claim) for claim in own], bool)
    told = np.array([entails(answer, claim) for claim in wanted], bool)
    holds, needed = (
        np.array([[entails(text, claim) for text in passages] for claim in claims], bool).reshape(
            len(claims), len(passages)
        )
        for claims in (own, wanted)
    )
    relevant, recalled = needed.any(axis=0), needed.any(axis=1)  # passages; claims of the reference
    by_any, by_relevant = holds.any(axis=1), holds[:, relevant].any(axis=1)
    nothing = np.empty(0)  # to take a share of
    of_passages = {
        "claim_recall": recalled,
        "context_precision": relevant if wanted else nothing,
        "utilisation": told[recalled],
        "noise_relevant": ~right & by_relevant,
        "noise_irrelevant": ~right & by_any & ~by_relevant,
        "hallucination": ~right & ~by_any,
        "self_knowledge": right & ~by_any,
        "faithfulness": by_any,
    }
    shares = {"claim_precision": right, "claim_coverage": told}
    shares |= of_passages if passages else dict.fromkeys(of_passages, nothing)
    return {name: float(which.mean()) if len(which) else np.nan for name, which in shares.items()}


# How good the judgement is


def corrupted(answer: str, another: str) -> dict[str, str]:
    """The answer made wrong in each of CORRUPTIONS that changes it."""
    made = {
        "numbers": re.sub(r"\d(?!\d)", lambda last: str((int(last[0]) + 3) % 10), answer),
        "negation": NEGATED.sub(r"\1 not", answer),
        "another": another,
    }
    return {kind: text for kind, text in made.items() if text != answer}


def validated(rows: Sequence[tuple[str, Sequence[str]]], entails: Entails = stands_in) -> dict:
    """How well faithfulness tells right answers from corrupted ones, of rows (answer, passages).

    {corruption: {"rows", "auc"}}: the chance that a right one scores above a corrupted one, ties half.
    """
    scores: dict[str, list[tuple[float, float]]] = {kind: [] for kind in CORRUPTIONS}
    for place, (answer, passages) in enumerate(rows):
        for kind, text in corrupted(answer, rows[place - 1][0]).items():
            both = [diagnosis(one, answer, passages, entails)["faithfulness"] for one in (answer, text)]
            if not np.isnan(both).any():
                scores[kind].append((both[0], both[1]))
    return {
        kind: {"rows": len(own), "auc": auc(*zip(*own, strict=True)) if own else None}
        for kind, own in scores.items()
    }


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The area under the ROC curve, as a share of pairs."""
    return round(float(mannwhitneyu(right, wrong).statistic) / len(right) / len(wrong), 4)
