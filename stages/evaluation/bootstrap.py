"""Means over rows with bootstrap intervals (Efron 1979): 95%, by percentiles of the resamples."""

Interval = dict[str, float]  # mean, low, high


def intervals(values, resamples: int, seed: int) -> list[Interval | None]:
    """Mean and interval of each column of `values` (rows, measures).

    NaN marks a row where a measure is not defined: it is left out of that measure's mean. All columns are
    resampled with the same draws, so their intervals can be compared. A column without values gives None.
    """
    means, drawn = _resampled(values, resamples, seed)
    return [_interval(mean, own) for mean, own in zip(means, drawn.T, strict=True)]


def macro_interval(values, groups, resamples: int, seed: int) -> Interval | None:
    """Mean over groups of their means, and its interval, of `values` (rows) with a group each.

    Rows are resampled as a whole and not within their groups, so that how often a group occurs is part of
    the uncertainty; a resample without any row of a group is the mean over the others.
    """
    import numpy as np

    if not len(values):
        return None
    found = np.asarray(groups)
    own = np.where(found[:, None] == np.unique(found), np.asarray(values, dtype=np.float64)[:, None], np.nan)
    means, drawn = _resampled(own, resamples, seed)
    return _interval(np.mean(means), np.nanmean(drawn, axis=1))


def quantile_interval(values, share: float, resamples: int, seed: int) -> Interval | None:
    """The quantile `share` of `values` (rows), under the name `mean`, and its interval."""
    import numpy as np

    if not len(values):
        return None
    values = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return _interval(np.quantile(values, share), np.quantile(values[draws], share, axis=1))


def _resampled(values, resamples: int, seed: int):
    """(means of the columns, those of each resample (resamples, columns)); NaN where nothing is defined."""
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    rows = len(values)
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    # einsum and not matmul: BLAS may add in another order on another number of cores
    counts = np.einsum("rp,pm->rm", draws.astype(np.float64), defined.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.einsum("rp,pm->rm", draws.astype(np.float64), filled) / counts
        means = filled.sum(axis=0) / defined.sum(axis=0)
    return means, drawn


def _interval(mean, drawn) -> Interval | None:
    import numpy as np

    if np.isnan(mean):
        return None
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return {name: round(float(x), 4) for name, x in (("mean", mean), ("low", low), ("high", high))}
