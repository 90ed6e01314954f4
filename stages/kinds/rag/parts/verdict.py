"""The kind of task "verdict": an answer to a question goes in, whether it is correct comes out.

A teacher who judges ends with `Correctness: [[correct]]` or `Correctness: [[incorrect]]`, or answers with
JSON. Whatever else it may say, such as "partially correct", is no verdict: that answer counts as not judged,
not as incorrect. Pure functions, like those of `queries`.
"""

import re
from typing import Literal

from pydantic import BaseModel, Field

from stages.kinds.kind import Task
from stages.teacher.structured import stated

VERDICTS = ("correct", "incorrect")
# With the emphasis that models put around it, as in `**Correctness:** [[Correct]]`.
STATED = re.compile(r"\bcorrectness[\s:*_]*\[\[\s*(correct|incorrect)\s*\]\]", re.I)


class Verdict(BaseModel):
    """Whether the answer to the question is correct."""

    # Docstrings and descriptions are sent to the teacher and are part of the request's key.
    correctness: Literal["correct", "incorrect"] = Field(description="correct or incorrect, nothing between")


def lines(text: str) -> list[tuple[int, str]]:
    """The verdicts in a text, each with its line from 0."""
    return [(text.count("\n", 0, found.start()), found[1].lower()) for found in STATED.finditer(text)]


def parse(text: str) -> list[str]:
    """These verdicts, each once."""
    return list(dict.fromkeys(verdict for _, verdict in lines(text)))


def parse_answer(response: str, form: str = "text", cut: bool = False) -> list[str]:
    """The one verdict in a teacher's answer of this form: text, json or tool, in a list.

    Raises ValueError where it holds none, or both. One that was cut behind its verdict holds it.
    """
    if form == "text":
        verdicts = parse(response)
    else:
        verdicts = list(dict.fromkeys(answer.correctness for answer in stated(response, form, Verdict)))
    if len(verdicts) != 1:
        raise ValueError(f"expected one verdict, found {' and '.join(verdicts) or 'none'}")
    return verdicts


TASK = Task(
    name="verdict",
    column="verdicts",
    Answer=Verdict,
    lines=lines,
    parse=parse,
    parse_answer=parse_answer,
    fit=lambda answer, document: answer,
    flat=list,
    output="\n".join,
    well_formed=lambda text: text in VERDICTS,
    reject=lambda text, document: None if text in VERDICTS else "no verdict",
)
