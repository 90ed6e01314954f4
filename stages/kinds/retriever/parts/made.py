"""A task as a source gives it, made ready for its folder: splits by group, no query in two of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from scipy.cluster.hierarchy import DisjointSet

from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_jsonl
from stages.core.hashing import sha256_text, stable_integer
from stages.core.messages import say
from stages.core.text import comparable
from stages.kinds.retriever import places
from stages.kinds.retriever.parts.rows import SPLITS, TASKS, Row, Split, write_rows
from stages.sources.splits import split_groups

Splits = dict[Split, list[Row]]


class Task(NamedTuple):
    """Keys (id to text) and the rows of each split."""

    keys: dict[str, str]
    rows: Splits


def key_id(text: str) -> str:
    """The id of a key that has none: the same for the same text."""
    return sha256_text(text)[:16]


def same_query(query: str) -> str:
    """What two queries have in common that people would call the same."""
    return " ".join(comparable(query).split())


def joined_groups(rows: Iterable[Row]) -> list[Row]:
    """The rows; groups that have a query in common become one, so that it stays in one split."""
    rows, sets = list(rows), DisjointSet()
    for row in rows:
        for member in (group := ("group", row["group"])), (query := ("query", same_query(row["query"]))):
            sets.add(member)
        sets.merge(group, query)
    smallest: dict[tuple[str, str], str] = {}
    for group in sorted({row["group"] for row in rows}):
        smallest.setdefault(sets[("group", group)], group)
    return [{**row, "group": smallest[sets[("group", row["group"])]]} for row in rows]


def split_rows(rows: Iterable[Row], val_share: float, test_share: float) -> Splits:
    """Rows by split, a hash of their group; groups that have a query in common are one."""
    rows = joined_groups(rows)
    split_of = split_groups(Counter(row["group"] for row in rows), val_share, test_share)
    return {split: [row for row in rows if split_of[row["group"]] == split] for split in SPLITS}


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The rows in order of ids, less those that repeat the query of another."""
    kept: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        kept.setdefault(same_query(row["query"]), row)
    return list(kept.values())


def sampled(splits: Splits, rows: int) -> Splits:
    """At most so many rows of train, a quarter of that of val, half of test: those of the lowest hashes."""
    sizes: dict[Split, int] = {"train": rows, "val": rows // 4, "test": rows // 2}
    return {
        split: sorted(splits[split], key=lambda row: stable_integer("row", row["id"]))[: sizes[split]]
        for split in SPLITS
    }


def with_used(keys: Mapping[str, str], splits: Splits) -> Task:
    """A task of these rows, with those of the keys that they name."""
    fields = ("pos", "neg", "among")
    named = {
        name for split in SPLITS for row in splits[split] for field in fields for name in row.get(field, ())
    }
    return Task({name: keys[name] for name in named}, splits)


def check_leaks(task: str, splits: Splits) -> None:
    """Raise UserError for a query that is in two splits: what is measured on it was trained on."""
    seen: dict[str, tuple[Split, str]] = {}
    for split in SPLITS:
        for row in splits[split]:
            other, name = seen.setdefault(same_query(row["query"]), (split, row["id"]))
            if other != split:
                raise UserError(
                    f"{task}: the query of row {row['id']!r} of {split} is that of row {name!r} of {other}, "
                    f"too: {row['query'][:80]!r}; delete one of them"
                )


def write_tasks(dataset: str, stage: str, made: Mapping[str, Task], told: Mapping[str, int]) -> dict:
    """Write data/DATASET/tasks; returns its figures, and tells them. `told` counts what rows held.

    Raises UserError where a query is in two splits.
    """
    figures: dict[str, dict] = {}
    with atomic_directory(places.tasks(dataset), stage, counts := {}) as directory:
        for task in (name for name in TASKS if name in made):
            check_leaks(task, made[task].rows)
            figures[task] = write_task(directory / task, made[task])
            sizes = {"keys": figures[task]["keys"], **figures[task]["rows"]}
            counts |= {f"{task}/{name}.jsonl": size for name, size in sizes.items()}
            shown = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
            say(f"{stage} {dataset}: {task}: {shown}")
    for found, count in sorted(told.items()):
        if count:
            say(f"{stage} {dataset}: {found}: {count:,}")
    return {"tasks": figures, "found": dict(sorted(told.items()))}


def write_task(folder: Path, task: Task) -> dict:
    """Write a task's files into the temporary directory of the caller; returns what it holds."""
    folder.mkdir()
    write_jsonl(folder / "keys.jsonl", ({"id": name, "text": task.keys[name]} for name in sorted(task.keys)))
    for split in SPLITS:
        write_rows(folder, split, task.rows[split])
    rows = [row for split in SPLITS for row in task.rows[split]]
    return {
        "keys": len(task.keys),
        "rows": {split: len(task.rows[split]) for split in SPLITS},
        "groups": len({row["group"] for row in rows}),
        "answered": sum("answers" in row for row in rows),
        "scored": sum("teacher_scores" in row for row in rows),
    }
