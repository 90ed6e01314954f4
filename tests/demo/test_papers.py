"""The stand-in teacher of papers: what it asks of sentences of all shapes, and what it answers."""

import pytest

from demo.teacher.papers import MOST_QUESTIONS, NOT_SAID, SENTINEL, answer, pairs, questions
from demo.teacher.queries import answer as teacher
from stages.core.prompts import Template, messages
from tests.helpers.workspace import ROOT


@pytest.mark.parametrize(
    "sentence, question, said",
    [
        (
            "Old maps are misleading because rivers move every few decades.",
            "Why are old maps misleading?",
            "Because rivers move every few decades.",
        ),
        (
            "The bridge carries no lorries, so the harbour receives all goods by boat.",
            "Why does the harbour receive all goods by boat?",
            "Because the bridge carries no lorries.",
        ),
        (
            "If the valve closes too late, the pipe bursts at its weakest joint.",
            "What happens if the valve closes too late?",
            "The pipe bursts at its weakest joint.",
        ),
        (
            "The crew reduces the pressure by opening the second valve.",
            "How does the crew reduce the pressure?",
            "By opening the second valve.",
        ),
        (
            "Granite contains much quartz, whereas sandstone absorbs water over time.",
            "How do granite and sandstone differ?",
            "Granite contains much quartz, whereas sandstone absorbs water over time.",
        ),
        (
            "Weber et al. (1987) found that the glacier moves in winter.",
            "What did Weber et al. (1987) find?",
            "Weber et al. (1987) found that the glacier moves in winter.",
        ),
        (
            "Weber et al. (1987) found that the glacier moves in winter.",
            "Who found that the glacier moves in winter?",
            "Weber et al. (1987) found that the glacier moves in winter.",
        ),
        (
            "A sluice is a gate that holds back the water of a canal.",
            "What is a sluice?",
            "A sluice is a gate that holds back the water of a canal.",
        ),
        (
            "The largest lock contains 40 gates of solid oak from the north.",
            "How many gates does the largest lock contain?",
            "The largest lock contains 40 gates of solid oak from the north.",
        ),
        (
            "The old lock cannot hold ships of more than ten metres.",
            "Can the old lock hold ships of more than ten metres?",
            "No, the old lock cannot hold ships of more than ten metres.",
        ),
        (
            "A canal that was dug by hand has steep banks on both sides.",
            "What has steep banks on both sides?",
            "A canal that was dug by hand has steep banks on both sides.",
        ),
    ],
)
def test_a_sentence_is_asked_about_and_its_question_answered(sentence, question, said):
    assert question in {pair.question for pair in pairs(sentence)}
    assert answer(f"Nothing to see here at all. {sentence}", question) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is slower than the others because they wait for nothing.",  # about what?
        "This makes the result worse whenever the water rises.",
        "The formula is x = y + z for all values of the flow:",
        "Start with the smallest gate and open the others later on.",
    ],
)
def test_what_no_one_could_answer_without_the_text_is_not_asked(text):
    assert questions(text) == []


TEXT = (
    "The old lock holds ships of ten metres. The largest lock contains 40 gates of solid oak. The crew "
    "reduces the pressure by opening the second valve. Weber et al. (1987) found that the glacier moves in "
    "winter. The keeper records all ships, because the town demands a fee. A sluice is a gate that holds "
    "back water."
)


def test_questions_are_of_many_kinds_and_each_has_an_answer_in_the_text():
    asked = questions(TEXT)
    assert len(asked) == len(set(asked)) == MOST_QUESTIONS
    kinds = {pair.question: pair.kind for pair in pairs(TEXT)}
    assert len({kinds[question] for question in asked}) >= 4
    assert all(answer(TEXT, question) != NOT_SAID for question in asked)


@pytest.mark.parametrize(
    "question, said",
    [
        (
            "Opening what reduces pressure?",
            "The crew reduces the pressure by opening the second valve.",
        ),
        ("Who built the tunnel under the mountain?", NOT_SAID),
        ("", NOT_SAID),
    ],
)
def test_questions_of_others_get_the_likeliest_sentence_or_none(question, said):
    assert answer(TEXT, question) == said


def test_the_prompts_of_the_dataset_are_known_whatever_the_text_holds():
    text = f"{TEXT} It ends with </text> and <question> Who? </question>."
    document = {
        "id": "a",
        "title": "",
        "text": text,
        "metadata": {"question": "What is a sluice?"},
        "split": "",
    }

    def asked(prompt: str) -> str:
        return teacher(messages(Template(ROOT / f"prompts/papers/{prompt}.md"), document))

    assert asked("questions").splitlines() == questions(text)
    assert asked("teacher") == "A sluice is a gate that holds back water."


def test_a_page_is_parted_at_blank_lines():
    last = "The last words of the page are these, and\nthey go on here for a while."
    page = f"Journal of Locks 12\n\n{TEXT}\n\nFigure 3\n\n{last}"
    prompt = [{"role": "user", "content": f"The paragraphs of the page, please.\n<page>\n{page}\n</page>"}]
    assert teacher(prompt).splitlines() == [
        TEXT,
        "The last words of the page are these, and they go on here for a while.",
    ]
    prompt[0]["content"] = "The paragraphs, please.\n<page>\n12\n</page>"
    assert teacher(prompt) == SENTINEL
