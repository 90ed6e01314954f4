"""Cosines of texts: equal ones, shuffled ones, and none."""

from pathlib import Path

import numpy as np
import pytest

from stages.core.files import write_json
from stages.retrieval import likeness as module
from stages.retrieval.likeness import Likeness, calibrated

NONE = "models/shipped/none"
REFERENCES = [f"answer number {n}" for n in range(7)]


@pytest.fixture
def likeness(tmp_path, monkeypatch):
    """Vectors drawn at random, as an encoder gives them: unit rows of 16 bits."""
    monkeypatch.chdir(tmp_path)
    write_json(Path(NONE) / "retriever.json", {"type": "none"})

    class Drawn:
        def of(self, texts, folder, max_length, prompt=""):
            drawn = np.random.default_rng(0).normal(size=(len(texts), 5)) + 1
            return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)

    monkeypatch.setattr(module, "Vectors", Drawn)
    return Likeness("models/encoder", [*REFERENCES, ""])


def test_equal_texts_have_a_cosine_of_one_and_empty_ones_of_nothing(likeness):
    floor = likeness.floor(REFERENCES)
    for text in REFERENCES:
        assert likeness.of(text, text) == pytest.approx(1, abs=1e-12)
        assert calibrated(likeness.of(text, text), floor) == pytest.approx(1, abs=1e-12)
        assert likeness.of(text, "") == likeness.of("", text) == 0


def test_shuffled_reference_answers_have_the_floor(likeness):
    """Every answer with each other question's, as often as every other: by cyclic shifts."""
    floor = likeness.floor(REFERENCES)
    shuffled = [
        likeness.of(text, other)
        for shift in range(1, len(REFERENCES))
        for text, other in zip(REFERENCES, REFERENCES[shift:] + REFERENCES[:shift], strict=True)
    ]
    assert np.mean(shuffled) == pytest.approx(floor, abs=1e-12) and 0 < floor < 1
    assert np.mean([calibrated(cosine, floor) for cosine in shuffled]) == pytest.approx(0, abs=1e-12)
    assert min(calibrated(cosine, floor) for cosine in shuffled) < 0  # not clipped
    assert likeness.floor([*REFERENCES, *REFERENCES[:3]]) == floor  # a pair of equal ones is none
    assert np.isnan(likeness.floor(REFERENCES[:1]))


def test_without_an_encoder_no_cosine_is_defined(likeness):
    none = Likeness(NONE, ["a", "", "b"])
    assert all(np.isnan(value) for value in (none.of("a", "a"), none.of("a", ""), none.floor(["a", "b"])))
