"""Answers which say that the text does not answer the question."""

import re

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
