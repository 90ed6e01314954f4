"""How near an answer is to a reference text.

    f1, precision, recall  of words without case, punctuation and articles, as SQuAD's (Rajpurkar et al. 2016)
    rouge_1, rouge_2       F of words and of pairs of words (Lin 2004), as rouge_score's without a stemmer
    rouge_l                F of the longest common subsequence, as there
    bleu                   of all answers together (Papineni et al. 2002), unsmoothed, as sacrebleu's
    bleu_mean              mean of the BLEU of each answer, unsmoothed, as LocalRQA reports it

All are from 0 to 1. Words are those of the measure as published, of ASCII letters in ROUGE, or (`unicode`)
those of any script.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from stages.core.text import plain_words

NGRAMS = 4
COUNTS = 2 * NGRAMS + 2  # what BLEU is made of: matches and n-grams by length, words of answer and reference
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# mteval-v13a, the tokenizer of NIST: punctuation apart, but . and , between digits, and - but after one. Its
# first line sets blanks apart, too, which changes no word: without them it takes half the time.
V13A = (
    (re.compile(r"([{-~\[-`!-&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
V13A_BEFORE = {"<skipped>": "", "-\n": "", "\n": " ", "&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


class Words(NamedTuple):
    """A text as the measures read it: SQuAD's words, ROUGE's words, pairs of these, and their order."""

    squad: Counter
    one: Counter
    two: Counter
    order: list[str]


@lru_cache(maxsize=1 << 16)  # a passage is compared with the answers of many systems
def words_in(text: str, unicode: bool = False) -> Words:
    if unicode:
        order = plain_words(text)
        squad = [word for word in order if not ARTICLES.fullmatch(word)]
    else:
        order = re.findall("[a-z0-9]+", text.lower())
        squad = ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()
    return Words(Counter(squad), Counter(order), Counter(pairwise(order)), order)


def overlaps(target: str, answer: str, unicode: bool = False) -> dict[str, float]:
    """F1, precision, recall and ROUGE of an answer and what it should say; 0 where nothing is shared."""
    own, wanted = words_in(answer, unicode), words_in(target, unicode)
    precision, recall, f1 = shared(own.squad, wanted.squad)
    in_order = common_subsequence(wanted.order, own.order)
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "rouge_1": shared(own.one, wanted.one)[2],
        "rouge_2": shared(own.two, wanted.two)[2],
        "rouge_l": of_both(in_order, len(own.order), len(wanted.order))[2],
    }


def shared(own: Counter, wanted: Counter) -> tuple[float, float, float]:
    return of_both(in_common(own, wanted), own.total(), wanted.total())


def in_common(own: Counter, wanted: Counter) -> int:
    return sum(min(own[word], wanted[word]) for word in own.keys() & wanted.keys())


def of_both(common: int, own: int, wanted: int) -> tuple[float, float, float]:
    """Precision, recall and F of so many in common."""
    return (common / own, common / wanted, 2 * common / (own + wanted)) if common else (0.0, 0.0, 0.0)


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence (Hyyrö 2004).

    A row of the usual table is the bits of one number: 27 µs for 65 words and 140, in place of 2 ms.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    row = every = (1 << len(one)) - 1
    for word in other:
        matching = row & places.get(word, 0)
        row = (row + matching | row - matching) & every
    return len(one) - row.bit_count()


# BLEU


@lru_cache(maxsize=1 << 16)
def bleu_ngrams(text: str) -> list[Counter]:
    for found, put in V13A_BEFORE.items():
        text = text.replace(found, put)
    text = f" {text} "
    for pattern, apart in V13A:
        text = pattern.sub(apart, text)
    tokens = text.split()
    return [Counter(zip(*(tokens[n:] for n in range(size)), strict=False)) for size in range(1, NGRAMS + 1)]


def bleu_counts(reference: str, answer: str) -> list[int]:
    """The COUNTS of an answer; those of several are added."""
    own, wanted = bleu_ngrams(answer), bleu_ngrams(reference)
    matches = map(in_common, own, wanted)
    return [*matches, *(grams.total() for grams in own), own[0].total(), wanted[0].total()]


def bleu(counts: np.ndarray) -> np.ndarray:
    """BLEU of counts (any, COUNTS), or of their means: 0 where no n-gram of some length matches."""
    matches, grams = counts[..., :NGRAMS], counts[..., NGRAMS:-2]
    own, wanted = counts[..., -2], counts[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(matches / grams).mean(axis=-1))
        brevity = np.exp(np.minimum(0, 1 - wanted / own))
    return np.nan_to_num(precision * brevity)
