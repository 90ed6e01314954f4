"""Exact nearest neighbours by inner product, in blocks, the same on any number of cores."""

BLOCK_SCORES = 1 << 22  # scores held at once by each worker: 16 MiB of float32


def nearest(queries, keys, k: int) -> tuple:
    """The `k` best `keys` rows of each row of `queries`: indices int32 (n, k), scores float32 (n, k).

    Best first; equal scores by lower index. Both inputs float32, (n, dims) and (m, dims), k ≤ m. Blocks of
    queries go to threads that use one BLAS thread each, so the number of cores changes no bit of a result.
    """
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from threadpoolctl import threadpool_limits

    if not 0 < k <= len(keys):
        raise ValueError(f"k = {k} neighbours of {len(keys)} keys")
    rows = max(1, BLOCK_SCORES // len(keys))
    starts = range(0, len(queries), rows)
    indices = np.zeros((len(queries), k), dtype=np.int32)
    scores = np.zeros((len(queries), k), dtype=np.float32)

    def search(start: int) -> None:
        block = slice(start, start + rows)
        indices[block], scores[block] = top_k(queries[block] @ keys.T, k)

    with threadpool_limits(1), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(search, starts))
    return indices, scores


def top_k(scores, k: int) -> tuple:
    """Indices and values of the `k` largest of each row of `scores` (n, m); equal values by lower index."""
    import numpy as np

    columns = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]
    floor = np.take_along_axis(scores, columns, axis=1).min(axis=1, keepdims=True)
    shared = (scores >= floor).sum(axis=1) > k  # the k-th value occurs again outside: argpartition chose any
    columns[shared] = np.argsort(-scores[shared], axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.lexsort((columns, -values), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)
