"""The systems that are compared, and what is told of their rankings: measures, misses, scores, leaks.

base and trained: cosines of their vectors; bm25; hybrid: base and bm25, hybrid_trained: trained and bm25;
reranked and hybrid_reranked: the first keys of trained and of hybrid_trained by their scores there and the
cross-encoder's; trained_last_turn: trained, given the last turn of a conversation alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
ANSWERS = "answer_recall"
MISSES, SHOWN = 15, 400  # rows that are listed of a task; characters of a text
NEAR = 0.5  # similarity of two queries (stages/sources/near.py) from which one nearly repeats the other
EDGES = np.linspace(-1, 1, 41)  # of the histogram of cosines


class Ranked(NamedTuple):
    """Rows of a task, and each system's hits for them."""

    keys: Keys
    rows: Sequence[Row]
    hits: Mapping[str, Hits]

    def only(self, places: Sequence[int]) -> "Ranked":
        hits = {system: own.only(places) for system, own in self.hits.items()}
        return Ranked(self.keys, [self.rows[place] for place in places], hits)

    def found(self, system: str) -> list[list[str]]:
        """For each row the ids of the keys, best first."""
        return [self.keys.found(self.hits[system], place) for place in range(len(self.rows))]

    @property
    def groups(self) -> list[str]:
        return [row["group"] for row in self.rows]


class Systems:
    """Loads each model when it is first needed."""

    def __init__(self, dataset: str, knobs: EvaluateRetrieverKnobs):
        self.knobs = knobs
        self.encoders = {"base": knobs.base, "trained": layout.model(dataset, "retriever").as_posix()}
        self.reranker = load_reranker(knobs.reranker)
        self.kept = Vectors()

    def rank(self, keys: Keys, rows: Sequence[Row]) -> Ranked:
        """A row chooses from all keys, or from its own candidates where it has some."""
        if not rows:
            return Ranked(keys, rows, {})
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
        return Ranked(keys, rows, found)

    def vectors(self, encoder: str, task: str, side: str, texts: Sequence[str]) -> np.ndarray:
        """float16 unit rows of the texts of a side, query or document, with the encoder's prompt for it."""
        folder = self.encoders[encoder]
        length = self.knobs.query_max_length if side == "query" else self.knobs.key_max_length
        return self.kept.of(texts, folder, length, prompt_of(folder, side, task))


def compared(ranked: Ranked, knobs: EvaluateRetrieverKnobs, same: Mapping[str, str] | None = None) -> dict:
    """{system: {measure@cutoff: interval}} and `differences` of systems, over the rows with a right key.

    Right keys are `pos`; with `same` these name groups of keys, of which one is as good as any.
    """
    ranked = ranked.only([place for place, row in enumerate(ranked.rows) if row["pos"]])
    if not ranked.rows:
        return {}
    plain, cutoffs = [name for name in knobs.metrics if name != ANSWERS], knobs.cutoffs
    read = [ANSWERS] if ANSWERS in knobs.metrics else []

    def values(row: Row, ranking: list[str]) -> list[float]:
        right = set(row["pos"])
        own = measured(ranks_of(ranking, right, same), len(right), plain, cutoffs)
        if read and row.get("answers"):
            texts = map(ranked.keys.text, ranking[: max(cutoffs)])
            return own + measured(answer_rank(texts, row["answers"]), 1, ["hit"], cutoffs)
        return own + [np.nan] * len(cutoffs) * len(read)

    by_system = {
        system: np.array(list(map(values, ranked.rows, ranked.found(system)))) for system in ranked.hits
    }
    names = [f"{measure}@{cutoff}" for measure in (*plain, *read) for cutoff in cutoffs]
    return table(by_system, names, PAIRS, ranked.groups, knobs.bootstrap, knobs.seed)


def compared_pages(ranked: Ranked, knobs: EvaluateRetrieverKnobs, kinds: Sequence[int | None] = ()) -> dict:
    """`compared` for queries of people and the like: a near-duplicate of a right key is as good as it.

    And under `kinds` the same of the queries of each kind, which are given by their numbers.
    """
    same, rows = ranked.keys.same, ranked.rows
    grouped: list[Row] = [{**row, "pos": sorted({same[key] for key in row["pos"]})} for row in rows]
    made = {"queries": len(rows), **compared(ranked._replace(rows=grouped), knobs, same)}
    for number, name in enumerate(KINDS):
        if own := [place for place, kind in enumerate(kinds) if kind == number]:
            made.setdefault("kinds", {})[name] = compared_pages(ranked.only(own), knobs)
    return made


def misses(ranked: Ranked) -> list[dict]:
    """The rows whose right key the trained retriever ranks worst, with what each system put first."""
    text, listed = ranked.keys.text, []
    found = {system: ranked.found(system) for system in ranked.hits}
    for place, row in enumerate(ranked.rows):
        ranks = {name: min(ranks_of(own[place], row["pos"]), default=None) for name, own in found.items()}
        firsts = {name: text(own[place][0])[:SHOWN] if own[place] else "" for name, own in found.items()}
        if row["pos"] and ranks["trained"] != 1:
            right = text(row["pos"][0])[:SHOWN]
            listed.append({"query": row["query"][-SHOWN:], "right": right, "ranks": ranks, "firsts": firsts})
    return sorted(listed, key=lambda row: -(row["ranks"]["trained"] or np.inf))[:MISSES]


def cosines(ranked: Ranked, system: str) -> dict[str, list[int]]:
    """Histograms over EDGES of the cosine of the best right key, and of the best wrong one, of each row."""
    best: dict[str, list[float]] = {"right": [], "wrong": []}
    for place, row in enumerate(ranked.rows):
        own: dict[str, float] = {}
        for key, score in ranked.keys.ranking(ranked.hits[system], place):
            own.setdefault("right" if key in row["pos"] else "wrong", score)
        for name in own if row["pos"] else ():
            best[name].append(own[name])
    return {name: np.histogram(np.clip(own, -1, 1), EDGES)[0].tolist() for name, own in best.items()}


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
