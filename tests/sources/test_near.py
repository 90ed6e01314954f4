"""Texts that repeat or resemble others, against a loop over all pairs of their sets."""

import random

import pytest

from stages.sources import near
from stages.sources.near import near_repeated, nearest, shingles

WORDS = "sort an array of values along one axis with numpy and plot the lines in a figure".split()


def jaccard(a: str, b: str) -> float:
    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def some_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(count)]


@pytest.fixture(params=[1, 1000, 1 << 22], autouse=True)
def cells_at_once(request, monkeypatch):
    monkeypatch.setattr(near, "CELLS_AT_ONCE", request.param)


@pytest.mark.parametrize("bound", [0.4, 0.6, 0.8, 1.0])
def test_repeats_equal_those_of_all_pairs(bound):
    texts = some_texts(300, 5)
    kept: list[str] = []
    expected = []
    for text in texts:
        expected.append(any(jaccard(text, other) >= bound for other in kept))
        if not expected[-1]:
            kept.append(text)
    assert near_repeated(texts, bound) == expected
    assert 0 < sum(expected) < 300


def test_the_nearest_is_the_first_of_the_most_similar():
    texts, others = some_texts(40, 1), some_texts(60, 2)
    expected = [(max(jaccard(text, other) for other in others), text) for text in texts]
    for (score, other), (best, text) in zip(nearest(texts, others), expected, strict=True):
        assert score == best
        assert other == next(other for other in others if jaccard(text, other) == best)


def test_texts_without_words():
    assert near_repeated([], 0.5) == [] and near_repeated(["?", "one", "!", ""], 0.5) == [
        False,
        False,
        True,
        True,
    ]
    assert nearest(["?", "one two"], ["!", "one"])[0] == (0, "!") and nearest(["one"], []) == [(0, "")]
