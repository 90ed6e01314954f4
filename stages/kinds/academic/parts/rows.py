"""The rows that stages of this kind pass on, questions and answers; and which answers say nothing."""

import re
from typing import Literal, TypedDict

# What an unanswerable question is answered with, at training and by people.
NOT_SAID = "The text does not say."
# What says that the text does not answer: the text does not say it, or it is not said in the text. Of the 267
# answers held out in the data of David & Goliath 84 do, by reading, and by this.
TEXT = r"(?:text|passage|context|article|paper|document|chunk|excerpt|section|literature|information)s?"
TELL = r"""(?:say|state|mention|specify|provide|contain|include|give|tell|answer|discuss|describe|explain|
    indicate|address|cover|detail|define|report)"""
SAYS_NOT = re.compile(
    rf"""\b{TEXT}\b [^.]{{0,40}}? \b(?:do|does|did|has|have)(?:\ not|n['’]t)\ (?:\w+\ ){{0,2}}?{TELL}
    | \b(?:is|are|was|were)(?:\ not|n['’]t)\ (?:\w+\ ){{0,2}}?
      (?:said|stated|mentioned|specified|provided|given|told|answered|discussed|described|available)
      (?: \W*\Z | \b[^.]{{0,20}}\b{TEXT}\b )
    | \bno\ (?:\w+\ )?(?:information|mention|answer)\b | \bnot\ enough\ information\b | \bunanswerable\b
    | \b(?:cannot|can\ not|can['’]t|could\ not)\ be\ (?:answered|determined|inferred|found)\b
    | \bdo(?:\ not|n['’]t)\ know\b""",
    re.I | re.X,
)
SENTENCE = re.compile(r"(?<=[.!?。！？])\s")


def says_not(answer: str) -> bool:
    """Does an answer begin by saying that the text does not answer the question?"""
    return bool(SAYS_NOT.search(SENTENCE.split(answer.strip(), maxsplit=1)[0]))


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
