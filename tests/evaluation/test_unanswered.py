"""Answers that say that the text does not answer, and those that do not."""

import pytest

from stages.evaluation.unanswered import says_not


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
