"""A task as a source gives it, made ready for its folder: splits by group, no query in two of them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from scipy.cluster.hierarchy import DisjointSet

from stages.core.errors import UserError
from stages.core.hashing import sha256_text
from stages.core.messages import say
from stages.evaluation.people import one_spelling
from stages.kinds.retriever.parts.rows import (
    SPLITS,
    TASKS,
    Row,
    Split,
    Splits,
    Task,
    folder_of,
    lowest,
    write_tasks,
)
from stages.sources.splits import split_groups


def key_id(text: str) -> str:
    """The id of a key that has none: the same for the same text."""
    return sha256_text(text)[:16]


def same_query(query: str) -> str:
    """What queries have in common that people would call the same: letters, digits, operators in one case."""
    return one_spelling(query) or query


def split_rows(rows: Iterable[Row], val_share: float, test_share: float) -> Splits:
    """Rows by split, a hash of their group; groups that have a query in common become one."""
    rows, sets = list(rows), DisjointSet()
    for row in rows:
        group, query = ("group", row["group"]), ("query", same_query(row["query"]))
        sets.add(group)
        sets.add(query)
        sets.merge(group, query)
    first: dict[tuple[str, str], str] = {}
    for name in sorted({row["group"] for row in rows}):
        first.setdefault(sets["group", name], name)
    rows = [{**row, "group": first[sets["group", row["group"]]]} for row in rows]
    split_of = split_groups(Counter(row["group"] for row in rows), val_share, test_share)
    return {split: [row for row in rows if split_of[row["group"]] == split] for split in SPLITS}


def choosing(row: Row, earlier: Iterable[str], keys: dict[str, str]) -> Row:
    """`row`, which chooses from earlier texts, that join `keys`: a model's scores will say which are good."""
    texts = {key_id(text): text for text in earlier}
    keys |= texts
    # By id, which is a hash: where only the first ones are scored, they are not the earliest.
    return {**row, "among": list(texts), "neg": sorted(texts)}


def sampled(keys: Mapping[str, str], found: Iterable[Row], val: float, test: float, rows: int) -> Task:
    """Of rows in splits of these shares, `rows` of train, an eighth of that of val, half of test at most.

    And the keys that they name.
    """
    splits = split_rows(distinct(found), val, test)
    sizes: dict[Split, int] = {"train": rows, "val": rows // 8, "test": rows // 2}
    kept = {split: lowest(splits[split], max(1, size), "row") for split, size in sizes.items()}
    named = {name for own in kept.values() for row in own for name in (*row["pos"], *row.get("among", ()))}
    return Task({name: keys[name] for name in named}, kept)


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The rows in order of ids, less those that repeat the query of another."""
    kept: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        kept.setdefault(same_query(row["query"]), row)
    return list(kept.values())


def check_leaks(task: str, splits: Splits) -> None:
    """Raise UserError for a query that is in two splits: what is measured on it was trained on."""
    seen: dict[str, tuple[Split, str]] = {}
    for split in SPLITS:
        for row in splits[split]:
            other, name = seen.setdefault(same_query(row["query"]), (split, row["id"]))
            if other != split:
                raise UserError(
                    f"{task}: row {row['id']!r} of {split} asks the same as row {name!r} of {other}, "
                    f"{row['query'][:80]!r}; delete one of them"
                )


def write_and_tell(dataset: str, stage: str, made: Mapping[str, Task], found: Mapping[str, int]) -> dict:
    """Write data/DATASET/tasks, and say what it holds and what was `found`; returns the figures.

    Raises UserError where a query is in two splits.
    """
    tasks = {task: made[task] for task in TASKS if task in made}
    figures: dict[str, dict[str, int]] = {}
    for task, own in tasks.items():
        check_leaks(task, own.splits)
        rows, sizes = own.rows(), {split: len(own.splits[split]) for split in SPLITS}
        figures[task] = {
            "keys": len(own.keys),
            **sizes,
            "groups": len({row["group"] for row in rows}),
            "scored": sum("teacher_scores" in row for row in rows),
        }
    write_tasks(folder_of(dataset, "tasks"), stage, tasks)
    kept = {what: count for what, count in sorted(found.items()) if count}
    for what, counts in (*figures.items(), ("found", kept)):
        if counts:
            told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            say(f"{stage} {dataset}: {what}: {told}")
    return {"tasks": figures, "found": kept}
