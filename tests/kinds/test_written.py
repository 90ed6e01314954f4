"""How a teacher's paragraphs, questions and answers are read."""

import pytest

from stages.evaluation.unanswered import NOT_SAID
from stages.kinds import registry

PARAGRAPH = "A paragraph of some length that says something."


@pytest.mark.parametrize(
    "task, said, form, texts",
    [
        (
            "paragraphs",
            f"1. {PARAGRAPH}\n\n- Another one of them.\n***",
            "text",
            [PARAGRAPH, "Another one of them."],
        ),
        (
            "paragraphs",
            f'{{"paragraphs": ["{PARAGRAPH}", "Two\\nlines."]}}',
            "json",
            [PARAGRAPH, "Two lines."],
        ),
        (
            "question",
            "Here is one:\n\nQuestion: What is a label?\nI hope it helps.",
            "text",
            ["What is a label?"],
        ),
        ("question", '1) "Why is it so?"\n2) why is it so?', "text", ["Why is it so?"]),
        ("question", "为什么标签会缺失？", "text", ["为什么标签会缺失？"]),
        ("question", "I cannot write a question about this.", "text", []),
        (
            "question",
            '[{"name": "Questions", "arguments": {"questions": ["Why so?", "How?"]}}]',
            "tool",
            ["Why so?", "How?"],
        ),
        ("answer", "**Answer:** Because it is.\n\nSo it is.", "text", ["Because it is.\n\nSo it is."]),
        ("answer", "the text does not say", "text", [NOT_SAID]),
        (
            "answer",
            "The text does not provide details on work by J.S. Bell et al. (1964).",
            "text",
            [NOT_SAID],
        ),
        (
            "answer",
            "The text does not say that, but it says more.",
            "text",
            ["The text does not say that, but it says more."],
        ),
        ("answer", '{"answer": "Two\\nlines."}', "json", ["Two\nlines."]),
        ("answer", " \n", "text", []),
    ],
)
def test_what_is_read_of_an_answer(task, said, form, texts):
    assert registry.task(task).parse_answer(said, form, False) == texts


def test_of_an_answer_that_was_cut_the_last_line_is_lost():
    assert registry.task("question").parse_answer("Why is it?\nHow is it don", "text", True) == ["Why is it?"]
    assert registry.task("answer").parse_answer("Because\nit", "text", True) == []


@pytest.mark.parametrize("said", ["{}", "Why?", '{"questions": "Why?"}'])
def test_what_is_not_in_its_form_is_an_error(said):
    with pytest.raises(ValueError):
        registry.task("question").parse_answer(said, "json", False)


@pytest.mark.parametrize(
    "task, text, metadata, reason",
    [
        ("paragraphs", "No meaningful paragraphs found.", {}, "no meaningful paragraphs"),
        ("paragraphs", "Fig. 3 (a)", {}, "10 characters or fewer"),
        ("paragraphs", "Figure 3 (a)", {}, None),
        ("question", "Why so?", {}, "fewer than three words"),
        ("question", "Why is so?", {}, None),
        ("answer", "Because.", {"answerable": True}, None),
        ("answer", "Because.", {"answerable": False}, "an answer that the text does not hold"),
        ("answer", NOT_SAID, {"answerable": False}, None),
        ("answer", "Because.", {}, None),
    ],
)
def test_what_may_not_be_used_is_named_and_left_out(task, text, metadata, reason):
    task, document = registry.task(task), {"metadata": metadata}
    assert task.reject(text, document) == reason
    assert task.fit([text], document) == ([] if reason else [text])
