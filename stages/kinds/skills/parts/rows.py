"""The rows that the stages of this kind write and read: files of JSON lines, one dict a line."""

from typing import Literal, NotRequired, TypedDict


class Pair(TypedDict):
    """A request and the text of the call that it stands for."""

    user: str
    call: str


class SourceExample(Pair):
    """A row of `skills/examples.jsonl`."""

    skill: str | None  # of the file; None: the file defines none that can be read
    shown: bool  # meant to be shown to the teacher
    source: str  # file:line


class OfferedExample(Pair):
    """An example before it is checked: what `gather` takes."""

    variety: str  # one of briefs.VARIETIES
    origin: Literal["file", "teacher"]
    source: str  # file:line, or the id of the teacher's answer


class Candidate(OfferedExample):
    """A row of `candidates/candidates.jsonl`."""

    id: str  # candidates.candidate_id
    skill: str
    notes: list[str]  # why a person should look at it first


class Decision(Pair):
    """A row of `prompts/<dataset>/decisions.jsonl`: `user` and `call` are what was decided about."""

    id: str  # of the candidate
    decision: Literal["accept", "reject", "edit"]
    new_user: NotRequired[str]  # both new ones: of an edit
    new_call: NotRequired[str]
