"""The kind of task "skills": a user's request goes in, one function call comes out.

Pure functions, like those of `queries`. A document is a request: its text is what the user said, and
`metadata.call` the call that it stands for, where that is known, and `metadata.defaults` the values that mean
the same as leaving an argument out, where there are any.
"""

from pydantic import BaseModel, Field

from stages.core.records import Document
from stages.kinds.kind import Task
from stages.kinds.skills.parts.calls import (
    Call,
    Value,
    call_or_none,
    parse_call,
    same_as_left_out,
    write_call,
)
from stages.kinds.skills.parts.match import normalised_match
from stages.kinds.skills.parts.schema import Skills
from stages.teacher.structured import stated

LEFT_OUT = "written as the known call is"  # why a call that is not rejected is left out
NO_SCHEMA = Skills(skills=())
WRAPPING = ("### Assistant:", "Assistant:", "call:")


class WrittenExample(BaseModel):
    """What a user may say, and the call that it stands for."""

    # Docstrings and descriptions are sent to the teacher and are part of the request's key.
    user: str = Field(description="What the user says, as a person would say or type it")
    assistant: str = Field(description='The one function call that it stands for, such as name(key="value")')


class Examples(BaseModel):
    """Different examples of requests to an assistant, each with the function call that it stands for."""

    examples: list[WrittenExample] = Field(description="Examples that differ in wording and in values")


def lines(text: str) -> list[tuple[int, str]]:
    """The calls in a text, one a line, each with its line from 0; a line that is no call is left out."""
    calls = ((number, called(line)) for number, line in enumerate(text.split("\n")))
    return [(number, write_call(call)) for number, call in calls if call]


def called(line: str) -> Call | None:
    """The call in a line, without what models put around it; None where there is none."""
    line = line.strip().strip("`").strip()
    for before in WRAPPING:
        line = line.removeprefix(before).strip()
    return call_or_none(line)


def as_served(text: str) -> str:
    """The text of the call that a student wrote, without what is around it; what is none stays as it is."""
    call = called(text)
    return text if call is None else write_call(call)


def parse(text: str) -> list[str]:
    """The calls in a text, each once."""
    return list(dict.fromkeys(call for _, call in lines(text)))


def parse_answer(response: str, form: str = "text", cut: bool = False) -> list[str]:
    """The calls in a teacher's answer of this form: text, json (of `Examples`) or tool (a list of calls).

    The last line of a text that was cut is left out. Raises ValueError where JSON is not what it should be.
    """
    if form == "text":
        return parse(response.rpartition("\n")[0] if cut else response)
    answers = stated(response, form, Examples)
    return parse("\n".join(example.assistant for answer in answers for example in answer.examples))


def fit(answer: list[str], document: Document) -> list[str]:
    """The call that the student is to learn: the known one, if this is the teacher's; else the teacher's."""
    usable = [call for call in answer if not reject(call, document)]
    return [document["metadata"].get("call", call) for call in usable[:1]] if len(answer) == 1 else []


def reject(line: str, document: Document) -> str | None:
    """Why a call may not be used for this request, or None: no call, or not the one that is known."""
    call, known = called(line), document["metadata"].get("call")
    defaults = document["metadata"].get("defaults", {})
    if call is None:
        return "not a call"
    if known is not None:
        left, right = (_essential(side, defaults) for side in (parse_call(known), call))
        if not normalised_match(left, right, NO_SCHEMA):
            return "not the call that is known"
    return None


def _essential(call: Call, defaults: dict[str, Value]) -> Call:
    """The call without the arguments that mean the same as leaving them out."""
    arguments = {
        name: value
        for name, value in call.arguments.items()
        if not same_as_left_out(value, defaults.get(name))
    }
    return Call(call.name, arguments)


TASK = Task(
    name="skills",
    column="calls",
    Answer=Examples,
    lines=lines,
    parse=parse,
    parse_answer=parse_answer,
    fit=fit,
    flat=list,
    output="\n".join,
    well_formed=lambda line: called(line) is not None,
    reject=reject,
    left_out=LEFT_OUT,
    subject=lambda document: document["metadata"]["skill"],
)
