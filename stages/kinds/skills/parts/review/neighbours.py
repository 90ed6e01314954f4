"""Near neighbours of a candidate that have another kind of call: where two people would label differently."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from stages.core.text import letters
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.verbatim import span

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
LEAST, SHOWN = 0.5, 4


class Wording(NamedTuple):
    """A request without case and punctuation, its words without the values of the call, the kind of call."""

    user: str
    words: frozenset[str]
    call: str
    kind: tuple


def wording(user: str, text: str, skills: Skills) -> Wording:
    """The kind of a call is its name and its values that are no free texts."""
    call = parse_call(text)
    skill, kind, spans = skills.by_name.get(call.name), [call.name], []
    for name, value in sorted(call.arguments.items()):
        if not (skill and name in skill.parameters and skill.parameters[name].type == "string"):
            kind.append((name, value))
        elif found := span(value, user):
            spans.append(found)
    bare = user
    for start, stop in sorted(spans, reverse=True):
        bare = f"{bare[:start]} {bare[stop:]}"
    words = frozenset(word.casefold() for word in WORD.findall(bare))
    return Wording(letters(user), words, text.casefold(), tuple(kind))


class Neighbours:
    """Candidates by their wording. Every one is compared: 20,000 take some 10 ms."""

    def __init__(self, candidates: Iterable[dict], skills: Skills):
        self.wordings = {row["id"]: wording(row["user"], row["call"], skills) for row in candidates}

    def of(self, name: str) -> list[str]:
        """The ids of up to SHOWN others, nearest first.

        They are the same request with another call, or have another kind of call and words as near as LEAST
        (Jaccard).
        """
        own = self.wordings[name]
        found = []
        for other, theirs in self.wordings.items():
            if theirs.user == own.user and theirs.call != own.call:
                found.append((-1.0, other))
            elif theirs.kind != own.kind and (both := len(own.words & theirs.words)):
                share = both / (len(own.words) + len(theirs.words) - both)
                found += [(-share, other)] if share >= LEAST else []
        return [other for _, other in sorted(found)[:SHOWN]]
