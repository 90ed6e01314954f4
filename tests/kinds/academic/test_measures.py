"""Measures of answers about papers, against values by hand and what is known of them."""

import numpy as np
import pytest

from stages.evaluation.unanswered import says_not
from stages.kinds.academic.parts import measures
from stages.kinds.academic.parts.measures import Likeness, calibrated, ended
from tests.helpers.papers_student import NONE, write_rows


@pytest.mark.parametrize(
    "answer",
    [
        "The text does not say.",
        "the text doesn't say",
        "The text does not provide specific details on the role of teams. However, it mentions others.",
        "The text suggests this as a question, but does not provide a definitive answer.",
        "The existing literature does not provide specific information on seniority.",
        "Unfortunately, this paper did not explicitly report the cost.",
        "The weight is not mentioned in the passage.",
        "That is not stated.",
        "There is no information about it.",
        "I don’t know.",
        "It cannot be determined from the context.",
    ],
)
def test_what_says_that_the_text_does_not_say(answer):
    assert says_not(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "No, its maximum is below one when fewer than ten relevant documents exist.",
        "They are not judged and count as not relevant.",
        "The model is not given the labels of the test set.",
        "Precision is 0.4. The text does not say more.",
        "The fraction that is not explained by the main factor shows validity.",
        "To the Cranfield experiments of the 1960s.",
    ],
)
def test_what_answers(answer):
    assert not says_not(answer)


@pytest.mark.parametrize(
    ("answer", "is_whole"),
    [
        ("Yes.", True),
        ('He said "yes."', True),
        ("好。", True),
        ("Why? (No!)\n", True),
        ("", False),
        ("and so", False),
    ],
)
def test_an_answer_that_ends_as_a_sentence_does(answer, is_whole):
    assert ended(answer) == is_whole


REFERENCES = [f"answer number {n}" for n in range(7)]


@pytest.fixture
def likeness(tmp_path, monkeypatch):
    """Vectors drawn at random, as an encoder gives them: unit rows of 16 bits."""
    monkeypatch.chdir(tmp_path)
    write_rows()

    class Drawn:
        def of(self, texts, folder, max_length, prompt=""):
            drawn = np.random.default_rng(0).normal(size=(len(texts), 5)) + 1
            return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)

    monkeypatch.setattr(measures, "Vectors", Drawn)
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
