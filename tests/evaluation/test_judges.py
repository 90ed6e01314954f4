"""A judge beside people."""

import numpy as np

from stages.evaluation.judges import cohens_kappa, corrected


def test_a_judge_who_always_says_yes():
    own = corrected([1.0] * 200, [(0.0, 1.0), (1.0, 1.0)] * 5)
    assert own["mean"] == 0.5 and own["low"] < 0.2 and own["high"] > 0.8


def test_kappa():
    people = np.repeat([True, True, False, False], [20, 5, 10, 15])
    other = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert cohens_kappa(people, other) == 0.4
    assert cohens_kappa(people, people) == 1 and cohens_kappa(people, ~people) < -0.9
    assert cohens_kappa(people | True, people | True) is None
