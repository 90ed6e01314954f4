"""The systems that are compared, and what is told of their rankings: measures, misses, scores, leaks.

base and trained: cosines of their vectors; bm25; hybrid: base and bm25, hybrid_trained: trained and bm25;
reranked and hybrid_reranked: the first keys of trained and of hybrid_trained by their scores there and the
cross-encoder's; trained_last_turn: trained, given the last turn of a conversation alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.core import layout
from stages.core.errors import UserError
from stages.evaluation.people import KINDS, one_spelling
from stages.evaluation.ranking import answer_rank, measured, ranks_of, table
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.rows import Keys, Row, Task
from stages.retrieval.ranking import Hits, by_bm25, by_dense, by_hybrid, load_reranker, reranked
from stages.retrieval.vectors import Vectors, prompt_of
from stages.sources.near import nearest

PAIRS = (
    ("trained", "base"),
    ("hybrid_trained", "bm25"),
    ("hybrid_trained", "hybrid"),
    ("hybrid_trained", "trained"),
    ("reranked", "trained"),
    ("hybrid_reranked", "hybrid_trained"),
    ("trained", "trained_last_turn"),
)


class Systems:
    """Loads each model when it is first needed."""

    def __init__(self, dataset: str, knobs: EvaluateRetrieverKnobs):
        self.knobs = knobs
        self.encoders = {"base": knobs.base, "trained": layout.model(dataset, "retriever").as_posix()}
        self.reranker = load_reranker(knobs.reranker)
        self.kept = Vectors()

    def rank(self, keys: Keys, rows: Sequence[Row]) -> dict[str, Hits]:
        """Each system's hits for each row, whose own candidates, where it has some, are all that count."""
        queries, count = [row["query"] for row in rows], max(self.knobs.hits, *self.knobs.cutoffs)
        among = None
        if any("among" in row for row in rows):
            among = [[keys.number[key] for key in row["among"]] if "among" in row else None for row in rows]
        weight = self.knobs.bm25_weight
        found: dict[str, Hits] = {"bm25": by_bm25(keys.index, queries, count, among)}
        for name, hybrid in (("base", "hybrid"), ("trained", "hybrid_trained")):
            own = self.vectors(name, keys.task, "query", queries)
            theirs = self.vectors(name, keys.task, "document", keys.texts)
            found[name] = by_dense(own, theirs, count, among, self.knobs)
            found[hybrid] = by_hybrid(own, theirs, keys.index, queries, count, among, weight)
        if all("last" in row for row in rows):
            last = self.vectors("trained", keys.task, "query", [row["last"] for row in rows])
            found["trained_last_turn"] = by_dense(last, theirs, count, among, self.knobs)
        if self.reranker:
            both = [found["trained"], found["hybrid_trained"]]  # in one call: most pairs are in both
            joint = Hits(*(np.concatenate(part) for part in zip(*both, strict=True)))
            again = reranked(self.reranker, queries * 2, keys.texts, joint, self.knobs.rerank)
            for half, name in enumerate(("reranked", "hybrid_reranked")):
                found[name] = Hits(*(np.split(part, 2)[half] for part in again))
        return found

    def vectors(self, encoder: str, task: str, side: str, texts: Sequence[str]) -> np.ndarray:
        """float16 unit rows of the texts of a side, query or document, with the encoder's prompt for it."""
        folder = self.encoders[encoder]
        length = self.knobs.query_max_length if side == "query" else self.knobs.key_max_length
        return self.kept.of(texts, folder, length, prompt_of(folder, side, task))


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
