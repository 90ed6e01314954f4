"""Calls of a server of one's own or somebody's, as many at once as it bears, again where it was not ready.

The pace is the collector's (stages/core/pacing.py): calls at once grow while the server keeps up and
shrink when it has no capacity; Retry-After is honoured; a breaker opens where going on is useless.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from math import inf
from typing import Any, NamedTuple

import openai

from stages.core.errors import UserError
from stages.core.pacing import Pacer, pause_s, retry_after_s

RETRIES = 6  # of one call, not counting refusals for want of capacity
BREAKER = 20  # failures in a row
PATIENCE_S = 600.0  # with nothing but refusals; also the longest Retry-After that is waited for
REFUSED, OVERLOADED, PASSING = {429}, {503, 529}, {408, 409, 425}


class Call(NamedTuple):
    ready_at: float
    index: int
    failures: int = 0
    refusals: int = 0
    sent_at: float = 0.0


class Paced:
    """`ask(index)` gives an answer and the headers that came with it, or raises an error of openai's."""

    def __init__(self, ask: Callable[[int], tuple[Any, Any]], url: str, most: int):
        self.ask, self.url, self.most = ask, url, most
        self.pacer, self.waiting, self.flying = Pacer(most), [], {}
        self.was_answered, self.answered_at = False, time.monotonic()

    def answers(self, count: int) -> Iterator[Any]:
        """The answers to the calls below `count`, as they come.

        Raises UserError where the server refuses one, or fails too often.
        """
        fresh = (Call(0.0, index) for index in range(count))
        with ThreadPoolExecutor(self.most) as pool:
            try:
                upcoming = self._next(fresh)
                while upcoming or self.waiting or self.flying:
                    while upcoming and self.pacer.wait_s(0) <= 0:
                        self._send(pool, upcoming)
                        upcoming = self._next(fresh)
                    for future in self._over(upcoming):
                        yield from self._read(future)
                    upcoming = upcoming or self._next(fresh)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, fresh: Iterator[Call]) -> Call | None:
        """A retry whose time has come, else a new call."""
        if self.waiting and self.waiting[0].ready_at <= time.monotonic():
            return heapq.heappop(self.waiting)
        return next(fresh, None)

    def _send(self, pool: ThreadPoolExecutor, call: Call) -> None:
        self.pacer.sent(0)
        self.flying[pool.submit(self.ask, call.index)] = call._replace(sent_at=time.monotonic())

    def _over(self, upcoming: Call | None) -> set[Future]:
        """Calls that are over; waits for one, but no longer than until another may be sent."""
        pause = self.pacer.wait_s(0) if upcoming else inf
        if self.waiting and not upcoming:
            pause = max(0.0, self.waiting[0].ready_at - time.monotonic())
        if not self.flying:
            time.sleep(pause)
            return set()
        return wait(self.flying, None if pause == inf else pause, FIRST_COMPLETED).done

    def _read(self, future: Future) -> Iterator[Any]:
        call, error = self.flying.pop(future), future.exception()
        if error is None:
            answer, headers = future.result()
            self.pacer.over(0, headers)
            self.pacer.answered()
            self.was_answered, self.answered_at = True, time.monotonic()
            yield answer
            return
        response = getattr(error, "response", None)
        headers = {} if response is None else response.headers
        self.pacer.over(0, headers)
        if not isinstance(error, openai.APIConnectionError | openai.APIStatusError):
            raise error
        self._again(call, error, retry_after_s(headers))

    def _again(self, call: Call, error: openai.APIError, retry_after: float | None) -> None:
        """Put a call off, or raise UserError where that is useless."""
        status = getattr(error, "status_code", None)
        refused = status in REFUSED and error.code != "insufficient_quota"
        self._check(error, status, refused)
        if refused or status in OVERLOADED:
            self.pacer.refused(retry_after)
        if not refused and not call.failures:
            self.pacer.failed(call.sent_at)
        failures, refusals = call.failures + (not refused), call.refusals + refused
        silent = time.monotonic() - self.answered_at
        if failures > RETRIES or self.pacer.failed_in_a_row >= BREAKER or silent > PATIENCE_S:
            self._stop(f"the server keeps failing ({error})")
        if (retry_after or 0) > PATIENCE_S:
            self._stop(f"the server asks to wait for {retry_after:.0f} s")
        ready_at = time.monotonic() + pause_s(failures + refusals - 1, retry_after)
        heapq.heappush(self.waiting, Call(ready_at, call.index, failures, refusals))

    def _check(self, error: openai.APIError, status: int | None, refused: bool) -> None:
        if status is None and not self.was_answered and not isinstance(error, openai.APITimeoutError):
            raise unreachable(self.url, error)
        if status is not None and status < 500 and not refused and status not in PASSING:
            raise UserError(f"{self.url}: the server refused: {error}")

    def _stop(self, why: str) -> None:
        raise UserError(f"{self.url}: {why}; run again later, finished rows are kept")


def unreachable(url: str, error: Exception) -> UserError:
    return UserError(f"{url}: no server answers ({error}); start it, or mend base_url")
