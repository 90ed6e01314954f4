"""Rows of retrieval tasks, as the stages of this kind pass them on: one shape for all six tasks.

Whatever a task retrieves (passages, earlier turns, chunks, examples, tools) is a *key*, a row of the task's
keys.jsonl; rows name keys by id. So a text is stored, encoded and scored once however many rows have it, and
a task whose rows bring their own candidates (chat, lrlm) looks like one over a corpus.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from stages.core.files import iter_jsonl, write_jsonl
from stages.core.hashing import stable_integer

TASKS = ("qa", "convsearch", "chat", "lrlm", "icl", "tool")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Key(TypedDict):
    """A row of keys.jsonl. `text` is what is encoded: title and text in one, by the task's template."""

    id: str
    text: str


class Row(TypedDict):
    """A query and the keys it should find, by id.

    `pos` may be empty where only scores say what is good (chat, lrlm). `among`: its own candidates, which it
    chooses from in place of all keys of the task; for chat and lrlm they are also in `neg`. `neg` is
    there after `mine` (or where the source brought it). `teacher_scores` are those of pos, then of neg, and
    exactly as many. `group`: rows of one group are never in two splits, and are resampled together.
    """

    id: str
    query: str
    pos: list[str]
    among: NotRequired[list[str]]
    neg: NotRequired[list[str]]
    teacher_scores: NotRequired[list[float]]
    answers: NotRequired[list[str]]
    context: NotRequired[str]  # lrlm: text between key and query
    last: NotRequired[str]  # convsearch: the last turn alone, without what was said before
    group: str


def read_keys(task: Path) -> dict[str, str]:
    """{id: text} of a task's folder, in order of ids."""
    return {key["id"]: key["text"] for key in iter_jsonl(task / "keys.jsonl")}


def read_rows(task: Path, split: Split) -> list[Row]:
    """The rows of a split of a task's folder, in order of ids; none where the file is empty."""
    return list(iter_jsonl(task / f"{split}.jsonl"))


def tasks_in(folder: Path) -> list[str]:
    """The tasks that a folder of rows has, in the order of TASKS."""
    return [task for task in TASKS if (folder / task).is_dir()]


def lowest(rows: list[Row], limit: int, purpose: str) -> list[Row]:
    """At most `limit` rows (0: all), those with the lowest hash for this purpose, in their order."""
    ranked = sorted(rows, key=lambda row: stable_integer(purpose, row["id"]))
    names = {row["id"] for row in ranked[: limit or None]}
    return [row for row in rows if row["id"] in names]


def write_rows(task: Path, split: Split, rows: Iterable[Row]) -> None:
    """Sorted by id, inside the temporary directory of the caller."""
    write_jsonl(task / f"{split}.jsonl", sorted(rows, key=lambda row: row["id"]))
