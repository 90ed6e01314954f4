"""When the next request may be sent: adaptive concurrency, rates, and what the server's headers say.

Concurrency follows additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP's: it starts low,
grows by half a round until the server first objects, then by one a round; each objection, at most once a
second, takes a quarter. Rates are paced evenly, with no burst at the start, so that a window of any phase
holds no more than the limit.
"""

import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import inf, isnan

FIRST_CONCURRENCY = 8
DECREASE, DECREASE_EVERY_S = 0.75, 1.0
MARGIN = 0.995  # of a rate is used: clocks and networks jitter
CATCH_UP_S = 0.05  # a late wake-up may catch up by so much
STORM = 3  # failures in a row, with no answer between them, concern everybody
LONGEST_RESET_S = 86_400  # what is longer is no duration but a point in time
REFUSALS = 10  # and so many refusals: single ones may concern one request only
DURATION = r"(\d+(?:\.\d*)?|\.\d+)(ms|[dhms])"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0  # between the attempts at one request
FIRST_PROBE_S, LONGEST_PROBE_S = 0.25, 2.0  # pauses between lone requests to a server that only fails


class Rate:
    """An even pace of `per_minute` units; 0 = none."""

    def __init__(self, per_minute: float):
        self.seconds_per_unit = 60 / (per_minute * MARGIN) if per_minute else 0.0
        self.free_at = 0.0

    def wait_s(self, now: float) -> float:
        return max(0.0, self.free_at - now)

    def take(self, now: float, units: float = 1) -> None:
        self.free_at = max(self.free_at, now - CATCH_UP_S) + units * self.seconds_per_unit


class Allowance:
    """How much of one of the server's limits (`requests` or `tokens`) is left, by its latest headers."""

    def __init__(self, kind: str):
        self.kind, self.full_at = kind, 0.0
        self.left: float | None = None  # None: the server named no limit

    def hear(self, headers: Mapping[str, str], now: float, unheard: float) -> None:
        """Read the headers of a reply.

        `unheard` is what was sent and is not answered yet: the server may not have counted it.
        """
        remaining = _number(headers.get(f"x-ratelimit-remaining-{self.kind}"))
        if remaining is None or not 0 <= remaining < inf:  # -1 is how some say that there is no limit
            self.left = None
            return
        reset = duration_s(headers.get(f"x-ratelimit-reset-{self.kind}")) or 0.0
        self.left = remaining - unheard
        self.full_at = now + (reset if 0 < reset <= LONGEST_RESET_S else 1.0)

    def wait_s(self, now: float, units: float, idle: bool) -> float:
        """Seconds until `units` may be sent; infinite where an answer in flight must tell first."""
        if self.left is None or self.left >= units:
            return 0.0
        if not idle:
            return inf
        if now < self.full_at:
            return self.full_at - now
        self.left = None  # the time has come: one request finds out what there is now
        return 0.0

    def take(self, units: float) -> None:
        if self.left is not None:
            self.left -= units


class Pacer:
    """Admits requests one by one; the caller asks `wait_s`, then calls `sent`, and `over` at the end."""

    def __init__(self, concurrency: int, rpm: float = 0, tpm: float = 0):
        self.most = concurrency
        self.limit = float(min(FIRST_CONCURRENCY, concurrency))
        self.in_flight, self.tokens_in_flight = 0, 0.0
        self.requests, self.tokens = Rate(rpm), Rate(tpm)
        self.allowances = (Allowance("requests"), Allowance("tokens"))
        self.not_before = self.cut_at = 0.0
        self.ramping, self.refused_in_a_row = True, 0
        self.failed_in_a_row, self.failing_since = 0, 0.0

    def wait_s(self, tokens: float, now: float | None = None) -> float:
        """Seconds until a request of `tokens` may go; infinite: ask again when one in flight is over."""
        now = time.monotonic() if now is None else now
        limit = 1 if self.failed_in_a_row > STORM else int(self.limit)
        if self.in_flight >= limit:
            return inf
        idle = self.in_flight == 0
        return max(
            self.requests.wait_s(now),
            self.tokens.wait_s(now),
            self.not_before - now,
            *(a.wait_s(now, u, idle) for a, u in zip(self.allowances, (1, tokens), strict=True)),
        )

    def sent(self, tokens: float, now: float | None = None) -> None:
        now = time.monotonic() if now is None else now
        self.in_flight += 1
        self.tokens_in_flight += tokens
        self.requests.take(now)
        self.tokens.take(now, tokens)
        for allowance, units in zip(self.allowances, (1, tokens), strict=True):
            allowance.take(units)

    def over(self, tokens: float, headers: Mapping[str, str], now: float | None = None) -> None:
        """A request is no longer in flight. `headers` may be empty."""
        now = time.monotonic() if now is None else now
        self.in_flight -= 1
        self.tokens_in_flight -= tokens
        if "x-ratelimit-remaining-requests" in headers or "x-ratelimit-remaining-tokens" in headers:
            for allowance, units in zip(
                self.allowances, (self.in_flight, self.tokens_in_flight), strict=True
            ):
                allowance.hear(headers, now, units)

    def answered(self) -> None:
        """The server did its work."""
        self.refused_in_a_row = self.failed_in_a_row = 0
        self.limit = min(self.most, self.limit + (0.5 if self.ramping else 1 / self.limit))

    def refused(self, retry_after: float | None, now: float | None = None) -> None:
        """The server had no capacity for a request (429, 503)."""
        now = time.monotonic() if now is None else now
        self.refused_in_a_row += 1
        self.ramping = False
        if now - self.cut_at >= DECREASE_EVERY_S:
            self.limit, self.cut_at = max(1.0, self.limit * DECREASE), now
        if self.refused_in_a_row >= REFUSALS and retry_after:
            self.not_before = max(self.not_before, now + retry_after)

    def failed(self, sent_at: float, now: float | None = None) -> None:
        """A request sent at `sent_at` failed, by the server or on the way to it.

        Requests that were in flight when failures began are not counted: they met the same failure.
        """
        now = time.monotonic() if now is None else now
        if self.failed_in_a_row and sent_at < self.failing_since:
            return
        if not self.failed_in_a_row:
            self.failing_since = now
        self.failed_in_a_row += 1
        if self.failed_in_a_row > STORM:
            pause = min(FIRST_PROBE_S * 2 ** (self.failed_in_a_row - STORM), LONGEST_PROBE_S)
            self.not_before = max(self.not_before, now + pause)


def pause_s(attempt: int, retry_after: float | None) -> float:
    """Exponential backoff with jitter; a server's Retry-After is a minimum."""
    if retry_after:
        return retry_after * random.uniform(1.0, 1.05)
    return min(FIRST_PAUSE_S * 2 ** min(attempt, 16), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds asked for by `retry-after-ms` or `retry-after` (a number or an HTTP date); None: by neither."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None


def duration_s(text: str | None) -> float | None:
    """Seconds of a duration as OpenAI writes them: "6m0s", "1.5s", "120ms"; a bare number is seconds."""
    if (plain := _number(text)) is not None:
        return plain
    if not re.fullmatch(rf"({DURATION})+", text or ""):
        return None
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    return sum(float(count) * units[unit] for count, unit in re.findall(DURATION, text or ""))


def _number(text: str | None) -> float | None:
    """A number, infinite ones too; None for what is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if isnan(number) else number
