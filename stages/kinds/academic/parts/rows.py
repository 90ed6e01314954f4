"""The rows that stages of this kind pass on: questions of a benchmark and models' answers."""

from typing import Literal, TypedDict


class Question(TypedDict):
    """A question and its reference answer. `context` is the text to answer from; "": to be retrieved.

    `source` is the paper that it is about ("" if unknown), `answerable` False where the reference is that the
    text does not say. `extra` holds the other columns of the file, as texts, for tables.
    """

    id: str
    question: str
    answer: str
    source: str
    answerable: bool
    context: str
    extra: dict[str, str]


class Answer(TypedDict):
    """A model's answer. `chunks` are the ids of those in its prompt, in order; none where a text was given.

    `kind` benchmark: a question of the file, with chunks retrieved; held_out: a row held out, given its text.
    `finish_reason` is "" of an answer that no engine of ours gave.
    """

    id: str
    model: str
    kind: Literal["benchmark", "held_out"]
    answer: str
    chunks: list[str]
    tokens: int
    finish_reason: str


class Time(TypedDict):
    """How long a model took over a question that was asked alone."""

    id: str
    model: str
    milliseconds: float
