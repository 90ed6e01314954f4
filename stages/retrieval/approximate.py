"""Approximate neighbours by faiss: candidates from an index, their order by exact scores."""

from collections.abc import Iterator
from math import isqrt

import faiss
import numpy as np

from stages.core.errors import UserError
from stages.core.progress import Progress
from stages.retrieval.knobs import Search
from stages.retrieval.neighbours import best, cores, exact_scores, threads

ROWS = 4096  # queries of one search; fixed, because the rounding of scores may depend on it
ADDED = 1 << 16  # keys added at once
POINTS = 64  # keys a cell is trained on
STEPS = 10  # of k-means
EXTRA = 2  # candidates for each neighbour wanted, to be ordered by exact scores


def approximate(queries, keys, k: int, search: Search) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """As `exact`, for most neighbours; where fewer than k are found, indices are -1 and scores -inf.

    ivf: inverted lists of k-means cells (Sivic and Zisserman 2003). hnsw: a navigable small-world graph
    (Malkov and Yashunin 2018). Both indexes hold the rows as they are, in 16 bits, and are built on one
    thread: the same on any number of cores. Raises UserError for parameters that do not fit the keys.
    """
    with threads(one_openmp_thread) as pool:
        one_openmp_thread()
        index = INDEXES[search.search](keys, k, search)
        wanted = min(EXTRA * k, len(keys))

        def look(start: int) -> tuple[int, np.ndarray, np.ndarray]:
            part = np.asarray(queries[start : start + ROWS])
            _, candidates = index.search(part.astype(np.float32), wanted)
            return start, *ordered(part, keys, candidates, k)

        chunk = ROWS * cores()
        for first in range(0, len(queries), chunk):
            yield from pool.map(look, range(first, min(first + chunk, len(queries)), ROWS))


def one_openmp_thread() -> None:
    """For the calling thread: faiss adds in another order on another number of threads."""
    faiss.omp_set_num_threads(1)


def ordered(
    queries: np.ndarray, keys: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best by exact scores of the keys `candidates` (queries, candidates); -1 is none."""
    rows, places = np.nonzero(candidates >= 0)
    columns = candidates[rows, places]
    scores = exact_scores(queries, keys, rows, columns)
    order, rank = best(rows, columns, scores, k)
    indices = np.full((len(queries), k), -1, dtype=np.int32)
    values = np.full((len(queries), k), -np.inf)
    indices[rows[order], rank], values[rows[order], rank] = columns[order], scores[order]
    return indices, values


def cells(keys: np.ndarray, k: int, search: Search) -> faiss.Index:
    """Inverted lists of `keys` by cell. Raises UserError for more cells than keys, or probes than cells."""
    lists = search.lists or min(len(keys), 4 * isqrt(len(keys)))
    if lists > len(keys):
        raise UserError(
            f"lists: {lists} cells are too many for {len(keys)} texts to search; 0 chooses for you"
        )
    if search.lists and search.probes > lists:
        raise UserError(f"probes: {search.probes} is more than the {lists} cells in `lists`")
    index = faiss.index_factory(keys.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.by_residual, index.nprobe = False, min(search.probes, lists)
    index.cp.niter, index.cp.spherical, index.cp.min_points_per_centroid = STEPS, True, 1
    sample = np.linspace(0, len(keys) - 1, min(len(keys), lists * POINTS), dtype=np.int64)
    index.train(np.asarray(keys[sample], dtype=np.float32))
    return filled(index, keys)


def graph(keys: np.ndarray, k: int, search: Search) -> faiss.Index:
    """A small-world graph of `keys`. Raises UserError where `ef` nodes cannot give `k` neighbours."""
    if search.ef < k:
        raise UserError(
            f"ef: {search.ef} nodes kept in a search cannot give {k} neighbours; set it to {k} or more"
        )
    index = faiss.index_factory(keys.shape[1], f"HNSW{search.links},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(np.zeros((1, keys.shape[1]), dtype=np.float32))  # 16-bit floats have nothing to learn
    index.hnsw.efConstruction = index.hnsw.efSearch = search.ef
    return filled(index, keys)


def filled(index: faiss.Index, keys: np.ndarray) -> faiss.Index:
    """`index` with all `keys`, as float32 a part at a time."""
    with Progress(len(keys), "building the index", "text") as shown:
        for start in range(0, len(keys), ADDED):
            part = np.asarray(keys[start : start + ADDED], dtype=np.float32)
            index.add(part)
            shown.update(len(part))
    return index


INDEXES = {"ivf": cells, "hnsw": graph}
