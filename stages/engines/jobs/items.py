"""A shard as a work item: a file of prompts in, a file of finished rows out, the same on every machine.

A directory, data/.work/NAME, holds the items of one generation. `job.json` says what all of them share, and
lists them. An item is known by its key, a hash of its prompts:

- KEY.todo: a document a line, with its prompt and a seed for each sample;
- KEY.ATTEMPT.part: the rows (Row) that one attempt at it finished, in the order in which they were;
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
from typing import Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError

from stages.core.errors import UserError
from stages.core.files import iter_jsonl, write_json, write_jsonl
from stages.core.hashing import shard_of
from stages.core.messages import say
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
    """What all items of a generation share.

    model: a Hugging Face directory, relative to the one that data/.work lies in, of that fingerprint.
    versions: packages of the engine. grammar: Lark text that answers have to obey.
    """

    model: str
    fingerprint: str
    decoding: Decoding
    versions: dict[str, str]
    grammar: str | None
    items: list[Item]


class Sample(NamedTuple):
    """A row to make: the `sample`-th answer about a document."""

    document_id: str
    sample: int
    prompt: str
    seed: int


class Row(BaseModel):
    """A finished row: what stands in KEY.ATTEMPT.part and KEY.jsonl, and is checked whenever it is read."""

    document_id: str
    sample: int
    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    generated_tokens: int = Field(ge=0, lt=2**31)  # as wide as the shards' column
    logprob: float | None
    line_logprobs: list[float | None] | None


def write_job(path: Path, job: Job) -> None:
    write_json(path, job.model_dump())


def spill(directory: Path, documents: Iterable[dict], shards: int) -> list[Item]:
    """Write the KEY.todo of every shard that has documents, in one pass; returns the items.

    A document has `document_id`, `prompt` and `seeds`. Files KEY.todo of other items are removed.
    """
    # A block of documents is in memory at a time: 120 MiB for a million rows, where a list of them took 757.
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
            for shard, block_lines in lines.items():
                content = "".join(block_lines).encode()
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
    """All rows of a finished item. Raises UserError unless there are as many as there should be."""
    path = directory / finished_name(item)
    rows = [read for line in path.read_bytes().splitlines(keepends=True) if (read := _row(line))]
    if len(rows) != item.rows:
        raise UserError(f"{path}: {len(rows)} rows where {item.rows} should be; delete it and run again")
    return rows


def todo(directory: Path, key: str) -> Iterator[Sample]:
    """The rows of an item to make. Raises UserError where the file is not the one that the key stands for."""
    path = directory / f"{key}.todo"
    if hashlib.sha256(path.read_bytes()).hexdigest()[:32] != key:
        raise UserError(f"{path}: torn or edited; run the stage that made it again")
    for document in iter_jsonl(path):
        for sample, seed in enumerate(document["seeds"]):
            yield Sample(document["document_id"], sample, document["prompt"], seed)


def saved(directory: Path, key: str) -> dict[tuple[str, int], dict]:
    """The rows that attempts at an unfinished item have written, by (document_id, sample).

    A last line that is torn is left out: it is being written, or was when its worker was killed. So is, with
    a line on stderr, any other line that is no row.
    """
    by_sample: dict[tuple[str, int], dict] = {}
    for path in sorted(directory.glob(f"{key}.*.part")):
        lines = path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if row := _row(line):
                by_sample.setdefault((row["document_id"], row["sample"]), row)
            elif number < len(lines):
                say(f"{path}, row {number}: not a finished row; it is made again")
    return by_sample


def _row(line: bytes) -> dict | None:
    """The row that a whole line holds, else None."""
    try:
        return Row.model_validate_json(line).model_dump() if line.endswith(b"\n") else None
    except ValidationError:
        return None


engine = cache(open_engine)  # a worker loads the model once


def finish(
    directory: Path, item: Item, job: Job, model: Path, on_row: Callable[[Path], None] = lambda part: None
) -> None:
    """Write the rows of an item, from where earlier attempts left it.

    `on_row` is called after every new row, with the file that it was written to. Raises UserError for a torn
    KEY.todo, and from the engine.
    """
    if is_finished(directory, item):
        return
    samples, rows = list(todo(directory, item.key)), saved(directory, item.key)
    left = [row for row in samples if (row.document_id, row.sample) not in rows]
    attempt = f"{item.key}.{uuid4().hex[:12]}"
    if left:
        answers = engine(model, job.decoding).generate(
            [row.prompt for row in left], job.decoding, [row.seed for row in left], job.grammar
        )
        part = directory / f"{attempt}.part"
        with open(part, "x", encoding="utf-8", newline="\n") as stream:
            for answer in answers:
                asked = left[answer.index]
                row = Row(document_id=asked.document_id, sample=asked.sample, **answer._asdict())
                record = row.model_dump()
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
                stream.flush()
                rows[row.document_id, row.sample] = record
                on_row(part)
    # Renamed when it is whole: on shared storage another attempt may be writing the same item.
    whole = directory / f"{attempt}.whole"
    write_jsonl(whole, (rows[key] for key in sorted((row.document_id, row.sample) for row in samples)))
    os.replace(whole, directory / finished_name(item))
