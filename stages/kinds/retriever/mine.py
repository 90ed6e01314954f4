"""Find hard negatives: keys that rank high for a query and are not what it asks for.

Reads data/DATASET/tasks/, ENCODER and RERANKER. Writes data/DATASET/mined/: the same rows and keys, and
`neg`, best first. Rows that bring `neg` keep theirs; rows with candidates of their own (`among`) get those
that are no positives; rows of tasks that are not in `tasks` pass as they are.
"""

from collections import Counter

import numpy as np

from stages.core.errors import UserError
from stages.core.messages import say
from stages.kinds.retriever.knobs import MineKnobs
from stages.kinds.retriever.parts.mining import Scores, mine, own_candidates
from stages.kinds.retriever.parts.rows import Keys, Row, folder_of, read_tasks, write_tasks
from stages.retrieval.bm25 import Bm25
from stages.retrieval.knobs import MODEL, method_of
from stages.retrieval.neighbours import exact_scores
from stages.retrieval.ranking import Hits, by_bm25, by_dense, by_hybrid, load_reranker, pair_scores
from stages.retrieval.vectors import Vectors


def run(dataset: str, knobs: MineKnobs) -> dict:
    methods = (MODEL,) if knobs.by != "bm25" else (MODEL, "none")
    if method_of(knobs.encoder, "encoder", ("none",)) not in methods:
        raise UserError(f"encoder: {knobs.encoder}: by {knobs.by} needs a sentence-transformers directory")
    tasks, vectors = read_tasks(folder_of(dataset, "tasks")), Vectors()
    figures = {name: mined(Keys(name, own.keys), own.rows(), knobs, vectors) for name, own in tasks.items()}
    write_tasks(folder_of(dataset, "mined"), "mine", tasks)
    return {"tasks": figures}


def mined(keys: Keys, rows: list[Row], knobs: MineKnobs, vectors: Vectors) -> dict:
    """Give the rows of a task their negatives; returns what was counted."""
    counts = Counter(rows=len(rows), brought=sum("neg" in row for row in rows))
    for row in rows:
        if "among" in row and "neg" not in row:
            row["neg"] = own_candidates(row, keys)
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
    """The hits of the rows' queries, and what margins are about."""
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
    return hits, scores_of(keys, queries, vectors, index, knobs)


def scores_of(
    keys: Keys, queries: list[str], vectors: list[np.ndarray], index: Bm25 | None, knobs: MineKnobs
) -> Scores | None:
    """What margins and max_score are about; None where there are neither these nor a reranker."""
    model = load_reranker(knobs.reranker)
    bounds = knobs.margin_absolute, knobs.margin_relative, knobs.max_score
    if model is None and bounds == (None, None, None):
        return None

    def scores(numbers: list[list[int]]) -> list[np.ndarray]:
        if model is None and not vectors:
            return [index.scores(query)[own] for query, own in zip(queries, numbers, strict=True)]
        pairs = [(row, key) for row, own in enumerate(numbers) for key in own]
        if model is None:
            made = exact_scores(*vectors, *np.array(pairs, int).reshape(-1, 2).T)
        else:
            made = pair_scores(model, [(queries[row], keys.texts[key]) for row, key in pairs])
        return np.split(made, np.cumsum([len(own) for own in numbers])[:-1])

    return scores
