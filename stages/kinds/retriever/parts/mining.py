"""Hard negatives of a task's rows: keys that a ranking finds, but that are not what the query asks for.

What is left out, in this order, each counted: known positives, of the row and of any other with its query;
keys whose text equals that of a positive; keys that hold an answer; keys that score too well to be wrong, by
their distance to the best positive (NV-Retriever, arXiv 2407.15831) or by a bound.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stages.core.messages import say
from stages.kinds.retriever.knobs import MineKnobs
from stages.kinds.retriever.parts.rows import Keys, Row, folded
from stages.retrieval.bm25 import Bm25
from stages.retrieval.neighbours import exact_scores
from stages.retrieval.ranking import Hits, by_bm25, by_dense, by_hybrid, load_reranker, pair_scores
from stages.retrieval.vectors import Vectors

# Scores of some keys for each row, by their numbers.
Scores = Callable[[list[list[int]]], list[np.ndarray]]


def mined(keys: Keys, rows: list[Row], knobs: MineKnobs, vectors: Vectors) -> dict:
    """Give the rows of a task their negatives; returns what was counted."""
    counts = Counter(rows=len(rows), brought=sum("neg" in row for row in rows))
    for row in rows:
        if "among" in row and "neg" not in row:
            # its own candidates less its positives and what reads like one, in their order
            texts = {keys.folded[keys.number[key]] for key in row["pos"]}
            row["neg"] = [key for key in row["among"] if keys.folded[keys.number[key]] not in texts]
            counts["own_candidates"] += 1
    todo = [row for row in rows if "neg" not in row] if keys.task in knobs.tasks else []
    if todo:
        hits, scores = ranked(keys, todo, knobs, vectors)
        counts += mine(todo, keys, rows, hits, knobs, scores)
        if counts["too_few"]:
            say(
                f"mine: {keys.task}: {counts['too_few']} of {len(todo)} queries found fewer than "
                f"{knobs.negatives} negatives, {counts['none']} of them none, among {len(keys.ids)} keys"
            )
    return dict(counts)


def ranked(keys: Keys, rows: list[Row], knobs: MineKnobs, kept: Vectors) -> tuple[Hits, Scores | None]:
    """The hits of the rows' queries, and what margins and max_score are about, if any of them is set."""
    queries = [row["query"] for row in rows]
    index = Bm25(keys.texts, knobs.k1, knobs.b) if knobs.by != "dense" else None
    texts = [] if knobs.by == "bm25" else [queries, keys.texts]
    vectors = [kept.of(part, knobs.encoder, knobs.max_length) for part in texts]
    if index is None:
        hits = by_dense(*vectors, knobs.hits, search=knobs)
    elif not vectors:
        hits = by_bm25(index, queries, knobs.hits)
    else:
        hits = by_hybrid(*vectors, index, queries, knobs.hits, weight=knobs.bm25_weight)
    model = load_reranker(knobs.reranker)

    def scores(numbers: list[list[int]]) -> list[np.ndarray]:
        if model is None and not vectors:
            return [index.scores(query)[own] for query, own in zip(queries, numbers, strict=True)]
        pairs = [(row, key) for row, own in enumerate(numbers) for key in own]
        if model is None:
            made = exact_scores(*vectors, *np.array(pairs, int).reshape(-1, 2).T)
        else:
            made = pair_scores(model, [(queries[row], keys.texts[key]) for row, key in pairs])
        return np.split(made, np.cumsum([len(own) for own in numbers])[:-1])

    bounds = knobs.margin_absolute, knobs.margin_relative, knobs.max_score
    return hits, scores if model is not None or bounds != (None, None, None) else None


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
