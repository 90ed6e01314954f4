"""Means over pages with bootstrap intervals."""


def intervals(values, resamples: int, seed: int) -> list[dict | None]:
    """Mean and 95% percentile bootstrap interval (Efron 1979) of each column of `values` (pages, measures).

    NaN marks a page where a measure is not defined: it is left out of that measure's mean. All columns are
    resampled with the same draws, so their intervals can be compared. A column without values gives None.
    """
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    pages = len(values)
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    draws = np.random.default_rng(seed).multinomial(pages, np.full(pages, 1 / pages), size=resamples)
    # einsum and not matmul: BLAS may add in another order on another number of cores
    counts = np.einsum("rp,pm->rm", draws.astype(np.float64), defined.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.einsum("rp,pm->rm", draws.astype(np.float64), filled) / counts
    found = []
    for column in range(values.shape[1]):
        own = means[counts[:, column] > 0, column]
        if not defined[:, column].any():
            found.append(None)
            continue
        low, high = np.quantile(own, (0.025, 0.975))
        mean = filled[:, column].sum() / defined[:, column].sum()
        found.append({name: round(float(x), 4) for name, x in (("mean", mean), ("low", low), ("high", high))})
    return found
