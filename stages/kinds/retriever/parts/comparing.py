"""What is told of the rankings of a task: measures with intervals, hardest misses, scores, leaks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.core.errors import UserError
from stages.evaluation.people import KINDS, one_spelling
from stages.evaluation.ranking import answer_rank, measured, ranks_of, table
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.keys import Keys
from stages.kinds.retriever.parts.rows import Row, Task
from stages.kinds.retriever.parts.systems import PAIRS
from stages.retrieval.ranking import Hits
from stages.sources.near import nearest

ANSWERS = "answer_recall"
MISSES, SHOWN = 15, 400  # rows that are listed of a task; characters of a text
NEAR = 0.5  # similarity of two queries (stages/sources/near.py) from which one nearly repeats the other
EDGES = np.linspace(-1, 1, 41)  # of the histogram of cosines


def compared(
    keys: Keys,
    rows: Sequence[Row],
    hits: Mapping[str, Hits],
    knobs: EvaluateRetrieverKnobs,
    same: Mapping[str, str] | None = None,
) -> dict:
    """{system: {measure@cutoff: interval}} and `differences` of systems; each row has a right key.

    Right keys are `pos`; with `same` these name groups of keys, of which one is as good as any.
    """
    plain, cutoffs = [name for name in knobs.metrics if name != ANSWERS], knobs.cutoffs
    read = [ANSWERS] if ANSWERS in knobs.metrics else []

    def values(row: Row, ranking: list[str]) -> list[float]:
        right = set(row["pos"])
        own = measured(ranks_of(ranking, right, same), len(right), plain, cutoffs)
        if read and row.get("answers"):
            texts = map(keys.text, ranking[: max(cutoffs)])
            return own + measured(answer_rank(texts, row["answers"]), 1, ["hit"], cutoffs)
        return own + [np.nan] * len(cutoffs) * len(read)

    by_system = {
        system: np.array([values(row, keys.found(own, place)) for place, row in enumerate(rows)])
        for system, own in hits.items()
    }
    names = [f"{measure}@{cutoff}" for measure in (*plain, *read) for cutoff in cutoffs]
    groups = [row["group"] for row in rows]
    return table(by_system, names, PAIRS, groups, knobs.bootstrap, knobs.seed)


def compared_pages(
    keys: Keys,
    rows: Sequence[Row],
    hits: Mapping[str, Hits],
    knobs: EvaluateRetrieverKnobs,
    kinds: Sequence[int | None] = (),
) -> dict:
    """`compared` for queries of people and the like: a near-duplicate of a right key is as good as it.

    And under `kinds` the same of the queries of each kind, which are given by their numbers.
    """
    grouped: list[Row] = [{**row, "pos": sorted({keys.same[key] for key in row["pos"]})} for row in rows]
    made = {"queries": len(rows), **compared(keys, grouped, hits, knobs, keys.same)}
    for number, name in enumerate(KINDS):
        if own := [place for place, kind in enumerate(kinds) if kind == number]:
            found = {system: hit.only(own) for system, hit in hits.items()}
            part = compared_pages(keys, [rows[place] for place in own], found, knobs)
            made.setdefault("kinds", {})[name] = part
    return made


def misses(keys: Keys, rows: Sequence[Row], hits: Mapping[str, Hits]) -> list[dict]:
    """The rows whose right key the trained retriever ranks worst, with what each system put first."""
    listed = []
    for place, row in enumerate(rows):
        rankings = {system: keys.found(own, place) for system, own in hits.items()}
        ranks = {system: min(ranks_of(own, row["pos"]), default=None) for system, own in rankings.items()}
        firsts = {system: keys.text(own[0])[:SHOWN] if own else "" for system, own in rankings.items()}
        right = keys.text(row["pos"][0])[:SHOWN]
        listed.append({"query": row["query"][-SHOWN:], "right": right, "ranks": ranks, "firsts": firsts})
    lost = [row for row in listed if row["ranks"]["trained"] != 1]
    return sorted(lost, key=lambda row: -(row["ranks"]["trained"] or np.inf))[:MISSES]


def cosines(keys: Keys, rows: Sequence[Row], hits: Hits) -> dict[str, list[int]]:
    """Histograms over EDGES of the cosine of the best right key, and of the best wrong one, of each row."""
    found: dict[str, list[float]] = {"right": [], "wrong": []}
    for place, row in enumerate(rows):
        best: dict[str, float] = {}
        for key, score in keys.ranking(hits, place):
            best.setdefault("right" if key in row["pos"] else "wrong", score)
        for name, score in best.items():
            found[name].append(score)
    return {name: np.histogram(np.clip(own, -1, 1), EDGES)[0].tolist() for name, own in found.items()}


# Leaks


def check_leaks(where: Path, keys: Keys, rows: Sequence[Row], training: Mapping[str, Task]) -> dict[str, int]:
    """How much of the test rows training knows: right keys, nearly equal queries.

    Raises UserError for a query that is in both: in one task, or in two with the same right text.
    """
    seen = {
        mark: row["id"]
        for name, task in training.items()
        for row in task.rows("train", "val")
        for mark in marks(name, row, task.keys.__getitem__)
    }
    for row in rows:
        if other := next((seen[mark] for mark in marks(keys.task, row, keys.text) if mark in seen), None):
            raise UserError(
                f"{where}, row {row['id']!r}: the training row {other!r} asks the same "
                f"({row['query'][-80:]!r}), so it measures nothing; remove one from what `tasks` reads"
            )
    trained = training.get(keys.task)
    own = trained.rows("train", "val") if trained else []
    known = {trained.keys[key] for row in own for key in row["pos"]}
    alike = nearest([row["query"] for row in rows], [row["query"] for row in own])
    shared = sum(any(keys.text(key) in known for key in row["pos"]) for row in rows)
    near = sum(similarity >= NEAR for similarity, _ in alike)
    return {"right keys that training has": shared, "queries nearly in training": near}


def marks(task: str, row: Row, text_of: Callable[[str], str]) -> Iterator[tuple]:
    """What no two rows of training and test may share. A reply such as "My lord?" may, to other words."""
    query = one_spelling(row["query"])
    if query:
        yield task, query, *(row.get("answers", ()) if "among" in row else ())
    for wording in filter(None, {query, one_spelling(row.get("last", ""))}):
        yield from ((wording, text_of(key)) for key in row["pos"])
