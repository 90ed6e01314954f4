"""Batches as the store knows them: the requests in each, how far it has come, what it brought."""

import fcntl
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from stages.core.errors import UserError
from stages.core.records import KeyedRequest
from stages.teacher.batch.lines import Result, judge_result
from stages.teacher.endpoint import Endpoint, Failure
from stages.teacher.money import settle_batch
from stages.teacher.prices import Price
from stages.teacher.store.store import Attempt, Store, insert_attempts, utc_now

FORGOTTEN = "forgotten"
OPEN = ("intended", "uploaded", "submitted")
AT_ONCE = 500  # answers in memory while a batch is stored


class Batch(NamedTuple):
    """`name` is ours, the ids are the provider's.

    `file_id` is known in state uploaded, `batch_id` in state submitted; `status` says how a batch ended that
    is collected or void.
    """

    name: str
    state: str
    source: str
    dataset: str
    model: str
    price: str | None
    rows: int
    intended_at: str
    file_id: str | None
    batch_id: str | None
    status: str | None


@dataclass
class Collected:
    """What a batch brought: the keys of requests that have a body now, and the failures of the others."""

    dollars: float = 0.0
    answered: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)


class Batches:
    """The batches in a store. One is open until it is `collected` or `void`; then its requests are free."""

    def __init__(self, store: Store):
        self.store, self.folder = store, store.path.parent / "batches"

    def open(self) -> list[Batch]:
        return self._select(f"state IN {OPEN}")

    def get(self, name: str) -> Batch:
        return self._select("name = ?", name)[0]

    def _select(self, where: str, *values: str) -> list[Batch]:
        query = f"SELECT {', '.join(Batch._fields)} FROM batches WHERE {where} ORDER BY intended_at, name"
        return [Batch(*row) for row in self.store.reader.execute(query, values)]

    def keys(self, name: str) -> list[str]:
        query = "SELECT request_key FROM batch_rows WHERE batch = ?"
        return [key for (key,) in self.store.reader.execute(query, (name,))]

    def of(self, key: str) -> set[str]:
        """The names of all batches, open or not, that a request was ever in."""
        query = "SELECT batch FROM batch_rows WHERE request_key = ?"
        return {name for (name,) in self.store.reader.execute(query, (key,))}

    def holding(self, keys: Iterable[str]) -> list[Batch]:
        """The open batches with any of these requests."""
        batches = {batch.name: batch for batch in self.open()}
        names = {name for key in keys for name in self.of(key) & batches.keys()} if batches else set()
        return [batch for name, batch in batches.items() if name in names]

    def request(self, key: str) -> KeyedRequest:
        """A request that was ever in a batch."""
        query = "SELECT request FROM requests WHERE request_key = ?"
        request: KeyedRequest = json.loads(self.store.reader.execute(query, (key,)).fetchone()[0])
        return {**request, "request_key": key}

    # Files

    def file(self, name: str, kind: str = "input") -> Path:
        return self.folder / f"{name}.{kind}.jsonl"

    @contextmanager
    def claim(self, name: str) -> Iterator[Path | None]:
        """The path of the batch's input file, locked; None while another process has it.

        Whoever submits or collects a batch has its file locked. The lock dies with the process, so an open
        batch whose file is free and that was not submitted was left by one that died.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.file(name), "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield self.file(name)

    def clean(self, name: str) -> None:
        """Remove the batch's files, and what killed downloads left."""
        for path in self.folder.glob(f"*{name}.*"):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the files of all batches that are over, but for those that another process has."""
        names = {path.name.rsplit(".", 2)[0] for path in self.folder.glob("*.*.jsonl")}
        for name in names - {batch.name for batch in self.open()}:
            with self.claim(name) as claimed:
                if claimed:
                    self.clean(name)

    # Events

    def note(self, name: str, event: str, **detail: str) -> None:
        """Store an event of a batch, durably."""
        with self.store.transaction() as writer:
            insert_event(writer, name, event, detail)

    def void(self, name: str, status: str, reason: str = "", refund: bool = True) -> None:
        """Give up an open batch: its requests are free, and with `refund` its money too."""
        with self.store.transaction() as writer:
            if self.get(name).state in OPEN:
                insert_event(writer, name, "void", {"status": status, "reason": reason})
                if refund:
                    settle_batch(writer, name, 0.0)

    def collect(
        self, batch: Batch, *, status: str, results: Iterator[Result], odd: Counter[str], endpoint: Endpoint
    ) -> Collected | None:
        """Store the results, what they cost, and that they are stored: all or nothing, before they are read.

        None where another process was faster. `results` fills `odd` as it is consumed.
        """
        price = Price.model_validate_json(batch.price) if batch.price else None
        collected = Collected()
        with self.store.transaction() as writer:
            if self.get(batch.name).state != "submitted":
                return None
            while some := list(islice(results, AT_ONCE)):
                attempts = []
                for result in some:
                    failure = None
                    if result.raw is None:
                        failure = judge_result(result, endpoint, batch.model)
                        collected.failures[result.key] = failure
                    else:
                        collected.answered.append(result.key)
                    attempt = Attempt(
                        result.key,
                        endpoint.base_url,
                        status=result.status,
                        error=failure.kind if failure else None,
                        raw=result.raw,
                        dataset=batch.dataset,
                        mode="batch",
                        request_id=result.request_id,
                        price=batch.price,
                    )
                    attempts.append(attempt)
                    if attempt.dollars is not None:
                        collected.dollars += attempt.dollars
                    elif price:  # what may have been billed unseen counts in full
                        collected.dollars += price.worst(self.request(result.key), batch=True)
                insert_attempts(writer, attempts)
            settle_batch(writer, batch.name, collected.dollars)
            insert_event(writer, batch.name, "collected", {"status": status, **+odd})
        return collected


def insert_event(writer: sqlite3.Connection, name: str, event: str, detail: dict[str, Any]) -> None:
    """Note what became of a batch; `detail` becomes JSON."""
    writer.execute(
        "INSERT INTO batch_events (batch, at, event, detail) VALUES (?, ?, ?, ?)",
        (name, utc_now(), event, json.dumps(detail)),
    )


def insert_row(writer: sqlite3.Connection, name: str, key: str) -> bool:
    """Put a request in a batch; False where it was in there before."""
    query = "INSERT OR IGNORE INTO batch_rows (batch, request_key) VALUES (?, ?)"
    return writer.execute(query, (name, key)).rowcount == 1


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def check_free(held: list[Batch], source: str | None) -> None:
    """Raises UserError where requests are held by open batches, other than those at `source`."""
    held = [batch for batch in held if batch.source != source]
    if not held:
        return
    first = held[0]
    raise UserError(
        f"nothing was sent: some of these requests are in open batches ({listed([b.name for b in held])}). "
        f"Fetch their answers with mode: batch and base_url: {first.source}, or stop them with "
        f"`python -m stages collect {first.dataset} --cancel`"
    )


def forget_batches(dataset: str, store: Store) -> int:
    """Give up the open batches of a dataset, wherever they are, without a call; returns how many.

    For batches that their provider no longer knows. What was reserved for them stays spent.
    """
    batches = Batches(store)
    mine = [batch for batch in batches.open() if batch.dataset == dataset]
    for batch in mine:
        with batches.claim(batch.name) as claimed:
            if not claimed:
                raise UserError(
                    f"{batch.name}: another process is submitting or collecting it; stop that first"
                )
            batches.void(batch.name, FORGOTTEN, refund=False)
            batches.clean(batch.name)
    return len(mine)
