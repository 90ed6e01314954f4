"""Measures of extreme classification at k over many points at once, and their paired bootstrap.

Every measure is a ratio of sums over points, Σ numerator / Σ denominator. For P@k, nDCG@k and R@k the
denominator is 1 for each point with a true label, which makes the ratio a mean; for PSP@k it is the best that
the point allows, as in the evaluation scripts of the Extreme Classification Repository. One resampling of
points serves all of them.
"""

KS = (1, 3, 5, 10, 100)
BLOCK = 1 << 15  # points scored at once
MEASURES = tuple(f"{name}@{k}" for name in ("P", "nDCG", "PSP", "R") for k in KS)


def inverse_propensities(train, a: float = 0.55, b: float = 1.5):
    """float64 (labels,): 1 / propensity of each label by its frequency in `train`, csr (points, labels).

    Jain, Prabhu & Varma 2016, equation 1: 1 + C (N_l + B)^-A with C = (log N - 1) (B + 1)^A.
    """
    import numpy as np

    frequencies = np.bincount(train.indices, minlength=train.shape[1])
    c = (np.log(train.shape[0]) - 1) * (b + 1) ** a
    return 1 + c * (frequencies + b) ** -a


def sums(predicted, truth, inverse) -> tuple:
    """Numerators and denominators of MEASURES for each point: two float64 arrays (points, measures).

    `predicted` int (points, any number of columns), the labels best first, -1 where there are none left;
    `truth` csr (points, labels) without explicit zeros; `inverse` float64 (labels,). A point without true
    labels has zeros in both, so it counts in no measure.
    """
    import numpy as np

    blocks = [slice(start, start + BLOCK) for start in range(0, len(predicted), BLOCK)]
    parts = [_sums(predicted[block], truth[block], inverse) for block in blocks]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _sums(predicted, truth, inverse) -> tuple:
    import numpy as np

    deepest = max(KS)
    padded = np.full((len(predicted), deepest), -1, dtype=np.int64)
    padded[:, : predicted.shape[1]] = predicted[:, :deepest]
    hits = holds(truth, padded)
    weights = np.where(hits, inverse[padded], 0.0)
    best = _best(truth, inverse, deepest)
    ranks = np.arange(1, deepest + 1)
    discounts = 1 / np.log2(ranks + 1)
    counts = np.diff(truth.indptr)
    some = (counts > 0).astype(np.float64)
    at = [k - 1 for k in KS]
    found, gained = hits.cumsum(axis=1)[:, at], (hits * discounts).cumsum(axis=1)[:, at]
    ideal = discounts.cumsum()[np.minimum(np.array(KS), np.maximum(counts, 1)[:, None]) - 1]
    ones = np.repeat(some[:, None], len(KS), axis=1)
    numerators = [found / np.array(KS), gained / ideal, weights.cumsum(axis=1)[:, at] / np.array(KS)]
    numerators.append(found / np.maximum(counts, 1)[:, None])
    denominators = [ones, ones, best.cumsum(axis=1)[:, at] / np.array(KS), ones]
    return np.concatenate(numerators, axis=1), np.concatenate(denominators, axis=1)


def holds(matrix, columns):
    """bool, the shape of `columns` (points, k): which of them the csr `matrix` has in that row; never -1."""
    import numpy as np

    width = matrix.shape[1]
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    places = np.arange(len(columns), dtype=np.int64)[:, None] * width + columns
    return np.isin(places, rows * width + matrix.indices) & (columns >= 0)


def _best(truth, inverse, k: int):
    """float64 (points, k): inverse propensities of each point's true labels, largest first, then zeros."""
    import numpy as np

    counts = np.diff(truth.indptr)
    rows = np.repeat(np.arange(truth.shape[0]), counts)
    values = inverse[truth.indices]
    order = np.lexsort((-values, rows))
    ranks = np.arange(truth.nnz) - np.repeat(truth.indptr[:-1], counts)
    kept = ranks < k
    best = np.zeros((truth.shape[0], k))
    best[rows[kept], ranks[kept]] = values[order][kept]
    return best


def ratios(numerators, denominators) -> dict[str, float | None]:
    """MEASURES of all points together; None where no point counts."""
    totals = denominators.sum(axis=0)
    found = zip(numerators.sum(axis=0), totals, strict=True)
    shown = (round(float(own / total), 4) if total > 0 else None for own, total in found)
    return dict(zip(MEASURES, shown, strict=True))


def differences(before, after, denominators, resamples: int, seed: int) -> dict[str, dict | None]:
    """How much larger each of MEASURES is for `after` than for `before`: mean, low and high.

    `before` and `after` are the numerators of two predictions for the same points, with the same
    `denominators`. The mean is that of all points; low and high are the 95% percentile bootstrap interval
    (Efron 1979) over points, where both see the same draws (paired).
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    points, width = denominators.shape
    table = np.concatenate([after - before, denominators], axis=1)
    random = np.random.default_rng(seed)
    drawn = np.empty((resamples, 2 * width))
    with threadpool_limits(1):  # BLAS may add in another order on another number of cores
        for resample in range(resamples):
            chosen = random.integers(points, size=points)
            drawn[resample] = np.bincount(chosen, minlength=points).astype(np.float64) @ table
    found: dict[str, dict | None] = {}
    for place, measure in enumerate(MEASURES):
        gained, totals = drawn[:, place], drawn[:, width + place]
        if not denominators[:, place].any():
            found[measure] = None
            continue
        low, high = np.quantile(gained[totals > 0] / totals[totals > 0], (0.025, 0.975))
        mean = table[:, place].sum() / denominators[:, place].sum()
        shown = (("mean", mean), ("low", low), ("high", high))
        found[measure] = {name: round(float(value), 4) for name, value in shown}
    return found
