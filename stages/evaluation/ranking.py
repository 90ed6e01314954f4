"""How well rankings find the right keys: measures at cut-offs, tables with paired intervals, TREC files.

Every query with a right key counts: one that finds none scores 0. For a query with the set L of right keys:

    mrr@c     1 / rank of the first right key, if that is at most c
    hit@c     is a right key among the first c?
    recall@c  |L ∩ first c| / |L|
    ndcg@c    Σ 1/log2(rank + 1) over right keys among the first c, by the same of an ideal ranking
    map@c     Σ over right keys among the first c of the precision at their rank, by |L| (as trec_eval)
    answer_recall@c  does one of the first c texts contain an answer, as a run of tokens?
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from unicodedata import normalize
from urllib.parse import quote

import numpy as np
import regex

from stages.core.files import write_text
from stages.evaluation.bootstrap import Interval, grouped_intervals

# Of DPR (Karpukhin et al. 2020): words, and each other character that is neither blank nor control.
TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
VISIBLE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # of ASCII, what a TREC file may have in an id

Table = dict[str, dict[str, Interval | None]]


# Measures


def ranks_of(
    ranked: Iterable[str], right: Collection[str], same: Mapping[str, str] | None = None
) -> list[int]:
    """The ranks, from 1, of the right ids in a ranking. Of ids that are the `same`, only the first counts."""
    own, found = same or {}, {}
    for rank, name in enumerate(ranked, start=1):
        if (group := own.get(name, name)) in right:
            found.setdefault(group, rank)
    return list(found.values())


def measured(
    ranks: Sequence[int], right: int, measures: Iterable[str], cutoffs: Iterable[int]
) -> list[float]:
    """Each of `measures` at each cut-off, from the ascending ranks of those found of `right` > 0 keys."""
    at = np.array(ranks, dtype=np.float64)
    formulas: dict[str, Callable[[np.ndarray, int], float]] = {
        "mrr": lambda own, cutoff: 1 / own[0] if len(own) else 0,
        "hit": lambda own, cutoff: len(own) > 0,
        "recall": lambda own, cutoff: len(own) / right,
        "ndcg": lambda own, cutoff: discounted(own) / discounted(np.arange(1, min(right, cutoff) + 1)),
        "map": lambda own, cutoff: float((np.arange(1, len(own) + 1) / own).sum()) / right,
    }
    return [float(formulas[name](at[at <= cutoff], cutoff)) for name in measures for cutoff in cutoffs]


def discounted(ranks: np.ndarray) -> float:
    return float((1 / np.log2(ranks + 1)).sum())


def graded_ndcg(gains: Sequence[float]) -> float:
    """The nDCG of a whole ranking, from gains of 0 or more in its order; NaN if all are 0."""
    weights = 1 / np.log2(np.arange(2, len(gains) + 2))
    ideal = float(np.sort(gains)[::-1] @ weights)
    return float(gains @ weights) / ideal if ideal else np.nan


@lru_cache(maxsize=1 << 14)  # a key is found by many queries
def answer_tokens(text: str) -> str:
    """The tokens of a text, in lower case and decomposed, each between two line feeds."""
    return "\n" + "\n".join(TOKEN.findall(normalize("NFD", text).lower())) + "\n"


def answer_rank(texts: Iterable[str], answers: Sequence[str]) -> list[int]:
    """The rank of the first text that has one of the answers, in a list; [] for none."""
    wanted = [tokens for tokens in map(answer_tokens, answers) if tokens.strip()]
    read = enumerate(map(answer_tokens, texts), start=1)
    return next(([rank] for rank, text in read if any(tokens in text for tokens in wanted)), [])


# Tables


def table(
    values: Mapping[str, np.ndarray],
    measures: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    groups: Sequence[str],
    resamples: int,
    seed: int,
    finish: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> dict[str, Table | dict[str, Table]]:
    """{system: {measure: mean and interval}} and, under `differences`, the same of "one-other" in `pairs`.

    `values` has for each system (rows, columns), NaN where a measure is not defined for a row; `finish` makes
    the `measures` (any number, systems, measures) of the columns' means. Groups of rows are resampled, the
    same ones for all systems: the intervals of differences are those of paired tests.
    """
    systems = list(values)
    known = [(one, other) for one, other in pairs if one in values and other in values]

    def statistic(means: np.ndarray) -> np.ndarray:
        made = finish(means.reshape(len(means), len(systems), -1))
        gained = [made[:, systems.index(one)] - made[:, systems.index(other)] for one, other in known]
        return np.concatenate([made.reshape(len(means), -1), *gained], axis=1)

    columns = np.concatenate([values[system] for system in systems], axis=1)
    found = iter(grouped_intervals(columns, groups, resamples, seed, statistic))
    names = [*systems, *(f"{one}-{other}" for one, other in known)]
    rows = {name: {measure: next(found) for measure in measures} for name in names}
    return {
        **{system: rows[system] for system in systems},
        "differences": {name: rows[name] for name in names[len(systems) :]},
    }


# Files for trec_eval, ir-measures, pytrec_eval


def write_run(path: Path, tag: str, rankings: Mapping[str, Iterable[tuple[str, float]]]) -> None:
    """{query: (key, score), best first} as a TREC run. Equal scores are made to fall: tools break ties."""
    lines = []
    for query, ranked in rankings.items():
        last = np.inf
        for rank, (key, score) in enumerate(ranked, start=1):
            last = min(float(score), float(np.nextafter(last, -np.inf)))
            lines.append(f"{_id(query)} Q0 {_id(key)} {rank} {last!r} {tag}\n")
    write_text(path, "".join(lines))


def write_qrels(path: Path, right: Mapping[str, Iterable[str]]) -> None:
    pairs = chain.from_iterable(((query, key) for key in keys) for query, keys in right.items())
    write_text(path, "".join(f"{_id(query)} 0 {_id(key)} 1\n" for query, key in pairs))


def _id(name: str) -> str:
    """Fields stand between blanks, so an id has none: these, % and other scripts are as in an address."""
    return quote(name, safe=VISIBLE)
