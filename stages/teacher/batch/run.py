"""Ask a teacher through the Batch API: no request is sent twice, whenever the program dies.

What goes into a batch is stored before the batch is made, and the batch carries our name for it. So a run
finds what earlier ones left at the provider, takes it up, and submits only what is in no open batch.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.messages import say
from stages.core.progress import Progress
from stages.core.records import KeyedRequest, Request
from stages.teacher.batch.lines import input_line, read_results
from stages.teacher.batch.provider import FINAL, Provider, Refused
from stages.teacher.batch.store import FORGOTTEN, Batch, Batches, Collected, insert_event, insert_row, listed
from stages.teacher.endpoint import Endpoint, Failure, open_session, short, unexpected_body
from stages.teacher.money import Budget, cap_reached, reserve_batch
from stages.teacher.outcomes import read_answers
from stages.teacher.store.store import Store, insert_requests
from stages.teacher.tally import Tally

CROWDED = "token_limit_exceeded"  # the account's open batches have all the tokens that they may


@dataclass
class QueuedRequest:
    """A request without an answer so far.

    `id` is that of its row in requests.jsonl; `known` bodies were stored for it when it was chosen.
    """

    id: str
    known: int
    failures: int = 0


def ask_in_batches(
    requests: Iterator[tuple[Request, int]],
    endpoint: Endpoint,
    store: Store,
    budget: Budget,
    shown: Progress,
    tally: Tally,
) -> None:
    """As `client.ask_all`, in batches.

    Returns when each request is answered or given up. Raises UserError and KeyboardInterrupt as that does.
    Batches then go on at the provider, and the next call takes them up.
    """
    run = _Run(requests, endpoint, store, budget, shown, tally)
    try:
        asyncio.run(run.all())
    except KeyboardInterrupt:
        say(f"stopping{run.going_on()}")
        raise
    except UserError as error:
        raise UserError(f"{error}{run.going_on()}") from None


def cancel_batches(dataset: str, endpoint: Endpoint, store: Store) -> int:
    """Stop the open batches of a dataset at `endpoint`, and store what they had done; returns how many."""
    with Budget(store, dataset, None) as budget, Progress(None, f"cancel {dataset}", "request") as shown:
        run = _Run(iter(()), endpoint, store, budget, shown, Tally())
        run.stopping, count = True, len(run.followed)
        if count:
            asyncio.run(run.all())
    return count


class _Run:
    """`rows` has, by key, all requests that were ever first in the queue and have no answer yet."""

    def __init__(
        self,
        requests: Iterator[tuple[Request, int]],
        endpoint: Endpoint,
        store: Store,
        budget: Budget,
        shown: Progress,
        tally: Tally,
    ):
        self.requests, self.endpoint, self.store, self.budget = requests, endpoint, store, budget
        self.shown, self.tally = shown, tally
        self.batches, self.source = Batches(store), endpoint.source
        self.rows: dict[str, QueuedRequest] = {}
        self.head: KeyedRequest | None = None  # of the queue
        self.back: list[str] = []  # the keys of requests that were in a batch and have no answer
        # Open batches, with the rows of each that are shown as done. They are paid for, wanted now or not.
        self.followed = {batch.name: 0 for batch in self.batches.open() if self._is_mine(batch)}
        self.alone: set[str] = set()  # those of them that were submitted when no other was open
        self.crowded = False  # nothing can be submitted before a batch ends
        self.stopping = False  # batches are to be stopped at the provider

    async def all(self) -> None:
        """Until no request is without an answer or, where they are to be stopped, no batch is open."""
        first = self._first()
        if first is None and not self.stopping:
            return
        model = first["model"] if first else self.batches.get(min(self.followed)).model
        self.batches.tidy()
        async with open_session(self.endpoint) as session:
            self.provider = Provider(self.endpoint, session, model)
            while True:
                await self._submit_all()
                for name in list(self.followed):
                    await self._look(name)
                if not (self.followed if self.stopping else self.rows):
                    return
                await asyncio.sleep(self.endpoint.knobs.poll * random.uniform(0.8, 1.2))

    def _is_mine(self, batch: Batch) -> bool:
        return (batch.source, batch.dataset) == (self.source, self.budget.dataset)

    def going_on(self) -> str:
        """What to add to a message: which batches go on by themselves."""
        names = [name for name in self.followed if self.batches.get(name).state == "submitted"]
        if not names:
            return ""
        return (
            f". Batches that go on at {self.endpoint.base_url}: {listed(names)}. The same command fetches "
            "their answers; with --cancel it stops them"
        )

    # Choosing

    def _first(self) -> KeyedRequest | None:
        """The next request for a batch: new ones, then those that came back. It stays in the queue."""
        if self.head is None and (new := next(self.requests, None)) is not None:
            self.head, known = new
            self.rows[self.head["request_key"]] = QueuedRequest(new[0]["id"], known)
        while self.head is None and self.back:
            if (key := self.back.pop()) in self.rows:
                self.head = self.batches.request(key)
        return self.head

    def _intend(self, name: str, path: Path) -> int:
        """Write requests to the file at `path` and enter them for the batch `name`, in one transaction.

        What is in an open batch is left to it; the worst case of the others is reserved. Returns how many
        there are: 0 where nothing is left, or where the cap has no room for the first.
        """
        count, dollars, budget, limits = 0, 0.0, self.budget, self.endpoint.knobs
        with self.store.transaction() as writer, open(path, "wb") as file:
            room = budget.room()
            open_batches = {batch.name: batch for batch in self.batches.open()}
            while count < limits.batch_requests and (request := self._first()) is not None:
                line, worst = input_line(request), budget.worst(request, batch=True)
                if self._is_wanted(request, line, open_batches):
                    if file.tell() + len(line) > limits.batch_bytes or dollars + worst > room:
                        break
                    if insert_row(writer, name, request["request_key"]):
                        insert_requests(writer, [request])
                        file.write(line)
                        count, dollars = count + 1, dollars + worst
                self.head = None
            if count:
                detail = {"source": self.source, "dataset": budget.dataset, "model": self.provider.model}
                price = budget.price.record if budget.price else None
                insert_event(writer, name, "intended", {**detail, "rows": count, "price": price})
                if budget.price:
                    reserve_batch(writer, budget.dataset, name, dollars)
        return count

    def _is_wanted(self, request: KeyedRequest, line: bytes, open_batches: dict[str, Batch]) -> bool:
        """False for a request that was answered meanwhile, is in an open batch, or is too large for any."""
        key = request["request_key"]
        if self.store.knows(key) > self.rows[key].known:
            del self.rows[key]
            self.shown.update()
            return False
        if held := self.batches.of(key) & open_batches.keys():
            if all(open_batches[name].source == self.source for name in held):
                for name in held:
                    self.followed.setdefault(name, 0)
            else:
                del self.rows[key]  # sent to another provider by another process, at this very moment
            return False
        if len(line) > (most := self.endpoint.knobs.batch_bytes):
            message = f"its line has {len(line):,} bytes, more than batch_bytes ({most:,})"
            self._give_up(request, Failure("too large for a batch", message))
            return False
        return True

    # Submitting

    async def _submit_all(self) -> None:
        while not self.crowded and self._first() is not None:
            if not await self._submit():
                break
        if not self.followed and (request := self._first()) is not None:
            raise UserError(cap_reached(self.budget, self.budget.worst(request, batch=True)))

    async def _submit(self) -> bool:
        """Make one batch of what fits. False: nothing is left to be asked, or the cap has no room for it."""
        name = f"{self.budget.dataset}-{uuid.uuid4().hex[:16]}"
        alone = not self.followed
        with self.batches.claim(name) as path:
            assert path is not None  # nobody else knows the name
            if not self._intend(name, path):
                self.batches.clean(name)
                return False
            self.followed[name] = 0
            if alone:
                self.alone.add(name)
            try:
                self.batches.note(name, "uploaded", file_id=await self.provider.upload(path))
                batch_id = await self.provider.create(self.batches.get(name))
            except Refused as error:
                self.batches.void(name, "refused", str(error))
                self.batches.clean(name)
                raise
            self.batches.note(name, "submitted", batch_id=batch_id)
        return True

    # Following

    async def _look(self, name: str) -> None:
        with self.batches.claim(name) as claimed:
            if not claimed:  # another process submits or collects it now
                return
            await settle(self.provider, self.batches, name)
            batch = self.batches.get(name)
            if batch.state != "submitted":
                self._released(batch)
                return
            seen = await self.provider.retrieve(batch)
            if (counts := seen.get("request_counts")) and self._is_mine(batch):
                done = counts["completed"] + counts["failed"]
                self._show(done - self.followed[name])
                self.followed[name] = done
            if seen["status"] in FINAL:
                await self._finish(batch, seen)
            elif self.stopping and seen["status"] != "cancelling":
                await self.provider.cancel(batch)

    def _show(self, more: int) -> None:
        notes = [f"open batches {len(self.followed)}", self.tally.note(self.budget.price is not None)]
        self.shown.update(more, ", ".join(filter(None, notes)))

    def _unfollow(self, name: str, done: int) -> None:
        self._show(done - self.followed.pop(name))
        self.crowded = False

    def _wanted(self, batch: Batch) -> list[str]:
        return [key for key in self.batches.keys(batch.name) if key in self.rows]

    def _released(self, batch: Batch) -> None:
        """The batch was collected or given up elsewhere: what has no answer now is asked again."""
        keys = self._wanted(batch)
        answered = {key for key in keys if self.store.knows(key) > self.rows[key].known}
        for key in answered:
            del self.rows[key]
        self.back += [key for key in keys if key not in answered]
        self.batches.clean(batch.name)
        self._unfollow(batch.name, len(answered))
        self._check_stopped(batch.name, batch.status, len(keys) - len(answered))

    def _check_stopped(self, name: str, status: str | None, left: int) -> None:
        """Raises UserError where a batch was stopped on purpose: its `left` requests are not asked again."""
        if left and status in ("cancelled", FORGOTTEN):
            raise UserError(
                f"batch {name} was {status}; what it had done is stored, a new run asks for the {left:,} "
                "requests that are left"
            )

    async def _finish(self, batch: Batch, seen: dict[str, Any]) -> None:
        if reason := rejection(seen, self.endpoint):
            self._rejected(batch, f"batch {batch.batch_id} was refused: {reason}")
        elif (collected := await fetch(self.provider, self.batches, batch, seen)) is not None:
            self._count(batch, collected)
            left = collected.failures.keys() & self.rows.keys()
            self._check_stopped(batch.name, seen["status"], len(left))

    def _rejected(self, batch: Batch, reason: str) -> None:
        """The provider's validation refused the batch: nothing of it was or will be done."""
        self.batches.void(batch.name, "rejected", reason)
        self.back += self._wanted(batch)
        self._unfollow(batch.name, 0)
        if CROWDED not in reason and not self.stopping:
            raise UserError(f"{reason}. Its lines are in {self.batches.file(batch.name)}")
        self.batches.clean(batch.name)
        if batch.name in self.alone:
            raise UserError(f"{reason}. Lower batch_requests in collect.{batch.dataset}")
        self.crowded = bool(self.followed)

    def _count(self, batch: Batch, collected: Collected) -> None:
        if self._is_mine(batch):
            self.tally.attempts += len(collected.answered) + len(collected.failures)
            self.tally.dollars += collected.dollars
        for key in self.rows.keys() & collected.answered:
            request = self.batches.request(key)
            raw = self.store.bodies(request)[-1]
            if (answers := read_answers(raw, request)) is None:
                collected.failures[key] = unexpected_body("a completion", raw, self.endpoint)
            else:
                del self.rows[key]
                self.tally.outcomes.update(answer.outcome for answer in answers)
        self._unfollow(batch.name, len(collected.answered))
        failed = {key: failure for key, failure in collected.failures.items() if key in self.rows}
        stops = [self._failed(key, failure) for key, failure in failed.items()]
        if stop := next(filter(None, stops), None):
            raise UserError(stop)

    def _failed(self, key: str, failure: Failure) -> str | None:
        """Ask again in another batch, or give the request up. Returns why no request would fare better."""
        row = self.rows[key]
        row.failures += 1
        row.known += failure.status == 200  # its body is in the store too, though it answers nothing
        self.tally.refused += failure.refused
        if failure.retry and row.failures <= self.endpoint.knobs.retries:
            self.tally.retried += 1
            self.back.append(key)
            return None
        self._give_up(self.batches.request(key), failure)
        why = None if failure.retry else self.tally.reject(failure, self.endpoint.knobs.breaker)
        return failure.stop or (why and f"{failure.message} ({why})")

    def _give_up(self, request: KeyedRequest, failure: Failure) -> None:
        self.tally.give_up(request, self.rows.pop(request["request_key"]).id, failure)


async def settle(provider: Provider, batches: Batches, name: str) -> None:
    """Look for a claimed batch at the provider whose process died before it knew whether it was made.

    Afterwards the batch is submitted or void.
    """
    batch = batches.get(name)
    if batch.state == "uploaded" and (batch_id := await provider.find(batch)):
        batches.note(name, "submitted", batch_id=batch_id)
    elif batch.state in ("intended", "uploaded"):  # none is made before `uploaded` is on the disk
        batches.void(name, "never made")


async def fetch(provider: Provider, batches: Batches, batch: Batch, seen: dict[str, Any]) -> Collected | None:
    """Store what a claimed batch brought. None where another process did.

    `seen` is the provider's view of the batch, in a final state. Raises UserError where it names no file of
    the answers that it says there are.
    """
    completed = (seen.get("request_counts") or {}).get("completed")
    if completed and not seen.get("output_file_id"):
        raise UserError(
            f"{provider.endpoint.base_url}: {batch.batch_id} has {completed:,} answers, but names no file of "
            "them; nothing was given up: run again later"
        )
    paths = []
    for kind in ("output", "error"):
        if file_id := seen.get(f"{kind}_file_id"):
            paths.append(batches.file(batch.name, kind))
            await provider.download(file_id, paths[-1])
    odd = Counter[str]()
    results = read_results(paths, batches.keys(batch.name), odd)
    collected = batches.collect(
        batch, status=seen["status"], results=results, odd=odd, endpoint=provider.endpoint
    )
    if collected is not None and +odd:
        counts_of = ", ".join(f"{count:,} {kind}" for kind, count in sorted((+odd).items()))
        say(f"batch {batch.batch_id}: results that do not fit its requests: {counts_of}")
    batches.clean(batch.name)
    return collected


def rejection(seen: dict[str, Any], endpoint: Endpoint) -> str | None:
    """Why the provider's validation refused the batch, so that nothing of it was done; None: it did not."""
    if seen["status"] != "failed" or seen.get("output_file_id") or seen.get("error_file_id"):
        return None
    errors = (seen.get("errors") or {}).get("data") or []
    words = [f"{error.get('code')}: {error.get('message')} (line {error.get('line')})" for error in errors]
    return short("; ".join(words).replace(" (line None)", "") or "no reason given", endpoint)
