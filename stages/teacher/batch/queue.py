"""Which requests go into the next batch: a choice and a promise, in one transaction."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stages.core.progress import Progress
from stages.core.records import KeyedRequest, Request
from stages.teacher.batch.lines import input_line
from stages.teacher.batch.store import Batch, Batches, insert_event, insert_row
from stages.teacher.endpoint import Failure
from stages.teacher.identity import choices_of
from stages.teacher.money import Budget, reserve_batch
from stages.teacher.store.store import insert_requests
from stages.teacher.tally import Tally


@dataclass(frozen=True)
class Limits:
    """The size of a batch, the seconds between questions about it (`poll`), the time it may take."""

    requests: int = 50_000
    bytes: int = 190_000_000
    poll: float = 30.0
    window: str = "24h"


@dataclass
class QueuedRequest:
    """A request without an answer so far.

    `id` is that of its row in requests.jsonl; `known` bodies were stored for it when it was chosen.
    """

    id: str
    known: int
    failures: int = 0


class Queue:
    """The requests still to be put in a batch: new ones in their order, then those that came back.

    `rows` has all that were ever first in the queue and have no answer yet, by key; `held` names the open
    batches that hold some of them.
    """

    def __init__(
        self,
        requests: Iterator[tuple[Request, int]],
        *,
        batches: Batches,
        source: str,
        budget: Budget,
        limits: Limits,
        tally: Tally,
        shown: Progress,
    ):
        self.requests, self.batches, self.source = requests, batches, source
        self.budget, self.limits, self.tally, self.shown = budget, limits, tally, shown
        self.rows: dict[str, QueuedRequest] = {}
        self.held: set[str] = set()
        self.back: list[str] = []
        self.head: KeyedRequest | None = None

    def first(self) -> KeyedRequest | None:
        """The next request to be put in a batch, which stays in the queue; None where there is none."""
        if self.head is None:
            if (new := next(self.requests, None)) is not None:
                request, known = new
                self.head = request
                self.rows[request["request_key"]] = QueuedRequest(request["id"], known)
            while self.head is None and self.back:
                if (key := self.back.pop()) in self.rows:
                    self.head = self.batches.request(key)
        return self.head

    def put_back(self, keys: Iterable[str]) -> None:
        """Queue requests again that were in a batch and have no answer."""
        self.back += keys

    def give_up(self, request: KeyedRequest, failure: Failure) -> None:
        """Count a request as failed for good."""
        key = request["request_key"]
        row = self.rows.pop(key)
        self.tally.outcomes["error"] += choices_of(request)
        self.tally.give_up(failure.kind, request_key=key, row_id=row.id, message=failure.message)

    def worst(self, request: KeyedRequest) -> float:
        """The most that the request can cost in a batch, in dollars; 0 where the price is unknown."""
        return self.budget.price.worst(request, batch=True) if self.budget.price else 0.0

    def intend(self, name: str, file: BinaryIO) -> int:
        """Write requests to `file` and enter them for the batch `name`, in one transaction.

        What is in an open batch is left to it; the worst case of the others is reserved. Returns how many
        there are: 0 where nothing is left, or where the cap has no room for the first.
        """
        count, dollars, model = 0, 0.0, ""
        with self.batches.store.transaction() as writer:
            room = self.budget.room()
            open_batches = {batch.name: batch for batch in self.batches.open()}
            while count < self.limits.requests and (request := self.first()) is not None:
                line, worst, model = input_line(request), self.worst(request), model or request["model"]
                if not self._is_wanted(request, line, open_batches):
                    self.head = None
                    continue
                full = file.tell() + len(line) > self.limits.bytes or dollars + worst > room
                if full or request["model"] != model:
                    break
                self.head = None
                if insert_row(writer, name, request["request_key"]):
                    insert_requests(writer, [request])
                    file.write(line)
                    count, dollars = count + 1, dollars + worst
            if count:
                self._intended(writer, name, model=model, count=count, dollars=dollars)
        file.flush()
        return count

    def _intended(
        self, writer: sqlite3.Connection, name: str, *, model: str, count: int, dollars: float
    ) -> None:
        budget = self.budget
        detail = {"source": self.source, "dataset": budget.dataset, "model": model, "rows": count}
        insert_event(writer, name, "intended", {**detail, "price": budget.price and budget.price.record})
        if budget.price:
            reserve_batch(writer, budget.dataset, name, dollars)

    def _is_wanted(self, request: KeyedRequest, line: bytes, open_batches: dict[str, Batch]) -> bool:
        """False for a request that was answered meanwhile, is in an open batch, or is too large for any."""
        key = request["request_key"]
        if self.batches.store.knows(key) > self.rows[key].known:
            del self.rows[key]
            self.shown.update()
            return False
        if held := self.batches.of(key) & open_batches.keys():
            if all(open_batches[name].source == self.source for name in held):
                self.held |= held
            else:
                del self.rows[key]  # sent to another provider by another process, at this very moment
            return False
        if len(line) > self.limits.bytes:
            message = f"its line has {len(line):,} bytes, more than batch_bytes ({self.limits.bytes:,})"
            self.give_up(request, Failure("too large for a batch", message))
            return False
        return True
