"""Ask a teacher through the Batch API: no request is sent twice, whenever the program dies.

What goes into a batch is stored before the batch is made, and the batch carries our name for it. So a run
finds what earlier ones left at the provider, takes it up, and submits only what is in no open batch.
"""

import asyncio
import random
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.core.progress import Progress
from stages.core.records import Request
from stages.teacher.batch.follow import (
    FORGOTTEN,
    Collected,
    fetch,
    is_rejected,
    listed,
    rejection,
    settle,
    source_of,
)
from stages.teacher.batch.provider import FINAL, Provider, Refused
from stages.teacher.batch.queue import Limits, Queue
from stages.teacher.batch.store import Batch, Batches
from stages.teacher.endpoint import Endpoint, Failure, open_client
from stages.teacher.money import Budget, cap_reached
from stages.teacher.store.store import Store
from stages.teacher.tally import Tally

if TYPE_CHECKING:
    from openai.types import Batch as ProviderBatch

CROWDED = "token_limit_exceeded"  # the account's open batches have all the tokens that they may


@dataclass
class Followed:
    """An open batch. `alone`: no other was open when it was submitted; `shown`: rows displayed as done."""

    alone: bool = False
    shown: int = 0


def ask_in_batches(
    requests: Iterator[tuple[Request, int]],
    endpoint: Endpoint,
    store: Store,
    budget: Budget,
    *,
    limits: Limits,
    shown: Progress,
) -> Tally:
    """As `client.ask_all`, through the Batch API; returns when each request is answered or given up.

    Raises UserError and KeyboardInterrupt as that does. Batches then go on at the provider, and the next call
    takes them up.
    """
    run = _Run(requests, endpoint=endpoint, store=store, budget=budget, limits=limits, shown=shown)
    try:
        asyncio.run(run.all())
    except KeyboardInterrupt:
        print(f"stopping{run.going_on()}", file=sys.stderr)
        raise
    except UserError as error:
        raise UserError(f"{error}{run.going_on()}") from None
    return run.tally


class _Run:
    def __init__(
        self,
        requests: Iterator[tuple[Request, int]],
        *,
        endpoint: Endpoint,
        store: Store,
        budget: Budget,
        limits: Limits,
        shown: Progress,
    ):
        self.endpoint, self.store, self.budget = endpoint, store, budget
        self.limits, self.shown, self.tally = limits, shown, Tally()
        self.batches = Batches(store)
        self.queue = Queue(
            requests,
            batches=self.batches,
            source=source_of(endpoint),
            budget=budget,
            limits=limits,
            tally=self.tally,
            shown=shown,
        )
        self.rows = self.queue.rows
        self.followed: dict[str, Followed] = {}
        self.crowded = False  # nothing can be submitted before a batch ends

    async def all(self) -> None:
        if (first := self.queue.first()) is None:
            return
        self.batches.tidy()
        for batch in self.batches.open():  # the answers in them are paid for, whether wanted now or not
            if self._is_mine(batch):
                self.followed[batch.name] = Followed()
        async with open_client(self.endpoint) as client:
            self.provider = Provider(self.endpoint, client, first["model"])
            while True:
                await self._submit_all()
                for name in list(self.followed):
                    await self._look(name)
                if not self.rows:
                    return
                await asyncio.sleep(self.limits.poll * random.uniform(0.8, 1.2))

    def _is_mine(self, batch: Batch) -> bool:
        return (batch.source, batch.dataset) == (source_of(self.endpoint), self.budget.dataset)

    def going_on(self) -> str:
        """What to add to a message: which batches go on by themselves."""
        names = [name for name in self.followed if self.batches.get(name).state == "submitted"]
        if not names:
            return ""
        return (
            f". Batches that go on at {self.endpoint.base_url}: {listed(names)}. The same command fetches "
            "their answers; with --cancel it stops them"
        )

    # Submitting

    async def _submit_all(self) -> None:
        while not self.crowded and self.queue.first() is not None:
            if not await self._submit():
                break
        if not self.followed and (request := self.queue.first()) is not None:
            raise UserError(cap_reached(self.budget, self.queue.worst(request)))

    async def _submit(self) -> bool:
        """Make one batch of what fits. False: nothing is left to be asked, or the cap has no room for it."""
        name = f"{self.budget.dataset}-{uuid.uuid4().hex[:16]}"
        alone = not self.followed
        with self.batches.claim(name) as file:
            assert file is not None  # nobody else knows the name
            count = self.queue.intend(name, file)
            for held in self.queue.held:
                self.followed.setdefault(held, Followed())
            if not count:
                self.batches.clean(name)
                return False
            self.followed[name] = Followed(alone)
            try:
                file_id = await self.provider.upload(name, file)
                self.batches.note(name, "uploaded", file_id=file_id)
                batch_id = await self.provider.create(self.batches.get(name), self.limits.window)
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
            if seen.request_counts and self._is_mine(batch):
                self._show(self.followed[name], seen.request_counts.completed + seen.request_counts.failed)
            if seen.status in FINAL:
                await self._finish(batch, seen)

    def _show(self, followed: Followed, done: int) -> None:
        notes = [f"open batches {len(self.followed)}", self.tally.note(self.budget.price is not None)]
        self.shown.update(done - followed.shown, ", ".join(filter(None, notes)))
        followed.shown = done

    def _unfollow(self, name: str, done: int) -> Followed:
        followed = self.followed.pop(name)
        self.crowded = False
        self.queue.held.discard(name)
        self._show(followed, done)
        return followed

    def _wanted(self, batch: Batch) -> list[str]:
        return [key for key in self.batches.keys(batch.name) if key in self.rows]

    def _released(self, batch: Batch) -> None:
        """The batch was collected or given up elsewhere: what has no answer now is asked again."""
        keys = self._wanted(batch)
        answered = {key for key in keys if self.store.knows(key) > self.rows[key].known}
        for key in answered:
            del self.rows[key]
        self.queue.put_back(key for key in keys if key not in answered)
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

    async def _finish(self, batch: Batch, seen: "ProviderBatch") -> None:
        if is_rejected(seen):
            self._rejected(batch, seen)
        elif (collected := await fetch(self.provider, self.batches, batch, seen)) is not None:
            self._count(batch, collected)
            left = collected.failures.keys() & self.rows.keys()
            self._check_stopped(batch.name, seen.status, len(left))

    def _rejected(self, batch: Batch, seen: "ProviderBatch") -> None:
        """The provider's validation refused the batch: nothing of it was or will be done."""
        reason = f"batch {batch.batch_id} was refused: {rejection(seen, self.endpoint)}"
        self.batches.void(batch.name, "rejected", reason)
        self.queue.put_back(self._wanted(batch))
        alone = self._unfollow(batch.name, 0).alone
        if CROWDED not in reason:
            raise UserError(f"{reason}. Its lines are in {self.batches.file(batch.name)}")
        self.batches.clean(batch.name)
        if alone:
            raise UserError(f"{reason}. Lower batch_requests in collect.{batch.dataset}")
        self.crowded = bool(self.followed)

    def _count(self, batch: Batch, collected: Collected) -> None:
        if self._is_mine(batch):
            self.tally.attempts += len(collected.outcomes) + len(collected.failures)
            self.tally.dollars += collected.dollars
        for key, outcomes in collected.outcomes.items():
            if self.rows.pop(key, None):
                self.tally.outcomes.update(outcomes)
        self._unfollow(batch.name, len(collected.outcomes))
        failed = {key: failure for key, failure in collected.failures.items() if key in self.rows}
        for key, failure in failed.items():
            self._failed(key, failure)
        if stop := next((failure.stop for failure in failed.values() if failure.stop), None):
            raise UserError(stop)

    def _failed(self, key: str, failure: Failure) -> None:
        """Ask again in another batch, or give the request up."""
        row = self.rows[key]
        row.failures += 1
        row.known += failure.status == 200  # its body is in the store too, though it answers nothing
        self.tally.refused += failure.refused
        if failure.retry and row.failures <= self.endpoint.retries:
            self.tally.retried += 1
            self.queue.put_back([key])
        else:
            self.queue.give_up(self.batches.request(key), failure)
