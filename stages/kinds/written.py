"""What a teacher writes about papers: the paragraphs of a page, questions about a text, the answer to one.

Pure functions, shared by the stages, the measures and the student, so that all are held to one rule.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from stages.core.text import comparable, count_words, letters
from stages.evaluation.unanswered import NOT_SAID, says_not
from stages.kinds.kind import Task
from stages.teacher.structured import stated

SENTINEL = "no meaningful paragraphs found"  # what the prompt lets a teacher say of a page without any
SHORTEST = 10  # characters: a line of no more is a page number or a heading, no paragraph
MARK = re.compile(r"^(?:[-*•–]|\(?\d{1,3}[.)])\s+(?=\S)")  # a bullet, or the number of a list
AND_MORE = re.compile(r"[a-z)’\"]{3}[.!?:]\s+[A-Z(]|\b(?:[Bb]ut|[Hh]owever|[Aa]lthough)\b")
SPEAKER = re.compile(r"^[#*\s]*(?:question|answer|response)(?:\s*\d+)?[*\s]*:[*\s]*", re.I)


class Paragraphs(BaseModel):
    """The paragraphs of the page."""

    # Docstrings and descriptions are sent to the teacher and are part of the request's key.
    paragraphs: list[str] = Field(description="Whole paragraphs, in order and as they are written")


class Questions(BaseModel):
    """Questions that the text answers."""

    questions: list[str] = Field(description="Different questions, each of which the text alone answers")


class Answer(BaseModel):
    """The answer to the question, from the text alone."""

    answer: str = Field(description=f"One or two sentences; '{NOT_SAID}' where the text does not answer")


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines with a letter or digit, each with its number from 0, less bullets and numbers."""
    lines = ((number, MARK.sub("", line.strip())) for number, line in enumerate(text.split("\n")))
    return [(number, line) for number, line in lines if letters(line)]


def questions(text: str) -> list[tuple[int, str]]:
    """The lines that ask something: what a model says before and after them is none."""
    lines = ((number, SPEAKER.sub("", line).strip(' "“”*')) for number, line in numbered_lines(text))
    return [(number, line) for number, line in lines if line.endswith(("?", "？"))]


def answers(text: str) -> list[tuple[int, str]]:
    """The one answer: all of the text, or NOT_SAID where it says no more than that, in whatever words."""
    answer = SPEAKER.sub("", text).strip()
    if says_not(answer) and not AND_MORE.search(answer):
        answer = NOT_SAID
    return [(0, answer)] if letters(answer) else []


def no_paragraph(line: str, document: Any) -> str | None:
    if letters(line) == letters(SENTINEL):
        return "no meaningful paragraphs"
    return None if len(line) > SHORTEST else f"{SHORTEST} characters or fewer"


def no_question(line: str, document: Any) -> str | None:
    return None if count_words(line) > 2 else "fewer than three words"


def no_answer(answer: str, document: Any) -> str | None:
    """Of an answer to a question that was put to a text of another paper, all but one are made up."""
    if not document["metadata"].get("answerable", True) and answer != NOT_SAID:
        return "an answer that the text does not hold"
    return None


def once(lines: list[tuple[int, str]]) -> list[str]:
    return list({comparable(line): line for _, line in reversed(lines)}.values())[::-1]


def read(
    response: str, form: str, cut: bool, model: type[BaseModel], lines: Callable[[str], list[tuple[int, str]]]
) -> list[str]:
    """The texts in a teacher's answer, each once; of one that was cut, the lines before the last.

    Raises ValueError where it is not in its form.
    """
    if form != "text":
        (field,) = model.model_fields
        stated_texts = [getattr(part, field) for part in stated(response, form, model)]
        if model is Answer:
            return once([line for text in stated_texts for line in lines(text)])
        response = "\n".join(" ".join(text.split()) for texts in stated_texts for text in texts)
    elif cut:
        response = "" if model is Answer else response.rpartition("\n")[0]
    return once(lines(response))


def task(
    name: str,
    model: type[BaseModel],
    lines: Callable[[str], list[tuple[int, str]]],
    reject: Callable[[str, Any], str | None],
) -> Task:
    return Task(
        name=name,
        column=next(iter(model.model_fields)),
        Answer=model,
        lines=lines,
        parse=lambda text: once(lines(text)),
        parse_answer=partial(read, model=model, lines=lines),
        fit=lambda texts, document: [text for text in texts if reject(text, document) is None],
        flat=list,
        output="\n".join,
        well_formed=lambda text: bool(letters(text)),
        reject=reject,
    )


PARAGRAPHS = task("paragraphs", Paragraphs, numbered_lines, no_paragraph)
QUESTION = task("question", Questions, questions, no_question)
ANSWER = task("answer", Answer, answers, no_answer)
