"""The rows that stages of rag pass on: passages, questions, what a retriever finds, and answers."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from stages.core.errors import UserError
from stages.core.files import iter_jsonl, verify_manifest
from stages.kinds.rag import places
from stages.retrieval.passages import Passage

Split = Literal["train", "val", "test", "people"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "people")  # people: for measuring only
HELD_OUT: tuple[Split, ...] = ("test", "people")
GOLD, RETRIEVED = "gold", "retrieved"  # which passages an answer was given from


class Turn(TypedDict):
    speaker: str
    message: str


class Question(TypedDict):
    """A question, its reference answer, and the ids of the passages that hold it.

    `hard` are ids of passages that the data say do not hold it. `source` is the document it is about.
    """

    id: str
    question: str
    answer: str
    gold: list[str]
    source: str
    history: NotRequired[list[Turn]]
    hard: NotRequired[list[str]]


class Found(TypedDict):
    """What a retriever finds for the question of this id, best first."""

    id: str
    passages: list[str]
    scores: list[float]


class Answer(TypedDict):
    """A system's answer. `passages` are those of its prompt, in their order there; `scores` the retriever's.

    The times, in milliseconds, are those of a question asked alone; None for questions asked together.
    """

    id: str
    split: Split
    system: str
    context: str
    question: str
    answer: str
    passages: list[str]
    scores: list[float]
    retrieve_ms: float | None
    generate_ms: float | None
    tokens: int
    finish_reason: str


def read_passages(dataset: str) -> dict[str, Passage]:
    """The passages by id, in the order of the file. Raises UserError."""
    folder = places.passages(dataset)
    verify_manifest(folder)
    fields = tuple(Passage.__annotations__)
    return {row["id"]: row for row in iter_jsonl(folder / "passages.jsonl", fields)}


def read_questions(dataset: str, split: Split) -> list[Question]:
    path = places.passages(dataset) / f"{split}.jsonl"
    return list(iter_jsonl(path, ("id", "question", "answer", "gold", "source")))


def read_found(dataset: str, split: Split) -> dict[str, Found]:
    """By the id of the question."""
    path = places.retrieved(dataset) / f"{split}.jsonl"
    return {row["id"]: row for row in iter_jsonl(path, ("id", "passages", "scores"))}


def read_answers(path: Path) -> Iterator[Answer]:
    return iter_jsonl(path, ("id", "split", "system", "context", "question", "answer", "passages"))


def read_all(dataset: str) -> list[Answer]:
    """The answers of all systems. Raises UserError where the student gave none."""
    own = list(read_answers(places.answers(dataset)))
    if not any(row["answer"].strip() for row in own):
        raise UserError(
            f"{places.answers(dataset)}: {'every answer is empty' if own else 'zero rows'}, so nothing can "
            "be measured; look at the loss of `finetune`, and at what `convert` says of the training rows"
        )
    return [*own, *read_answers(places.compared(dataset))]


def query_of(question: Mapping) -> str:
    """What passages are looked for with: the question, behind the one that its user asked before it.

    A question such as "and what does it return?" has no word of what it is about.
    """
    turns = question.get("history") or []
    before = [turn["message"] for turn in turns if turn["speaker"] == "user"]
    return "\n".join([*before[-1:], question["question"]])


def texts_of(passages: Mapping[str, Passage], ids: Sequence[str]) -> list[str]:
    return [passages[name]["text"] for name in ids]
