"""Ask a teacher over the OpenAI chat protocol, and save every attempt before looking at it.

Each attempt is a ledger line. One dispatcher admits requests as pacing, retries and budget allow; each runs
as a separate task.
"""

import asyncio
import heapq
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from stages.core.errors import UserError
from stages.core.pacing import Pacer, pause_s
from stages.core.progress import Progress
from stages.core.records import Request
from stages.teacher.endpoint import OVERLOADED, Endpoint, Failure, open_session
from stages.teacher.identity import choices_of
from stages.teacher.money import Budget, cap_reached
from stages.teacher.outcomes import read_answers
from stages.teacher.sender import Sender
from stages.teacher.store.store import Store
from stages.teacher.tally import Tally

WAITING = 256  # requests that may wait for their retry before no new ones are begun


@dataclass(order=True)
class ActiveRequest:
    """A request that is being asked or waits for its retry, at `ready_at` (of time.monotonic).

    `known` bodies were stored for it when it was chosen. `failures` use up its retries, `refusals` do not.
    """

    ready_at: float
    request: Request = field(compare=False)
    known: int = field(default=0, compare=False)
    failures: int = field(default=0, compare=False)
    refusals: int = field(default=0, compare=False)


def ask_all(
    requests: Iterator[tuple[Request, int]], endpoint: Endpoint, store: Store, budget: Budget, shown: Progress
) -> Tally:
    """Send `requests`, each with the number of bodies already stored for it, and store the answers.

    Raises UserError when going on is useless (refused key, no funds, wrong or unreachable address, nothing
    but failures, the cap reached) and KeyboardInterrupt after Ctrl-C; what was in flight is waited for and
    kept in both cases.
    """
    try:
        return asyncio.run(_Run(endpoint, store, budget, shown).all(requests))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class _Run:
    def __init__(self, endpoint: Endpoint, store: Store, budget: Budget, shown: Progress):
        self.endpoint, self.store, self.budget, self.shown = endpoint, store, budget, shown
        self.pacer = Pacer(endpoint.concurrency, endpoint.rpm, endpoint.tpm)
        self.tally = Tally()
        self.waiting: list[ActiveRequest] = []
        self.tasks: set[asyncio.Task] = set()
        self.waiter: asyncio.Future | None = None
        self.fatal: str | None = None  # the message of the UserError that ends the run
        self.crash: BaseException | None = None
        self.interrupted = False
        self.was_answered = False
        self.stopping = False  # nothing new is sent
        self.answered_at = time.monotonic()

    async def all(self, requests: Iterator[tuple[Request, int]]) -> Tally:
        main = asyncio.current_task()
        assert main is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt, main)
        try:
            async with open_session(self.endpoint) as session:
                self.sender = Sender(
                    session,
                    endpoint=self.endpoint,
                    store=self.store,
                    budget=self.budget,
                    pacer=self.pacer,
                    tally=self.tally,
                )
                try:
                    await self._dispatch(requests)
                except Exception as error:  # what is in flight is paid for: let it end first
                    self.crash = self.crash or error
                    self._stop()
                while self.tasks:
                    await asyncio.wait(self.tasks)
        finally:
            for task in self.tasks:  # left only by a second Ctrl-C
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            self.sender.flush()
        if self.crash:
            raise self.crash
        if self.fatal:
            raise UserError(self.fatal)
        if self.interrupted:
            raise KeyboardInterrupt
        return self.tally

    def _interrupt(self, main: asyncio.Task) -> None:
        if self.interrupted:
            main.cancel()
            return
        self.interrupted = True
        self._stop()
        print(
            f"stopping: waiting for {self.pacer.in_flight} answers in flight (Ctrl-C again drops them)",
            file=sys.stderr,
        )

    def _stop(self, why: str | None = None) -> None:
        self.fatal = self.fatal or why
        self.stopping = True
        self._wake()

    # The dispatcher

    async def _dispatch(self, requests: Iterator[tuple[Request, int]]) -> None:
        while not self.stopping and (active := await self._next(requests)) is not None:
            request = active.request
            if self.store.knows(request["request_key"]) > active.known:  # another process asked meanwhile
                self.shown.update()
            elif await self._admitted(request):
                self._begin(self._work(active))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        self._wake()

    async def _next(self, requests: Iterator[tuple[Request, int]]) -> ActiveRequest | None:
        """A retry whose time has come, else a new request; None at the end."""
        while not self.stopping:
            now = time.monotonic()
            if self.waiting and self.waiting[0].ready_at <= now:
                return heapq.heappop(self.waiting)
            if len(self.waiting) < WAITING and (new := next(requests, None)) is not None:
                request, known = new
                return ActiveRequest(now, request, known)
            if not self.waiting and not self.tasks:
                return None
            await self._changed(self.waiting[0].ready_at - now if self.waiting else float("inf"))
        return None

    async def _admitted(self, request: Request) -> bool:
        """Wait until pacing and budget let the request go; False when the run is being stopped instead."""
        while not self.stopping:
            wait = self.sender.wait_s(request)
            if wait <= 0:
                if self.sender.admit(request):
                    return True
                if not self.pacer.in_flight:
                    self._stop(cap_reached(self.budget, self.sender.worst(request)))
                    return False
                wait = float("inf")  # what is in flight may cost less than its worst case
            await self._changed(wait)
        return False

    async def _changed(self, seconds: float) -> None:
        """Wait until something happened, at most so long."""
        self.waiter = asyncio.get_running_loop().create_future()
        timer = None
        if seconds < float("inf"):
            timer = asyncio.get_running_loop().call_later(max(seconds, 0), self._wake)
        await self.waiter
        if timer:
            timer.cancel()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    # One request

    async def _work(self, active: ActiveRequest) -> None:
        try:
            result = await self.sender.send(active.request)
            if isinstance(result, Failure):
                self._failed(active, result)
            else:
                self._answered(result)
        except Exception as error:  # a full disk, a bug: stop, let the others end, and raise it then
            self.crash = self.crash or error
            self._stop()

    def _answered(self, outcomes: list[str]) -> None:
        self.was_answered, self.answered_at = True, time.monotonic()
        self.pacer.answered()
        self.tally.outcomes.update(outcomes)
        self._show()

    def _show(self) -> None:
        self.shown.update(note=self.tally.note(self.budget.price is not None))

    def _failed(self, active: ActiveRequest, failure: Failure) -> None:
        """Put the request off for a retry, or give it up; stop the run where no request would fare better."""
        active.refusals += failure.refused
        active.failures += not failure.refused
        again = failure.retry and active.failures <= self.endpoint.retries
        if failure.stop and not (self.was_answered and again):
            self._stop(failure.stop)
        elif (why := self._broken(failure, fresh=active.failures == 1)) is not None:
            self._stop(f"{failure.message} ({why}). All answers so far are stored; run again to go on")
        asked = failure.retry_after or 0.0
        if again and asked > self.endpoint.patience:
            self._stop(
                f"{failure.message} (it asks to wait for {asked:.0f} s). All answers so far are stored"
            )
        if self._answered_elsewhere(active):
            self._show()
            return
        if again and not self.stopping:
            active.ready_at = time.monotonic() + pause_s(
                active.failures + active.refusals - 1, failure.retry_after
            )
            heapq.heappush(self.waiting, active)
            self.tally.retried += 1
            return
        self.tally.outcomes["error"] += choices_of(active.request)
        request = active.request
        self.tally.give_up(
            failure.kind, request_key=request["request_key"], row_id=request["id"], message=failure.message
        )
        self._show()

    def _answered_elsewhere(self, active: ActiveRequest) -> bool:
        """Whether another process got the answer meanwhile. Bodies that answer nothing are stored too."""
        bodies = self.store.bodies(active.request)
        new, active.known = bodies[active.known :], len(bodies)
        return any(read_answers(raw, active.request) is not None for raw in new)

    def _broken(self, failure: Failure, fresh: bool) -> str | None:
        """Why the circuit breaker opens; None while it does not.

        Only requests that had not failed before (`fresh`) count: some fail whatever the state of the server.
        """
        if failure.refused:
            self.pacer.refused(failure.retry_after)
            silent = time.monotonic() - self.answered_at
            return f"nothing but refusals for {silent:.0f} s" if silent > self.endpoint.patience else None
        if not failure.retry:  # this request is bad, the server is not
            self.pacer.failed_in_a_row = 0
            return None
        if failure.status in OVERLOADED:
            self.pacer.refused(failure.retry_after)
        if fresh:
            self.pacer.failed(failure.sent_at)
        count = self.pacer.failed_in_a_row
        if count < self.endpoint.breaker:
            return None
        return f"{count} requests failed in a row; raise `breaker` if the server works for others"
