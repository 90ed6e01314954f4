"""Bootstrap intervals (Efron 1979) over rows: 95%, by percentiles of the resamples.

All measures of a table are resampled with the same draws of rows, so that their intervals can be compared and
the interval of a difference is that of a paired test.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

Interval = dict[str, float]  # mean, low, high


def intervals(values: Sequence[Sequence[float]], resamples: int, seed: int) -> list[Interval | None]:
    """Mean and interval of each column of `values` (rows, measures).

    NaN marks a row where a measure is not defined: it is left out of that measure's mean. A column without
    values gives None.
    """
    means, resampled = _means(np.asarray(values, dtype=np.float64), resamples, seed)
    return [_interval(mean, column) for mean, column in zip(means, resampled.T, strict=True)]


def macro_interval(
    values: Sequence[float], groups: Sequence[str], resamples: int, seed: int
) -> Interval | None:
    """Mean over groups of their means, and its interval, of `values` (rows) with a group each.

    Rows are resampled as a whole and not within their groups, so that how often a group occurs is part of
    the uncertainty; a resample without any row of a group is the mean over the others. None without rows.
    """
    if not len(values):
        return None
    group_of_row = np.asarray(groups)
    one_group_a_column = group_of_row[:, None] == np.unique(group_of_row)
    by_group = np.where(one_group_a_column, np.asarray(values, dtype=np.float64)[:, None], np.nan)
    means, resampled = _means(by_group, resamples, seed)
    return _interval(np.mean(means), np.nanmean(resampled, axis=1))


def ratio_intervals(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int, seed: int
) -> list[Interval | None]:
    """Σ numerator / Σ denominator, under the name `mean`, and its interval, of each column (rows, measures).

    A resample whose denominators are all zero is left out; a column of which all are gives None.
    """
    ratios, resampled = _ratios(numerators, denominators, _draws(len(numerators), resamples, seed))
    return [_interval(ratio, column) for ratio, column in zip(ratios, resampled.T, strict=True)]


def grouped_intervals(
    values: np.ndarray,
    groups: Sequence[str],
    resamples: int,
    seed: int,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> list[Interval | None]:
    """`intervals` of `values` (rows, measures) where whole groups are resampled: their rows hang together.

    `statistic` makes of means (any number, measures) what is told of them (as many, any number), such as a
    difference or a ratio: its intervals are those of a paired test.
    """
    values = np.asarray(values, dtype=np.float64)
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    sums, counts = np.zeros((2, group_of_row.max() + 1, values.shape[1]))
    defined = ~np.isnan(values)
    np.add.at(sums, group_of_row, np.where(defined, values, 0.0))
    np.add.at(counts, group_of_row, defined)
    means, resampled = _ratios(sums, counts, _draws(len(sums), resamples, seed))
    columns = zip(statistic(means[None])[0], statistic(resampled).T, strict=True)
    return [_interval(mean, column) for mean, column in columns]


def quantile_interval(values: Sequence[float], share: float, resamples: int, seed: int) -> Interval | None:
    """The quantile `share` of `values` (rows), under the name `mean`, and its interval; None without rows."""
    if not len(values):
        return None
    values = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return _interval(np.quantile(values, share), np.quantile(values[draws], share, axis=1))


def _draws(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is in a resample, for each of them.

    Row numbers, not a multinomial as in `_means`: the two draw other resamples from a seed, and published
    figures come from these.
    """
    random = np.random.default_rng(seed)
    return (np.bincount(random.integers(rows, size=rows), minlength=rows) for _ in range(resamples))


def _means(values: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of the columns of `values` (rows, columns) without their NaNs, as `_ratios` gives them."""
    rows, random = len(values), np.random.default_rng(seed)
    draws = (random.multinomial(rows, np.full(rows, 1 / rows)) for _ in range(resamples))
    defined = ~np.isnan(values)
    return _ratios(np.where(defined, values, 0.0), defined.astype(np.float64), draws)


def _ratios(
    numerators: np.ndarray, denominators: np.ndarray, draws: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of the sums of two float64 (rows, columns): of all rows (columns,), and of each draw.

    A draw is how often each row is in a resample (rows,); the second array is (draws, columns). NaN where a
    denominator is zero. One draw is held at a time: a thousand of a million rows would take 8 GB.
    """
    table = np.concatenate([numerators, denominators], axis=1)
    totals = [column.sum() for column in table.T]  # pairwise, unlike a sum over rows: fewer rounding errors
    with threadpool_limits(1):  # BLAS may add in another order on another number of cores
        sums = np.array([totals, *(counts.astype(np.float64) @ table for counts in draws)])
    above, below = np.split(sums, 2, axis=1)
    ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
    return ratios[0], ratios[1:]


def _interval(mean: float, resampled: np.ndarray) -> Interval | None:
    if np.isnan(mean):
        return None
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return {name: round(float(x), 4) for name, x in (("mean", mean), ("low", low), ("high", high))}
