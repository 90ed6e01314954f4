"""Ask a teacher over the OpenAI chat protocol, and save every attempt before looking at it.

Each attempt is a ledger line. One dispatcher admits requests as pacing, retries and budget allow; each runs
as a separate task.
"""

import asyncio
import heapq
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from stages.core.errors import UserError
from stages.core.messages import say
from stages.core.pacing import Pacer, pause_s
from stages.core.progress import Progress
from stages.core.records import Request
from stages.teacher.endpoint import OVERLOADED, Endpoint, Failure, Reply, call, open_session, unexpected_body
from stages.teacher.identity import body_of, most_output
from stages.teacher.money import Budget, cap_reached
from stages.teacher.outcomes import Answer, is_filtered, read_answers, sound
from stages.teacher.prices import rough_tokens
from stages.teacher.store.costs import NEVER_SENT
from stages.teacher.store.store import Attempt, Store
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
    sent_at: float = field(default=0.0, compare=False)


def ask_all(
    requests: Iterator[tuple[Request, int]],
    endpoint: Endpoint,
    store: Store,
    budget: Budget,
    shown: Progress,
    tally: Tally,
) -> None:
    """Send `requests`, each with the number of bodies already stored for it; store and count the answers.

    Raises UserError when going on is useless (refused key, no funds, wrong or unreachable address, nothing
    but failures, the cap reached) and KeyboardInterrupt after Ctrl-C; what was in flight is waited for and
    kept in both cases.
    """
    try:
        asyncio.run(_Run(endpoint, store, budget, shown, tally).all(requests))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class _Run:
    def __init__(self, endpoint: Endpoint, store: Store, budget: Budget, shown: Progress, tally: Tally):
        self.endpoint, self.store, self.budget = endpoint, store, budget
        self.shown, self.tally = shown, tally
        self.pacer = Pacer(endpoint.knobs.concurrency, endpoint.knobs.rpm, endpoint.knobs.tpm)
        self.waiting: list[ActiveRequest] = []
        self.tasks: set[asyncio.Task] = set()
        self.waiter: asyncio.Future | None = None
        self.end: BaseException | None = None  # what ends the run: nothing new is sent
        self.interrupted = self.was_answered = False
        self.answered_at = time.monotonic()
        self.unsaved: list[tuple[Attempt, Request]] = []
        self.writing = asyncio.Lock()

    async def all(self, requests: Iterator[tuple[Request, int]]) -> None:
        main = asyncio.current_task()
        assert main is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt, main)
        try:
            async with open_session(self.endpoint) as self.session:
                try:
                    await self._dispatch(requests)
                except Exception as error:  # what is in flight is paid for: let it end first
                    self._stop(error)
                while self.tasks:
                    await asyncio.wait(self.tasks)
        finally:
            for task in self.tasks:  # left only by a second Ctrl-C
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            if self.unsaved:
                self._append(self.unsaved)
        if self.end:
            raise self.end

    def _interrupt(self, main: asyncio.Task) -> None:
        if self.interrupted:
            main.cancel()
            return
        self.interrupted = True
        self._stop(KeyboardInterrupt())
        waits = f"waiting for {self.pacer.in_flight} answers in flight (Ctrl-C again drops them)"
        say(f"stopping: {waits}")

    def _stop(self, why: BaseException | str) -> None:
        """End the run. The first reason counts, but a bug or a full disk before what a user can expect."""
        error = UserError(why) if isinstance(why, str) else why
        if self.end is None or not isinstance(error, UserError | KeyboardInterrupt):
            self.end = error
        self._wake()

    # The dispatcher

    async def _dispatch(self, requests: Iterator[tuple[Request, int]]) -> None:
        while (active := await self._next(requests)) is not None:
            if self.store.knows(active.request["request_key"]) > active.known:  # asked by another process
                self.shown.update()
            elif await self._admitted(active.request):
                task = asyncio.create_task(self._work(active))
                self.tasks.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        self._wake()

    async def _next(self, requests: Iterator[tuple[Request, int]]) -> ActiveRequest | None:
        """A retry whose time has come, else a new request; None at the end."""
        while self.end is None:
            now = time.monotonic()
            if self.waiting and self.waiting[0].ready_at <= now:
                return heapq.heappop(self.waiting)
            if len(self.waiting) < WAITING and (new := next(requests, None)) is not None:
                return ActiveRequest(now, *new)
            if not self.waiting and not self.tasks:
                return None
            await self._changed(self.waiting[0].ready_at - now if self.waiting else inf)
        return None

    async def _admitted(self, request: Request) -> bool:
        """Wait until pace and budget have a place for the request; False when the run ends instead."""
        tokens, worst = token_cost(request), self.budget.worst(request)
        while self.end is None:
            wait = self.pacer.wait_s(tokens)
            if wait <= 0:
                if self.budget.reserve(worst):
                    self.pacer.sent(tokens)
                    return True
                if not self.pacer.in_flight:
                    self._stop(cap_reached(self.budget, worst))
                    return False
                wait = inf  # what is in flight may cost less than its worst case
            await self._changed(wait)
        return False

    async def _changed(self, seconds: float) -> None:
        """Wait until something happened, at most so long."""
        self.waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait([self.waiter], timeout=max(seconds, 0) if seconds < inf else None)

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    # One request

    async def _work(self, active: ActiveRequest) -> None:
        active.sent_at = time.monotonic()
        try:
            result = await self._send(active.request, active.sent_at)
            if isinstance(result, Failure):
                self._failed(active, result)
            else:
                self._answered(result)
        except Exception as error:  # a full disk, a bug: stop, let the others end, and raise it then
            self._stop(error)

    async def _send(self, request: Request, began: float) -> list[Answer] | Failure:
        """The answers, or the failure. The attempt is stored, durably, before it is read."""
        reply, attempt = Reply(), None
        self.tally.attempts += 1
        try:
            body = body_of(request)
            reply = await call(
                self.session, self.endpoint, request["model"], "POST", "chat/completions", json=body
            )
            if reply.failure and is_filtered(reply.text):  # an HTTP error that answers the request for good
                reply.failure = None
            raw = reply.text if reply.failure is None else None
            self.tally.refused += reply.failure is not None and reply.failure.refused
            kind = reply.failure.kind if reply.failure else None
            attempt = self._attempted(request, reply, began, raw, kind)
            await self._save()
        except asyncio.CancelledError:
            attempt = attempt or self._attempted(request, reply, began, None, "cancelled")
            raise
        finally:
            self._over(request, reply, attempt)
        answers = None if raw is None else read_answers(raw, request)
        return answers or reply.failure or unexpected_body("a completion", reply.text, self.endpoint)

    def _attempted(
        self, request: Request, reply: Reply, began: float, raw: str | None, error: str | None
    ) -> Attempt:
        """The attempt, put among those to be saved."""
        headers = reply.headers
        attempt = Attempt(
            request["request_key"],
            self.endpoint.base_url,
            seconds=round(time.monotonic() - began, 3),
            status=reply.status,
            error=error,
            raw=raw,
            dataset=self.budget.dataset,
            request_id=sound(headers.get("x-request-id") or headers.get("apim-request-id") or "") or None,
            price=self.budget.price.record if self.budget.price else None,
        )
        self.unsaved.append((attempt, request))
        return attempt

    def _over(self, request: Request, reply: Reply, attempt: Attempt | None) -> None:
        """Settle the attempt with budget and pacing. What may have been billed unseen counts in full."""
        self.pacer.over(token_cost(request), reply.headers)
        if self.budget.price is None:
            return
        cost = worst = self.budget.worst(request)
        if attempt and attempt.dollars is not None:
            cost = attempt.dollars
        self.budget.settle(worst, cost)
        self.tally.dollars += cost

    async def _save(self) -> None:
        """Durable on return. What arrives during one commit shares the next: fsync does not set the pace."""
        async with self.writing:
            batch, self.unsaved = self.unsaved, []
            if not batch:
                return
            writing = asyncio.ensure_future(asyncio.to_thread(self._append, batch))
            try:
                await asyncio.shield(writing)
            except BaseException:
                # Cancelled, the thread goes on writing: the lock must be held until it is through.
                await asyncio.wait([writing])
                if writing.exception():  # the end of the run may have more luck: these answers are paid for
                    self.unsaved = batch + self.unsaved
                raise

    def _append(self, batch: list[tuple[Attempt, Request]]) -> None:
        self.store.append((attempt for attempt, _ in batch), (request for _, request in batch))

    # What came of it

    def _answered(self, answers: list[Answer]) -> None:
        self.was_answered, self.answered_at = True, time.monotonic()
        self.pacer.answered()
        self.tally.outcomes.update(answer.outcome for answer in answers)
        self._show()

    def _show(self) -> None:
        self.shown.update(note=self.tally.note(self.budget.price is not None))

    def _failed(self, active: ActiveRequest, failure: Failure) -> None:
        """Put the request off for a retry, or give it up; stop the run where no request would fare better."""
        active.refusals += failure.refused
        active.failures += not failure.refused
        again = failure.retry and active.failures <= self.endpoint.knobs.retries
        if failure.stop and not (self.was_answered and again):
            self._stop(failure.stop)
        elif (why := self._broken(active, failure)) is not None:
            self._stop(f"{failure.message} ({why}). All answers so far are stored; run again to go on")
        asked = failure.retry_after or 0.0
        if again and asked > self.endpoint.knobs.patience:
            self._stop(
                f"{failure.message} (it asks to wait for {asked:.0f} s). All answers so far are stored"
            )
        if self._answered_elsewhere(active):
            self._show()
        elif again and self.end is None:
            tries = active.failures + active.refusals
            active.ready_at = time.monotonic() + pause_s(tries - 1, failure.retry_after)
            heapq.heappush(self.waiting, active)
            self.tally.retried += 1
        else:
            self.tally.give_up(active.request, active.request["id"], failure)
            self._show()

    def _answered_elsewhere(self, active: ActiveRequest) -> bool:
        """Whether another process got the answer meanwhile. Bodies that answer nothing are stored too."""
        stored = self.store.answers(active.request)
        new, active.known = stored[active.known :], len(stored)
        return any(answers is not None for answers in new)

    def _broken(self, active: ActiveRequest, failure: Failure) -> str | None:
        """Why the circuit breaker opens; None while it does not.

        Only requests that had not failed before count: some fail whatever the state of the server. Where it
        cannot be reached, half as many attempts are enough.
        """
        if failure.refused:
            self.pacer.refused(failure.retry_after)
            silent = time.monotonic() - self.answered_at
            return (
                f"nothing but refusals for {silent:.0f} s" if silent > self.endpoint.knobs.patience else None
            )
        if not failure.retry:  # this request is bad, the server is not
            self.pacer.failed_in_a_row = 0
            return self.tally.reject(failure, self.endpoint.knobs.breaker)
        if failure.status in OVERLOADED:
            self.pacer.refused(failure.retry_after)
        unreachable = failure.kind == NEVER_SENT  # no request's fault, so that each attempt at one counts
        if active.failures == 1 or unreachable:
            self.pacer.failed(active.sent_at)
        count, most = self.pacer.failed_in_a_row, self.endpoint.knobs.breaker
        if count < ((most + 1) // 2 if unreachable else most):
            return None
        return f"{count} requests failed in a row; raise `breaker` if the server works for others"


def token_cost(request: Request) -> float:
    """What a request counts against tokens per minute: its input, about, and the most it may write."""
    return rough_tokens(request) + most_output(request)
