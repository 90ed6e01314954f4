"""The rows that the stages of this kind write and read: files of JSON lines, one dict a line."""

from typing import Literal, NotRequired, TypedDict

from stages.kinds.skills.parts.calls import Value

Split = Literal["train", "val", "test"]


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


class SkillsMetadata(TypedDict):
    """What prompts may say of all skills, in the order of their names."""

    signatures: list[str]
    descriptions: list[str]
    fallback: str | None
    examples: list[Pair]


class RequestMetadata(SkillsMetadata):
    """The metadata of a request in the corpus."""

    call: str  # the one that is right
    skill: str
    variety: str
    origin: str
    defaults: NotRequired[dict[str, Value]]  # of the skill's parameters; absent where it has none
    template: str  # the wording, without values


class RequestDocument(TypedDict):
    """A row of `corpus/documents.jsonl`: its text is what the user said."""

    id: str
    title: str
    text: str
    metadata: RequestMetadata
    split: Split


class BriefMetadata(SkillsMetadata):
    """The metadata of a brief: what the teacher is to write, about what, and what it is shown."""

    skill: str
    variety: str
    count: int
    topics: list[str]
    signature: str
    description: str
    shown: list[Pair]


class BriefDocument(TypedDict):
    """A row of the corpus of briefs."""

    id: str
    title: str
    text: str
    metadata: BriefMetadata
    split: Split


class LeftOut(TypedDict):
    """A row of any file that cannot be scored; `row` counts from 1."""

    row: int
    user: str
    answer: str
    problem: str
