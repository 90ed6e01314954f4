"""Ask a teacher over the OpenAI chat protocol, and save every attempt before looking at it.

The SDK's own retries are off: ours are ledger lines. A fixed number of workers share one stream of requests.
"""

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from stages.support.errors import UserError
from stages.support.progress import Progress
from stages.teacher.outcomes import read_answer
from stages.teacher.store import Attempt, Store

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
RETRIED = {408, 409, 425, 429}


@dataclass(frozen=True)
class Endpoint:
    base_url: str
    api_key: str = field(repr=False)
    key_name: str = "the API key"  # how messages call it; never the key
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `stop` is the message of a failure that no further request would survive."""

    kind: str
    message: str
    status: int | None = None
    retry: bool = False
    retry_after: float | None = None
    stop: str | None = None


def ask_all(requests: Iterator[dict], endpoint: Endpoint, store: Store, shown: Progress) -> dict[str, list]:
    """Send `requests` (request_key, model, messages, params) and store the answers.

    Returns the failed requests by class: {class: [count, one example]}. Raises UserError when going on is
    useless (refused key, no funds, wrong or unreachable address) and KeyboardInterrupt after Ctrl-C; what was
    in flight is waited for and kept in both cases.
    """
    try:
        return asyncio.run(_Run(endpoint, store, shown).all(requests))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class _Run:
    def __init__(self, endpoint: Endpoint, store: Store, shown: Progress):
        self.endpoint, self.store, self.shown = endpoint, store, shown
        self.stopping = asyncio.Event()
        self.fatal: str | None = None
        self.interrupted = self.was_answered = False
        self.outcomes: Counter[str] = Counter()
        self.failures: dict[str, list] = {}
        self.unsaved: list[Attempt] = []
        self.writing = asyncio.Lock()

    async def all(self, requests: Iterator[dict]) -> dict[str, list]:
        from openai import AsyncOpenAI, DefaultAioHttpClient, Timeout

        end = self.endpoint
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt, asyncio.current_task())
        async with AsyncOpenAI(
            base_url=end.base_url,
            api_key=end.api_key,
            max_retries=0,
            timeout=Timeout(end.timeout + 5, connect=min(end.timeout, 10)),  # `_attempt` bounds the whole
            http_client=DefaultAioHttpClient(),
        ) as self.openai:
            await asyncio.gather(*(self._worker(requests) for _ in range(end.concurrency)))
        if self.fatal:
            raise UserError(self.fatal)
        if self.interrupted:
            raise KeyboardInterrupt
        return self.failures

    def _interrupt(self, main: asyncio.Task) -> None:
        if self.interrupted:
            main.cancel()
        self.interrupted = True
        self.stopping.set()
        print("stopping: waiting for answers in flight (Ctrl-C again drops them)", file=sys.stderr)

    async def _worker(self, requests: Iterator[dict]) -> None:
        while not self.stopping.is_set() and (request := next(requests, None)) is not None:
            if self.store.answer(request["request_key"]) is None:  # another process may have asked meanwhile
                await self._ask(request)
            note = ", ".join(f"{name} {count}" for name, count in self.outcomes.items() if name != "ok")
            self.shown.update(note=note or None)

    async def _ask(self, request: dict) -> None:
        for attempt in range(self.endpoint.retries + 1):
            outcome = await self._attempt(request)
            if not isinstance(outcome, Failure):
                self.outcomes[outcome] += 1
                return
            if outcome.stop and not (self.was_answered and outcome.retry and attempt < self.endpoint.retries):
                self.fatal = self.fatal or outcome.stop
                self.stopping.set()
            last = attempt == self.endpoint.retries or not outcome.retry
            if last or await self._paused(pause_s(attempt, outcome.retry_after)):
                break
        self.outcomes["error"] += 1
        self.failures.setdefault(outcome.kind, [0, outcome.message])[0] += 1

    async def _paused(self, seconds: float) -> bool:
        """Wait before a retry; True when the run is being stopped instead."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _attempt(self, request: dict) -> str | Failure:
        """Send once and save the result. Returns the outcome, or the failure."""
        import httpx2
        import openai

        # The generic call sends the body as hashed; the typed one first walks its type hints for 0.5 ms.
        body = {"model": request["model"], "messages": request["messages"], **request["params"]}
        began, raw, failure = time.monotonic(), None, None
        try:
            async with asyncio.timeout(self.endpoint.timeout):  # the SDK's own is per read: a drip would pass
                answer = await self.openai.post("/chat/completions", cast_to=httpx2.Response, body=body)
            raw = answer.content.decode("utf-8", errors="backslashreplace")
        except (openai.APIError, TimeoutError) as error:
            failure = judge(error, self.endpoint, request["model"])
        self.was_answered |= raw is not None or failure.status is not None
        await self._save(
            Attempt(
                request["request_key"],
                self.endpoint.base_url,
                round(time.monotonic() - began, 3),
                200 if failure is None else failure.status,
                failure and failure.kind,
                raw,
            )
        )
        if failure is None:
            outcome = read_answer(raw).outcome
            if outcome != "error":
                return outcome
            message = f"{self.endpoint.base_url} answered 200 with something that is not a chat completion"
            failure = Failure("not a completion", f"{message}: {_short(raw, self.endpoint)}", 200, retry=True)
        return failure

    async def _save(self, attempt: Attempt) -> None:
        """Durable on return. What arrives during one commit shares the next: fsync does not set the pace."""
        self.unsaved.append(attempt)
        async with self.writing:
            batch, self.unsaved = self.unsaved, []
            if batch:
                await asyncio.to_thread(self.store.append, batch)


def pause_s(attempt: int, retry_after: float | None) -> float:
    """Exponential backoff with jitter; a server's Retry-After is a minimum."""
    backoff = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
    return backoff if retry_after is None else retry_after + backoff * 0.1


def retry_after_s(headers) -> float | None:
    """Seconds asked for by `retry-after-ms` or `retry-after` (a number or an HTTP date)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "")
        if value and not value.strip()[0].isdigit():
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        return float(value) if value else None
    except ValueError:
        return None


def judge(error: Exception, endpoint: Endpoint, model: str) -> Failure:
    """What a failed attempt means for its request and for the run."""
    import aiohttp
    from openai import APIStatusError

    url, stop = endpoint.base_url, None
    if not isinstance(error, APIStatusError):
        chain = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        cause = next((c for c in chain if isinstance(c, aiohttp.ClientError)), chain[-1])
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            why = _short(str(cause), endpoint)
            stop = f"{url} cannot be reached ({why}); check base_url and that the server runs"
        elif any(isinstance(c, TimeoutError) for c in chain):
            return Failure("timeout", f"{url}: no whole answer within {endpoint.timeout:g} s", retry=True)
        kind = type(cause).__name__
        return Failure(kind, stop or f"{url}: {kind} {_short(str(cause), endpoint)}", retry=True, stop=stop)
    status, code = error.status_code, error.code or error.type or ""
    text = f"{url} answered {status}: {_short(error.message, endpoint)}"
    if status in (401, 403):  # the server's text is not shown: it may hold a part of the key
        stop = f"{url} answered {status}: it refuses {endpoint.key_name} for model '{model}'; set a valid one"
    elif "insufficient_quota" in code or status == 402:
        stop = (
            f"{url} answered {status} (insufficient_quota): the account has no funds; nothing more was sent"
        )
    elif status == 404:
        stop = f"{text}; check base_url (it usually ends in /v1) and the model name '{model}'"
    retry = stop is None and (status in RETRIED or status >= 500)
    kind = f"{status} {code}".strip()
    return Failure(kind, stop or text, status, retry, retry_after_s(error.response.headers), stop)


def _short(text: str, endpoint: Endpoint) -> str:
    """One line of a server's text, without the key should it hold it."""
    return " ".join(text.replace(endpoint.api_key, "***").split())[:200]
