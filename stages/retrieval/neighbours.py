"""Nearest neighbours by inner product of unit rows in 16-bit floats, in bounded memory.

    for start, indices, scores in neighbours(queries, keys, 10, search):   # blocks, in order
    indices, scores = nearest(queries, keys, 10, search)                   # all at once

`search` (stages.retrieval.knobs.Search) chooses between exact neighbours, the default, and faiss's inverted
lists and graph (approximate.py). A result depends neither on the number of threads nor on the size of blocks.

Exact: coarse scores choose candidates, exact scores decide. A score is the inner product of two rows of
16-bit floats of length 1. In float64 it has no rounding error: each product is a multiple of 2^-48 and no
partial sum comes near 32, so 53 bits hold it in whatever order it is added. Coarse scores come from a matrix
product in bfloat16 where the processor has instructions for it, else in float32. The error of both is bounded
(Higham, Accuracy and Stability of Numerical Algorithms, ch. 3), hence no neighbour is lost, and neither the
number type, the number of threads nor the size of blocks changes a result.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from stages.retrieval.knobs import Search

ROWS = 512  # queries of one matrix product
TILE = 8192  # keys of one matrix product: its scores stay in the cache
WIDTH = 32  # keys in a group, of which only the largest score is looked at first
PARTS = 16  # blocks of ROWS for each thread in a chunk
PREPARED = 1 << 30  # bytes of coarse keys kept; when there are more they are made anew for every chunk
PAIRS = 1024  # exact scores computed at once: these, too, stay in the cache
PENDING = 1 << 20  # candidates of a block of queries that are held before the best of them are chosen
BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}  # ordered as positive floats are


def nearest(
    queries: np.ndarray, keys: np.ndarray, k: int, search: Search | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best rows of `keys` for each row of `queries`: indices int32 (n, k) and scores float64 (n, k).

    Best first, equal scores by lower index. Both inputs float16, (n, dims) and (m, dims), rows of length 1 or
    0; 0 < k ≤ m, else ValueError. Where an approximate search finds fewer, indices are -1 and scores -inf.
    Raises UserError for parameters of the search that do not fit the keys.
    """
    empty = np.zeros((0, k), dtype=np.int32), np.zeros((0, k))
    blocks = [empty, *(block for _, *block in neighbours(queries, keys, k, search))]
    return tuple(np.concatenate(part) for part in zip(*blocks, strict=True))


def neighbours(
    queries: np.ndarray, keys: np.ndarray, k: int, search: Search | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The rows of `nearest` in blocks, in order, each with the row of `queries` that it starts at."""
    if not 0 < k <= len(keys):
        raise ValueError(f"k = {k} neighbours of {len(keys)} keys")
    if search is None or search.search == "exact":
        return exact(queries, keys, k)
    # faiss, which an exact search does without
    from stages.retrieval.approximate import approximate

    return approximate(queries, keys, k, search)


def coarse_type() -> torch.dtype:
    """bfloat16 where the processor multiplies it: the search is then 9 times as fast as in float32."""
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


class Tile:
    """Consecutive keys in the coarse type, and what bounds the errors of their scores."""

    def __init__(self, keys: np.ndarray, start: int, coarse: torch.dtype):
        part = torch.from_numpy(np.array(keys[start : start + TILE])).float()
        self.start, self.keys = start, len(part)
        self.coarse = torch.nn.functional.pad(part.to(coarse), (0, 0, 0, -len(part) % WIDTH))
        self.error = float((part - self.coarse[: len(part)].float()).norm(dim=1).max())
        self.length = float(part.norm(dim=1).max())


class Candidates:
    """Some queries and the keys that may be among their `k` nearest, gathered tile by tile.

    Let e bound the error of a coarse score. Where k groups of keys have a coarse score of t or more, k keys
    have an exact score of t - e or more, and so has a neighbour, the coarse score of which is then t - 2 e
    or more.
    """

    def __init__(self, queries: np.ndarray, keys: np.ndarray, k: int, coarse: torch.dtype):
        self.queries, self.keys, self.k, self.bits = queries, keys, k, BITS[coarse]
        exact = torch.from_numpy(queries).float()
        self.coarse = exact.to(coarse)
        self.error = (exact - self.coarse.float()).norm(dim=1)
        self.length = self.coarse.float().norm(dim=1)
        self.slack = torch.zeros(len(queries))  # e, over all tiles so far
        self.largest = torch.full((len(queries), k), torch.iinfo(self.bits).min, dtype=self.bits).numpy()
        self.gathered: list[tuple] = []

    def look(self, tiles: Iterable[Tile]) -> "Candidates":
        """Gather the candidates among the keys of `tiles`."""
        memory = torch.empty((TILE, len(self.queries)), dtype=self.coarse.dtype)
        for tile in tiles:
            scores = memory[: len(tile.coarse)]
            torch.mm(tile.coarse, self.coarse.T, out=scores)
            sums = tile.length * self.queries.shape[1] * 2.0**-22  # rounding of float32, several times over
            slack = self.error * tile.length + self.length * (tile.error + sums)
            self.slack = torch.maximum(self.slack, slack)
            self._gather(tile, scores.view(self.bits))
        return self

    def _gather(self, tile: Tile, bits: torch.Tensor) -> None:
        """Add the keys whose coarse scores, `bits` (keys of the tile, queries), are `least` or more."""
        bits[tile.keys :] = torch.iinfo(self.bits).min
        groups = bits.view(-1, WIDTH, len(self.queries))
        largest = groups.amax(dim=1).numpy()
        self.largest = np.sort(np.concatenate([self.largest, largest.T], axis=1), axis=1)[:, -self.k :]
        # Bits of negative floats are in reverse order. A neighbour that has one is dealt with in `unsure`.
        least = np.maximum(self.least(), 1)
        group, row = np.divmod(np.flatnonzero(largest >= least), len(self.queries))
        members = groups.numpy().transpose(0, 2, 1)[group, row]
        place, member = np.nonzero(members >= least[row, None])
        keys = tile.start + group[place] * WIDTH + member
        self.gathered.append((row[place], keys, members[place, member]))
        if sum(len(rows) for rows, _, _ in self.gathered) > PENDING:
            self._settle()

    def _settle(self) -> None:
        """Keep the `k` best candidates so far of each query: all of a crowd of like keys are candidates."""
        rows, columns, bits = (np.concatenate(part) for part in zip(*self.gathered, strict=True))
        near = bits >= self.least()[rows]
        rows, columns, bits = rows[near], columns[near], bits[near]
        order, _ = best(rows, columns, exact_scores(self.queries, self.keys, rows, columns), self.k)
        self.gathered = [(rows[order], columns[order], bits[order])]

    def least(self) -> np.ndarray:
        """(queries,): bits of a coarse score that no neighbour's is below."""
        kept = torch.from_numpy(self.largest[:, 0].copy()).view(self.coarse.dtype).float()
        bound = kept * (1 - torch.finfo(self.coarse.dtype).eps) - 2 * self.slack
        return bound.to(self.coarse.dtype).view(self.bits).numpy()

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 and float64 (queries, k): the nearest of the candidates by exact scores."""
        indices = np.tile(np.arange(self.k, dtype=np.int32), (len(self.queries), 1))
        scores = np.zeros((len(self.queries), self.k))
        least = self.least()
        sure, blank = least > 0, ~self.queries.any(axis=1)  # to a row of zeros, all keys are as near
        rows, columns, bits = (np.concatenate(part) for part in zip(*self.gathered, strict=True))
        kept = (bits >= least[rows]) & sure[rows]
        rows, columns = rows[kept], columns[kept]
        exact = exact_scores(self.queries, self.keys, rows, columns)
        order, _ = best(rows, columns, exact, self.k)
        indices[sure], scores[sure] = columns[order].reshape(-1, self.k), exact[order].reshape(-1, self.k)
        unsure = ~sure & ~blank
        if unsure.any():
            indices[unsure], scores[unsure] = search_all(self.queries[unsure], self.keys, self.k)
        return indices, scores


def exact_scores(queries: np.ndarray, keys: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 (pairs,): inner products of queries[rows] and keys[columns]; float16 inputs."""
    scores = np.empty(len(rows))
    wide = queries.astype(np.float64)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        scores[part] = np.vecdot(keys[columns[part]].astype(np.float64), wide[rows[part]])
    return scores


def best(rows: np.ndarray, columns: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the `k` best pairs of each row, and their ranks from 0; sorted by row and rank.

    Best is the largest score, among equal scores the lowest column.
    """
    order = np.lexsort((columns, -scores, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
    return order[rank < k], rank[rank < k]


def search_all(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 and float64 (n, k): the nearest of all keys, by exact scores."""
    queries = queries.astype(np.float64)
    indices, scores = np.zeros((len(queries), 0), dtype=np.int32), np.zeros((len(queries), 0))
    for start in range(0, len(keys), TILE):
        part = queries @ keys[start : start + TILE].astype(np.float64).T
        columns = np.arange(start, start + part.shape[1], dtype=np.int32)
        indices = np.concatenate([indices, np.broadcast_to(columns, part.shape)], axis=1)
        scores = np.concatenate([scores, part], axis=1)
        places, scores = top_k(scores, min(k, scores.shape[1]))
        indices = np.take_along_axis(indices, places, axis=1)
    return indices, scores


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of the `k` largest of each row of `scores` (n, m); equal values by lower index."""
    columns = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    floor = np.take_along_axis(scores, columns, axis=1).min(axis=1, keepdims=True)
    shared = (scores >= floor).sum(axis=1) > k  # the k-th value occurs again outside: argpartition chose any
    columns[shared] = np.argsort(-scores[shared], axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.lexsort((columns, -values), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


def exact(queries, keys, k: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Chunks of the `k` nearest `keys`: first row of `queries`, int32 (n, k) and float64 (n, k)."""
    coarse = coarse_type()
    starts = range(0, len(keys), TILE)
    kept = [Tile(keys, start, coarse) for start in starts] if keys.nbytes <= PREPARED else None
    with threads() as pool:
        chunk = ROWS * PARTS * cores()
        for first in range(0, len(queries), chunk):
            ends = range(first, min(first + chunk, len(queries)), ROWS)
            parts = [Candidates(np.array(queries[start : start + ROWS]), keys, k, coarse) for start in ends]
            for tiles in [kept] if kept else ([Tile(keys, start, coarse)] for start in starts):
                list(pool.map(lambda part, tiles=tiles: part.look(tiles), parts))
            blocks = list(pool.map(Candidates.neighbours, parts))
            yield first, *(np.concatenate(part) for part in zip(*blocks, strict=True))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def threads(start: Callable[[], None] | None = None) -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, which calls `start` first; their matrix products take one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), ThreadPoolExecutor(cores(), initializer=start) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
