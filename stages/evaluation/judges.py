"""How far a judge's verdicts agree with people's, and what people would find of all that it judged."""

from collections.abc import Sequence

import numpy as np

from stages.evaluation.bootstrap import Interval


def corrected(judged: Sequence[float], labelled: Sequence[tuple[float, float]]) -> Interval:
    """The mean that people would give all rows: prediction-powered inference (Angelopoulos et al. 2023).

    From a judge's scores of all rows and pairs (people's score, judge's) of some; 95%, by a normal curve.
    """
    scores, errors = np.asarray(judged, float), np.array([own - guess for own, guess in labelled])
    mean = scores.mean() + errors.mean()
    half = 1.96 * np.sqrt(scores.var() / len(scores) + errors.var() / len(errors))
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}


def cohens_kappa(one: np.ndarray, other: np.ndarray) -> float | None:
    """The agreement of two judges less that by chance; None where they could not but agree."""
    agreed = (one == other).mean()
    chance = one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())
    return None if chance == 1 else round(float((agreed - chance) / (1 - chance)), 4)
