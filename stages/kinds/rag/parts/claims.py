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

from stages.core.text import STEMMER, content_words

DIAGNOSIS = (
    "claim_precision",  # share of the answer's claims that the reference entails
    "claim_coverage",  # share of the reference's claims that the answer entails; RAGChecker calls it recall
    "claim_recall",  # share of the reference's claims that a passage entails
    "context_precision",  # share of passages that entail a claim of the reference: relevant ones
    "utilisation",  # of the reference's claims that a passage entails, the share that the answer entails
    "noise_relevant",  # share of claims that are wrong, and entailed by a relevant passage
    "noise_irrelevant",  # the same of those entailed by other passages alone
    "hallucination",  # share of claims that are wrong, and entailed by no passage
    "self_knowledge",  # share of claims that are right, and entailed by no passage
    "faithfulness",  # share of claims that a passage entails
)
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
) -> list[float]:
    """DIAGNOSIS of an answer; NaN where nothing is defined: without claims, or without passages."""
    own, wanted = claims_of(answer), claims_of(reference)
    right = np.array([entails(reference, claim) for claim in own], bool)
    told = np.array([entails(answer, claim) for claim in wanted], bool)
    holds = np.array([[entails(text, claim) for text in passages] for claim in own], bool)
    needed = np.array([[entails(text, claim) for text in passages] for claim in wanted], bool)
    holds, needed = holds.reshape(len(own), len(passages)), needed.reshape(len(wanted), len(passages))
    relevant, recalled = needed.any(axis=0), needed.any(axis=1)
    by_any, by_relevant = holds.any(axis=1), holds[:, relevant].any(axis=1)
    return [
        share(right),
        share(told),
        share(recalled, len(passages)),
        share(relevant, len(wanted)),
        share(told[recalled]),
        *(
            share(which, len(passages))
            for which in (
                ~right & by_relevant,
                ~right & by_any & ~by_relevant,
                ~right & ~by_any,
                right & ~by_any,
                by_any,
            )
        ),
    ]


def share(which: np.ndarray, others: int = 1) -> float:
    """The share that is true; NaN of none, and where there is nothing that it could be true of."""
    return float(which.mean()) if len(which) and others else np.nan


# How good the judgement is


def corrupted(answer: str, another: str) -> dict[str, str]:
    """The answer made wrong in each of CORRUPTIONS that changes it."""
    made = {
        "numbers": re.sub(r"\d+", lambda number: str(int(number[0]) + 3), answer),
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
            both = [diagnosis(one, answer, passages, entails)[-1] for one in (answer, text)]
            if not np.isnan(both).any():
                scores[kind].append((both[0], both[1]))
    return {
        kind: {"rows": len(own), "auc": auc(*np.array(own).T) if own else None}
        for kind, own in scores.items()
    }


def auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """The area under the ROC curve, as a count of pairs (Mann and Whitney 1947)."""
    ordered = np.sort(wrong)
    below, up_to = (np.searchsorted(ordered, right, side) for side in ("left", "right"))
    return round(float((below + up_to).mean()) / 2 / len(wrong), 4)
