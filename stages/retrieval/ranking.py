"""Keys ranked for queries: by vectors, by BM25, by both, and the first of them again by a cross-encoder.

    hits = by_dense(query_vectors, key_vectors, 100)
    hits = by_bm25(Bm25(key_texts), query_texts, 100)
    hits = by_hybrid(query_vectors, key_vectors, Bm25(key_texts), query_texts, 100)
    hits = reranked(load_reranker(directory), query_texts, key_texts, hits, 20)

All take `among`, for each query the numbers of the keys that it chooses from, or None for all, and give best
first, equal scores by the lower number. Memory is bounded: scores exist for a block of queries at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sentence_transformers import CrossEncoder

from stages.core.errors import UserError, reason
from stages.core.files import read_object
from stages.core.progress import Progress
from stages.retrieval.bm25 import Bm25
from stages.retrieval.knobs import Search, is_none
from stages.retrieval.neighbours import nearest
from stages.retrieval.transformer import narrow

CELLS = 1 << 24  # scores of one block of queries, of each system
PAIRS = 4096  # texts that a cross-encoder reads between two updates of the progress

Among = Sequence[Sequence[int] | None] | None
Scores = Callable[[slice], Iterable[np.ndarray]]  # of some queries, those of all keys


class Hits(NamedTuple):
    """Of each query the best keys: numbers int32 and scores float64 (queries, hits), best first.

    Where there are fewer, numbers are -1 and scores -inf. `hits` is the number of keys if that is less.
    """

    keys: np.ndarray
    scores: np.ndarray

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(numbers, scores) of one query, without what fills them up."""
        found = self.keys[query] >= 0
        return self.keys[query][found], self.scores[query][found]

    def only(self, queries: Sequence[int]) -> "Hits":
        return Hits(self.keys[queries], self.scores[queries])


def by_dense(
    queries: np.ndarray, keys: np.ndarray, hits: int, among: Among = None, search: Search | None = None
) -> Hits:
    """By the inner products of rows of length 1, float16 (queries, dims) and (keys, dims).

    `search` chooses an approximate search where a query chooses from all keys. Raises UserError for
    parameters of it that do not fit the keys.
    """
    if among is None and len(keys):
        return Hits(*nearest(queries, keys, min(hits, len(keys)), search))
    return _best([_products(queries, keys)], len(queries), len(keys), hits, among)


def by_bm25(index: Bm25, queries: Sequence[str], hits: int, among: Among = None) -> Hits:
    """By BM25; a key that shares no word with the query is no hit."""
    # One query after the other: as one sparse product, all took as long (60 µs each over 10,000 keys).
    return _best([_words(index, queries)], len(queries), index.count, hits, among, above=0)


def by_hybrid(
    queries: np.ndarray,
    keys: np.ndarray,
    index: Bm25,
    texts: Sequence[str],
    hits: int,
    among: Among = None,
    weight: float = 1,
) -> Hits:
    """By the sum of both scores, each less its mean and by its deviation over the keys to choose from.

    `queries` and `keys` as in `by_dense`; `texts` are the queries' own, `index` is of the keys' texts.
    BM25 has the `weight`, the inner product 1.
    """
    parts = [_products(queries, keys), _words(index, texts)]
    return _best(parts, len(queries), len(keys), hits, among, weights=(1, weight))


def _products(queries: np.ndarray, keys: np.ndarray) -> Scores:
    wide = np.asarray(keys, dtype=np.float32)
    return lambda rows: np.asarray(queries[rows], dtype=np.float32) @ wide.T


def _words(index: Bm25, texts: Sequence[str]) -> Scores:
    return lambda rows: map(index.scores, texts[rows])


def _best(
    parts: list[Scores],
    count: int,
    keys: int,
    hits: int,
    among: Among,
    above: float = -np.inf,
    weights: Sequence[float] = (),
) -> Hits:
    """The best keys of `count` queries, by the weighted sum of what `parts` give where there are several."""
    width = min(hits, keys)
    found = Hits(np.full((count, width), -1, dtype=np.int32), np.full((count, width), -np.inf))
    step = max(1, CELLS // max(1, keys))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        for row, own in enumerate(zip(*(part(rows) for part in parts), strict=True), start):
            chosen = None if among is None or among[row] is None else np.unique(among[row])
            scores = own if chosen is None else [part[chosen.astype(int)] for part in own]
            joint = scores[0] if len(parts) == 1 else np.dot(weights, [standard(own) for own in scores])
            order = first(joint, width, above)
            found.keys[row, : len(order)] = order if chosen is None else chosen[order]
            found.scores[row, : len(order)] = joint[order]
    return found


def standard(scores: np.ndarray) -> np.ndarray:
    """`scores` less their mean, by their standard deviation (float64); zeros where all are equal."""
    wide = scores.astype(np.float64)
    deviation = wide.std() if len(wide) else 0
    return (wide - wide.mean()) / deviation if deviation > 0 else np.zeros_like(wide)


def first(scores: np.ndarray, hits: int, above: float = -np.inf) -> np.ndarray:
    """Places of the best `hits` scores greater than `above`, best first, equal ones by place."""
    places = np.flatnonzero(scores > above)
    if hits < len(places):
        values = scores[places]
        # sorting all of 10,000 scores takes ten times as long as finding the least that counts
        places = places[values >= np.partition(values, len(values) - hits)[len(values) - hits]]
    return places[np.argsort(-scores[places], kind="stable")[:hits]]


def load_reranker(directory: str, knob: str = "reranker") -> CrossEncoder | None:
    """The cross-encoder of a directory, None of models/shipped/none.

    Raises UserError, which names the `knob`, for any other directory.
    """
    if is_none(directory, knob):
        return None
    config = Path(directory) / "config.json"
    # An encoder would be loaded, too, with a head of random weights.
    heads = read_object(config).get("architectures") if config.is_file() else None
    if not any("SequenceClassification" in str(head) for head in heads or ()):
        raise UserError(
            f"{knob}: {config}: names no model for SequenceClassification; expected the directory of a "
            "cross-encoder, such as models/NAME/reranker"
        )
    return open_cross_encoder(directory, knob)


def open_cross_encoder(directory: str, knob: str, **more) -> CrossEncoder:
    """The cross-encoder in a directory, which has read a trial; `more` is what CrossEncoder takes beside it.

    Raises UserError, naming the knob, for files that make none, and for one with several scores a pair.
    """
    try:
        model = CrossEncoder(directory, trust_remote_code=False, local_files_only=True, **more)
        scores = model.predict([("a text", "another text, which is longer")] * 2, show_progress_bar=False)
    except Exception as error:  # of many kinds, for files that could be anything
        raise UserError(f"{knob}: {directory}: no cross-encoder that can be read ({reason(error)})") from None
    if np.shape(scores) != (2,):
        raise UserError(f"{knob}: {directory}: gives {np.shape(scores)[1]} scores a pair, expected one")
    return model


def reranked(model: CrossEncoder, queries: Sequence[str], texts: Sequence[str], hits: Hits, top: int) -> Hits:
    """The first `top` hits of each query by the sum of their scores and the cross-encoder's; the rest follow.

    Each score counts less its mean over these hits, by its deviation: one that was trained on few rows then
    adds to what found them, and need not be better. `texts` are those of the keys. The rest's scores count
    down from the last one before them.
    """
    result = Hits(hits.keys.copy(), hits.scores.copy())
    wanted = [(row, key) for row in range(len(queries)) for key in hits.of(row)[0][:top]]
    read = pair_scores(model, [(queries[row], texts[key]) for row, key in wanted])
    start = 0
    for row in range(len(queries)):
        keys, scores = hits.of(row)
        count = min(top, len(keys))
        own = standard(scores[:count]) + standard(read[start : start + count])
        order = first(own, count)
        result.keys[row, :count], result.scores[row, :count] = keys[:count][order], own[order]
        least = own.min() if count else 0
        result.scores[row, count : len(keys)] = least - np.arange(1, len(keys) - count + 1)
        start += count
    return result


def pair_scores(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """float64 (pairs,): what the cross-encoder says of each (query, text). Raises UserError for no number."""
    # By length, so that few tokens of a batch are padding; equal pairs are read once.
    distinct = sorted(set(pairs), key=lambda pair: (-len(pair[0]) - len(pair[1]), pair))
    known: dict[tuple[str, str], float] = {}
    with Progress(len(distinct), "pairs through the reranker", "pair") as shown:
        for start in range(0, len(distinct), PAIRS):
            part = distinct[start : start + PAIRS]
            with narrow(model.device):  # as encoders
                scores = model.predict(part, show_progress_bar=False)
            if not np.isfinite(scores).all():
                raise UserError("reranker: gave no number for a pair of texts")
            known.update(zip(part, map(float, scores), strict=True))
            shown.update(len(part))
    return np.array([known[pair] for pair in pairs], dtype=np.float64)
