"""Hard negatives of a task's rows: keys that a ranking finds, but that are not what the query asks for.

What is left out, in this order, each counted: known positives, of the row and of any other with its query;
keys whose text equals that of a positive; keys that hold an answer; keys that score too well to be wrong, by
their distance to the best positive (NV-Retriever, arXiv 2407.15831) or by a bound.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stages.kinds.retriever.knobs import MineKnobs
from stages.kinds.retriever.parts.rows import Keys, Row, folded
from stages.retrieval.ranking import Hits

# Scores of some keys for each row, by their numbers.
Scores = Callable[[list[list[int]]], list[np.ndarray]]


def own_candidates(row: Row, keys: Keys) -> list[str]:
    """The row's own candidates less its positives and what reads like one, in their order."""
    texts = {keys.folded[keys.number[key]] for key in row["pos"]}
    return [k for k in row["among"] if k not in row["pos"] and keys.folded[keys.number[k]] not in texts]


def mine(
    rows: Sequence[Row], keys: Keys, known: Iterable[Row], hits: Hits, knobs: MineKnobs, scores: Scores | None
) -> Counter:
    """Give each of `rows` its `neg`, from its `hits`, best first; returns the counts.

    known: rows whose positives count for any row of the same query. scores: what margins and the bound are
    about; None where there is none of these.
    """
    counts: Counter[str] = Counter(queries=len(rows))
    positives: dict[str, set[str]] = defaultdict(set)
    for row in known:
        positives[folded(row["query"])].update(row["pos"])
    own: list[list[int]] = []
    found: list[list[int]] = []
    for number, row in enumerate(rows):
        own.append(sorted(keys.number[key] for key in positives[folded(row["query"])]))
        equal = {keys.folded[key] for key in own[-1]}
        answers = [folded(answer) for answer in row.get("answers", []) if answer.strip()]
        found.append([])
        for key in hits.of(number)[0][knobs.rank_from : knobs.rank_to or None].tolist():
            if key in own[-1]:
                counts["known_positives"] += 1
            elif keys.folded[key] in equal:
                counts["equal_texts"] += 1
            elif knobs.filter_answers and any(answer in keys.folded[key] for answer in answers):
                counts["with_an_answer"] += 1
            else:
                found[-1].append(key)
    if scores is not None:
        judged = zip(found, scores(found), scores(own), strict=True)
        fits = [np.array(some)[of <= limit(best, knobs)].tolist() for some, of, best in judged]
        counts["too_good"] = sum(map(len, found)) - sum(map(len, fits))
        found = fits
    for row, chosen in zip(rows, found, strict=True):
        row["neg"] = [keys.ids[key] for key in chosen[: knobs.negatives]]
        counts["negatives"] += len(row["neg"])
        counts["too_few"] += len(row["neg"]) < knobs.negatives
        counts["none"] += not row["neg"]
    return counts


def limit(positives: np.ndarray, knobs: MineKnobs) -> float:
    """The highest score that a negative may have, by the scores of the row's positives."""
    limits = [knobs.max_score if knobs.max_score is not None else np.inf]
    if len(positives):
        best = float(positives.max())
        limits.append(best - (knobs.margin_absolute or 0))
        limits.append(best - (knobs.margin_relative or 0) * abs(best))
    return min(limits)
