"""Which requests go into the next batch: a choice and a promise, in one transaction."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stages.core.progress import Progress
from stages.teacher.batch.lines import input_line
from stages.teacher.batch.store import Batch, Batches, insert_event, insert_row
from stages.teacher.endpoint import Failure
from stages.teacher.identity import choices_of
from stages.teacher.money import Budget, reserve_batch
from stages.teacher.store.store import insert_requests
from stages.teacher.tally import Tally


@dataclass(frozen=True)
class Limits:
    """Of one batch, and the seconds between two looks at it."""

    requests: int = 50_000
    bytes: int = 190_000_000
    poll: float = 30.0
    window: str = "24h"


@dataclass
class Row:
    """A request without an answer so far. `known` bodies were stored for it when it was chosen."""

    id: str
    known: int
    failures: int = 0


class Queue:
    """The requests still to be put in a batch: new ones in their order, then those that came back.

    `rows` has all that were ever first in the queue and have no answer yet, by key; `held` names the open
    batches that were found to have some of them.
    """

    def __init__(
        self,
        requests: Iterator[tuple[dict, int]],
        batches: Batches,
        source: str,
        budget: Budget,
        limits: Limits,
        tally: Tally,
        shown: Progress,
    ):
        self.requests, self.batches, self.source = requests, batches, source
        self.budget, self.limits, self.tally, self.shown = budget, limits, tally, shown
        self.rows: dict[str, Row] = {}
        self.held: set[str] = set()
        self.back: list[str] = []
        self.head: dict | None = None

    def first(self) -> dict | None:
        if self.head is None:
            if (found := next(self.requests, None)) is not None:
                self.head, known = found
                self.rows[self.head["request_key"]] = Row(self.head["id"], known)
            while self.head is None and self.back:
                if (key := self.back.pop()) in self.rows:
                    self.head = self.batches.request(key)
        return self.head

    def put_back(self, keys: Iterable[str]) -> None:
        self.back += keys

    def give_up(self, request: dict, failure: Failure) -> None:
        row = self.rows.pop(request["request_key"])
        self.tally.outcomes["error"] += choices_of(request)
        self.tally.fail(failure.kind, {**request, "id": row.id}, failure.message)

    def worst(self, request: dict) -> float:
        return self.budget.price.worst(request, batch=True) if self.budget.price else 0.0

    def intend(self, name: str, file: BinaryIO) -> int:
        """Write requests to `file` and make them the batch's own, before another process can.

        What is in an open batch is left to it; the worst case of the others is reserved. Returns how many
        there are: 0 where nothing is left, or where the cap has no room for the first.
        """
        count, dollars, model = 0, 0.0, None
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
                self._intended(writer, name, model, count, dollars)
        file.flush()
        return count

    def _intended(self, writer, name: str, model: str, count: int, dollars: float) -> None:
        budget = self.budget
        detail = {"source": self.source, "dataset": budget.dataset, "model": model, "rows": count}
        insert_event(writer, name, "intended", {**detail, "price": budget.price and budget.price.record})
        if budget.price:
            reserve_batch(writer, budget.dataset, name, dollars)

    def _is_wanted(self, request: dict, line: bytes, open_batches: dict[str, Batch]) -> bool:
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
            told = f"its line has {len(line):,} bytes, more than batch_bytes ({self.limits.bytes:,})"
            self.give_up(request, Failure("too large for a batch", told))
            return False
        return True
