"""Nearest neighbours by inner product of unit rows in 16-bit floats, in bounded memory.

    for start, indices, scores in neighbours(queries, keys, 10, search):   # blocks, in order
    indices, scores = nearest(queries, keys, 10, search)                   # all at once

`search` (stages.retrieval.knobs.Search) chooses between exact neighbours, the default, and faiss's inverted
lists and graph. A result depends neither on the number of threads nor on the size of blocks.
"""

from collections.abc import Iterator

import numpy as np

from stages.retrieval.knobs import Search


def nearest(queries, keys, k: int, search: Search | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best rows of `keys` for each row of `queries`: indices int32 (n, k) and scores float64 (n, k).

    Best first, equal scores by lower index. Both inputs float16, (n, dims) and (m, dims), rows of length 1 or
    0; 0 < k ≤ m, else ValueError. Where an approximate search finds fewer, indices are -1 and scores -inf.
    Raises UserError for parameters of the search that do not fit the keys.
    """
    empty = np.zeros((0, k), dtype=np.int32), np.zeros((0, k))
    blocks = [empty, *(block for _, *block in neighbours(queries, keys, k, search))]
    return tuple(np.concatenate(part) for part in zip(*blocks, strict=True))


def neighbours(
    queries, keys, k: int, search: Search | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The rows of `nearest` in blocks, in order, each with the row of `queries` that it starts at."""
    if not 0 < k <= len(keys):
        raise ValueError(f"k = {k} neighbours of {len(keys)} keys")
    if search is None or search.search == "exact":
        from stages.retrieval.exact import exact

        return exact(queries, keys, k)
    from stages.retrieval.approximate import approximate

    return approximate(queries, keys, k, search)
