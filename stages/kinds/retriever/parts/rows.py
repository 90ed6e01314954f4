"""Rows of retrieval tasks, as the stages of this kind pass them on: one shape for all six tasks.

Whatever a task retrieves (passages, earlier turns, chunks, examples, tools) is a *key*, a row of the task's
keys.jsonl; rows name keys by id. So a text is stored, encoded and scored once however many rows have it, and
a task whose rows bring their own candidates (chat, lrlm) looks like one over a corpus.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict

from stages.core.errors import UserError
from stages.core.files import atomic_directory, iter_jsonl, verify_manifest, write_jsonl
from stages.core.hashing import stable_integer
from stages.evaluation.people import PageQuery, Text
from stages.retrieval.bm25 import Bm25
from stages.retrieval.ranking import Hits
from stages.sources.near import near_duplicate_groups

TASKS = ("qa", "convsearch", "chat", "lrlm", "icl", "tool")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


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


Splits = dict[Split, list[Row]]


class Task(NamedTuple):
    """Keys, {id: text}, and the rows of each split."""

    keys: dict[str, str]
    splits: Splits

    def rows(self, *splits: Split) -> list[Row]:
        """Those of some splits, by default of all, one after the other."""
        return list(chain.from_iterable(self.splits[split] for split in splits or SPLITS))

    def keys_of(self, split: Split) -> dict[str, str]:
        """What the rows of a split choose from: all keys, unless each row brings its own."""
        rows = self.splits[split]
        if not rows or not all("among" in row for row in rows):
            return self.keys
        named = {key for row in rows for key in (*row["among"], *row["pos"], *row.get("neg", ()))}
        return {key: text for key, text in self.keys.items() if key in named}


def folder_of(dataset: str, part: Literal["tasks", "mined", "scored", "runs"]) -> Path:
    """runs: TREC files of what was found. The others: a folder a task, of keys.jsonl and a file a split.

    Each repeats the keys, so that it can be read alone.
    """
    return Path("data") / dataset / part


def read_tasks(folder: Path, wanted: Sequence[str] = (), knob: str = "") -> dict[str, Task]:
    """The `wanted` tasks of a folder of rows, or else all that it has.

    Raises UserError, which names the `knob`, for a task that the folder has not, and for a folder without
    any, or whose files are not those of its manifest.
    """
    there = [task for task in TASKS if (folder / task).is_dir()]
    for task in wanted:
        if task not in there:
            raise UserError(f"{knob}: {folder} has no task '{task}'; it has {', '.join(there) or 'none'}")
    if not there:
        raise UserError(f"{folder}: has no task; run the stages tasks, mine and score")
    verify_manifest(folder)
    return {
        task: Task(
            {key["id"]: key["text"] for key in iter_jsonl(folder / task / "keys.jsonl")},
            {split: list(iter_jsonl(folder / task / f"{split}.jsonl")) for split in SPLITS},
        )
        for task in dict.fromkeys(wanted or there)
    }


def write_tasks(folder: Path, producer: str, tasks: Mapping[str, Task]) -> None:
    """Write a folder of rows, by a stage: of each task keys.jsonl and a file a split, sorted by id."""
    counts: dict[str, int] = {}
    with atomic_directory(folder, producer, counts) as directory:
        for task, (keys, splits) in tasks.items():
            texts = [{"id": name, "text": text} for name, text in keys.items()]
            for name, rows in {"keys": texts, **splits}.items():
                path = Path(task, f"{name}.jsonl")
                counts[path.as_posix()] = write_jsonl(directory / path, sorted(rows, key=itemgetter("id")))


class Asked(PageQuery):
    """People's query for keys of a task; `last` is the last turn of it, where it is a conversation."""

    last: Text | None = None


def asked_row(
    number: int, query: str, right: list[str], last: str | None, answers: Sequence[str] = ()
) -> Row:
    """A query of people's; those of one first right key are resampled together."""
    row: Row = {"id": f"{number:05}", "query": query, "pos": right, "group": right[0]}
    return {**row, "answers": [*answers], **({"last": last} if last else {})}


def lowest(rows: list[Row], limit: int, purpose: str) -> list[Row]:
    """At most `limit` rows (0: all), those with the lowest hash for this purpose, in their order."""
    ranked = sorted(rows, key=lambda row: stable_integer(purpose, row["id"]))
    names = {row["id"] for row in ranked[: limit or None]}
    return [row for row in rows if row["id"] in names]


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


class Keys:
    def __init__(self, task: str, texts: Mapping[str, str]):
        self.task, self.ids, self.texts = task, list(texts), list(texts.values())
        self.number = {name: number for number, name in enumerate(self.ids)}

    @cached_property
    def folded(self) -> list[str]:
        """The texts in one case, with single spaces."""
        return list(map(folded, self.texts))

    @cached_property
    def by_text(self) -> dict[str, str]:
        """Ids by text, of equal ones the first."""
        return {text.strip(): name for name, text in zip(self.ids[::-1], self.texts[::-1], strict=True)}

    @cached_property
    def index(self) -> Bm25:
        return Bm25(self.texts)

    @cached_property
    def same(self) -> dict[str, str]:
        """For each key the name of its group of near-duplicates."""
        pairs = zip(self.ids, self.texts, strict=True)
        groups = near_duplicate_groups([{"id": name, "text": text, "metadata": {}} for name, text in pairs])
        return dict(zip(self.ids, groups, strict=True))

    def text(self, key: str) -> str:
        return self.texts[self.number[key]]

    def found(self, hits: Hits, query: int) -> list[str]:
        """The ids of the keys that a query found, best first."""
        return [self.ids[number] for number in hits.of(query)[0]]

    def ranking(self, hits: Hits, query: int) -> list[tuple[str, float]]:
        """The same with their scores."""
        return list(zip(self.found(hits, query), map(float, hits.of(query)[1]), strict=True))
