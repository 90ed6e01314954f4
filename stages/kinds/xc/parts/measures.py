"""Measures of extreme classification at k over many points at once, and their paired bootstrap.

Every measure is a ratio of sums over points, Σ numerator / Σ denominator. For P@k, nDCG@k and R@k the
denominator is 1 for each point with a true label, which makes the ratio a mean; for PSP@k it is the best that
the point allows, as in the evaluation scripts of the Extreme Classification Repository. One resampling of
points serves all of them.
"""

import numpy as np
from scipy.sparse import csr_matrix

from stages.evaluation.bootstrap import Interval, ratio_intervals

KS = (1, 3, 5, 10, 100)
BLOCK = 1 << 15  # points scored at once
MEASURES = tuple(f"{name}@{k}" for name in ("P", "nDCG", "PSP", "R") for k in KS)


def inverse_propensities(train: csr_matrix, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    """float64 (labels,): 1 / propensity of each label by its frequency in `train`, csr (points, labels).

    Jain, Prabhu & Varma 2016, equation 1: 1 + C (N_l + B)^-A with C = (log N - 1) (B + 1)^A.
    """
    frequencies = np.bincount(train.indices, minlength=train.shape[1])
    c = (np.log(train.shape[0]) - 1) * (b + 1) ** a
    return 1 + c * (frequencies + b) ** -a


def sums(predicted: np.ndarray, truth: csr_matrix, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators of MEASURES for each point: two float64 arrays (points, measures).

    `predicted` int (points, any number of columns), the labels best first, -1 where there are none left;
    `truth` csr (points, labels) without explicit zeros; `inverse` float64 (labels,). A point without true
    labels has zeros in both, so it counts in no measure.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(predicted), BLOCK)]
    parts = [_sums(predicted[block], truth[block], inverse) for block in blocks]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _sums(predicted: np.ndarray, truth: csr_matrix, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deepest = max(KS)
    padded = np.full((len(predicted), deepest), -1, dtype=np.int64)
    padded[:, : predicted.shape[1]] = predicted[:, :deepest]
    hits = holds(truth, padded)
    weights = np.where(hits, inverse[padded], 0.0)
    best = _best(truth, inverse, deepest)
    ranks = np.arange(1, deepest + 1)
    discounts = 1 / np.log2(ranks + 1)
    counts = np.diff(truth.indptr)
    at = [k - 1 for k in KS]
    hits_at, gained = hits.cumsum(axis=1)[:, at], (hits * discounts).cumsum(axis=1)[:, at]
    ideal = discounts.cumsum()[np.minimum(np.array(KS), np.maximum(counts, 1)[:, None]) - 1]
    ones = np.repeat((counts > 0).astype(np.float64)[:, None], len(KS), axis=1)
    numerators = [hits_at / np.array(KS), gained / ideal, weights.cumsum(axis=1)[:, at] / np.array(KS)]
    numerators.append(hits_at / np.maximum(counts, 1)[:, None])
    denominators = [ones, ones, best.cumsum(axis=1)[:, at] / np.array(KS), ones]
    return np.concatenate(numerators, axis=1), np.concatenate(denominators, axis=1)


def holds(matrix: csr_matrix, columns: np.ndarray) -> np.ndarray:
    """bool, the shape of `columns` (points, k): which of them the csr `matrix` has in that row; never -1."""
    width = matrix.shape[1]
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    places = np.arange(len(columns), dtype=np.int64)[:, None] * width + columns
    return np.isin(places, rows * width + matrix.indices) & (columns >= 0)


def _best(truth: csr_matrix, inverse: np.ndarray, k: int) -> np.ndarray:
    """float64 (points, k): inverse propensities of each point's true labels, largest first, then zeros."""
    counts = np.diff(truth.indptr)
    rows = np.repeat(np.arange(truth.shape[0]), counts)
    values = inverse[truth.indices]
    order = np.lexsort((-values, rows))
    ranks = np.arange(truth.nnz) - np.repeat(truth.indptr[:-1], counts)
    kept = ranks < k
    best = np.zeros((truth.shape[0], k))
    best[rows[kept], ranks[kept]] = values[order][kept]
    return best


def ratios(numerators: np.ndarray, denominators: np.ndarray) -> dict[str, float | None]:
    """MEASURES of all points together; None where no point counts."""
    totals = denominators.sum(axis=0)
    pairs = zip(numerators.sum(axis=0), totals, strict=True)
    rounded = (round(float(value / total), 4) if total > 0 else None for value, total in pairs)
    return dict(zip(MEASURES, rounded, strict=True))


def differences(
    before: np.ndarray, after: np.ndarray, denominators: np.ndarray, resamples: int, seed: int
) -> dict[str, Interval | None]:
    """How much larger each of MEASURES is for `after` than for `before`: mean, low and high.

    `before` and `after` are the numerators of two predictions for the same points, with the same
    `denominators`; all float64 (points, measures). The mean is that of all points; low and high are the 95%
    bootstrap interval over points, where both see the same draws (paired).
    """
    gains = ratio_intervals(after - before, denominators, resamples, seed)
    return dict(zip(MEASURES, gains, strict=True))
