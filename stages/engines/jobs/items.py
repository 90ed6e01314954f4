"""A shard as a work item: a file of prompts in, a file of finished rows out, the same on every machine.

A directory, data/.work/NAME, holds the items of one generation. `job.json` says what all of them share, and
lists them. An item is known by its key, a hash of its prompts:

- KEY.todo: a document a line, with its prompt and a seed for each sample;
- KEY.ATTEMPT.part: the rows that one attempt at it finished, in the order in which they were;
- KEY.jsonl: all its rows, sorted by (document_id, sample). It is there when the item is finished.

An attempt reads what the ones before it finished, and writes files of its own only; the last step is a
rename. So a worker that was taken for lost may go on beside its successor: no row occurs twice, and no file
is torn.
"""

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from stages.core.errors import UserError
from stages.core.files import iter_jsonl, read_jsonl, write_json, write_jsonl
from stages.core.hashing import shard_of
from stages.core.stage import Knobs
from stages.engines.load import open_engine
from stages.engines.protocol import Decoding

BLOCK = 1024  # documents sorted into items at one time
JOB = "job.json"


class Item(Knobs):
    shard: int
    key: str
    rows: int  # that it will have


class Job(Knobs):
    """`model` is a directory, from the one that data/.work lies in; `versions` are those of the engine."""

    model: str
    fingerprint: str
    decoding: Decoding
    versions: dict[str, str]
    grammar: str | None
    items: list[Item]


class Row(NamedTuple):
    document_id: str
    sample: int
    prompt: str
    seed: int


def write_job(path: Path, job: Job) -> None:
    write_json(path, job.model_dump())


def spill(directory: Path, documents: Iterable[dict], shards: int) -> list[Item]:
    """Write the KEY.todo of every shard that has documents, in one pass; those of no item go.

    A document has `document_id`, `prompt` and `seeds`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    digests, counts = defaultdict(hashlib.sha256), defaultdict(int)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        rest = iter(documents)
        while block := list(islice(rest, BLOCK)):
            lines = defaultdict(list)
            for document in block:
                shard = shard_of(document["document_id"], shards)
                lines[shard].append(json.dumps(document) + "\n")
                counts[shard] += len(document["seeds"])
            for shard, own in lines.items():
                content = "".join(own).encode()
                digests[shard].update(content)
                with open(Path(temporary, str(shard)), "ab") as stream:
                    stream.write(content)
        keys = {shard: digests[shard].hexdigest()[:32] for shard in sorted(digests)}
        for shard, key in keys.items():
            os.replace(Path(temporary, str(shard)), directory / f"{key}.todo")
    for old in directory.glob("*.todo"):
        if old.stem not in keys.values():
            old.unlink()
    return [Item(shard=shard, key=key, rows=counts[shard]) for shard, key in keys.items()]


def finished_name(item: Item) -> str:
    return f"{item.key}.jsonl"


def is_finished(directory: Path, item: Item) -> bool:
    return (directory / finished_name(item)).is_file()


def rows(directory: Path, item: Item) -> list[dict]:
    """All rows of a finished item. Raises UserError where they are not as many as they should be."""
    path = directory / finished_name(item)
    found = read_jsonl(path)
    if len(found) != item.rows:
        raise UserError(f"{path}: {len(found)} rows where {item.rows} should be; delete it and run again")
    return found


def todo(directory: Path, key: str) -> Iterator[Row]:
    """The rows to make. Raises UserError where the file is not the one that the key stands for."""
    path = directory / f"{key}.todo"
    if hashlib.sha256(path.read_bytes()).hexdigest()[:32] != key:
        raise UserError(f"{path}: torn or edited; run the stage that made it again")
    for document in iter_jsonl(path):
        for sample, seed in enumerate(document["seeds"]):
            yield Row(document["document_id"], sample, document["prompt"], seed)


def saved(directory: Path, key: str) -> dict[tuple[str, int], dict]:
    """What the attempts at an unfinished item made, by (document_id, sample), each file up to a torn line."""
    found: dict[tuple[str, int], dict] = {}
    for path in sorted(directory.glob(f"{key}.*.part")):
        for row in _untorn(path):
            found.setdefault((row["document_id"], row["sample"]), row)
    return found


def _untorn(path: Path) -> Iterator[dict]:
    with open(path, "rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield row


engine = cache(open_engine)  # a worker loads the model once


def finish(
    directory: Path, item: Item, job: Job, model: Path, made: Callable[[Path], None] = lambda part: None
) -> None:
    """Finish an item, from where earlier attempts left it; `made` is told of every new row, with its file."""
    if is_finished(directory, item):
        return
    wanted, found = list(todo(directory, item.key)), saved(directory, item.key)
    left = [row for row in wanted if (row.document_id, row.sample) not in found]
    attempt = f"{item.key}.{uuid4().hex[:12]}"
    if left:
        answers = engine(model, job.decoding).generate(
            [row.prompt for row in left], job.decoding, [row.seed for row in left], job.grammar
        )
        part = directory / f"{attempt}.part"
        with open(part, "x", encoding="utf-8", newline="\n") as stream:
            for answer in answers:
                row = left[answer.index]
                record = {"document_id": row.document_id, "sample": row.sample, **answer._asdict()}
                del record["index"]
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
                stream.flush()
                found[row.document_id, row.sample] = record
                made(part)
    # Under a name of its own until it is whole: on shared storage another attempt may be at the same place.
    own = directory / f"{attempt}.whole"
    write_jsonl(own, (found[key] for key in sorted((row.document_id, row.sample) for row in wanted)))
    os.replace(own, directory / finished_name(item))
