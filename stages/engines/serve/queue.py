"""One engine, one thread: requests wait in a queue, and those that are sampled alike go to it together.

A batch ends with its longest request, and the next one waits for that. So long prompts are in no batch with
short ones but take turns with them, have no more tokens together than a batch of short ones may, and only a
part of the places.
"""

import asyncio
import math
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

from stages.core.errors import UserError
from stages.engines.protocol import Decoding, Engine, Generation

LEAST_PLACES, BATCHES = 64, 16  # requests that may be in progress: so many, or so many batches
LONG = 1024  # tokens: a prompt that has more
LONG_PLACES = 4  # one place in so many is for long prompts that wait
LONGEST_WAIT_S = 60  # that a refused client is asked to wait
FRESH_S = 5  # an answer is taken for a sign of life so long
ALIVE_S = 30  # for the engine to answer when it is asked whether it lives
STUCK_S = 900  # no batch takes that long
FAILURES = 3  # in a row, of an engine that was loaded anew before each


class PendingRequest(NamedTuple):
    """A request in the queue, and the future that its answer goes to. `tokens` are those of its prompt.

    `told` hears in the event loop what tokens the answer has so far, if it is there.
    """

    prompt: str
    tokens: int
    sampling: Decoding
    seed: int
    grammar: str | None
    answer: asyncio.Future
    told: Callable[[list[int]], None] | None = None

    @property
    def is_long(self) -> bool:
        return self.tokens > LONG

    @property
    def manner(self) -> tuple[Decoding, str | None, bool]:
        """What requests of one batch must have in common."""
        return self.sampling, self.grammar, self.is_long


class Full(Exception):
    """There is no place for another request; one may be free after `wait_s`."""

    def __init__(self, wait_s: int):
        super().__init__("too many requests are in progress")
        self.wait_s = wait_s


class EngineQueue:
    """The engine that `load` returns, loaded and used in one thread; up to `most` requests at once.

    An engine that fails is loaded anew, and each request that it left without an answer goes to it once more,
    alone: an error is the answer to the request that it belongs to, and to no other.
    """

    def __init__(self, load: Callable[[], Engine], most: int):
        self.thread, self.load, self.most = ThreadPoolExecutor(1), load, most
        self.engine: Engine | None = self.thread.submit(load).result()
        self.places = max(LEAST_PLACES, BATCHES * most)
        self.taken = self.failures = 0
        self.waiting: list[PendingRequest] = []
        self.was_long = False  # the last batch
        self.arrived = asyncio.Event()
        self.answered_at = time.monotonic()
        self.began_at: float | None = None  # of the batch that the engine is at
        self.batch_s = 0.0  # what the last one took

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue as long as the block lasts. Raises Full."""
        if self.taken >= self.places:
            raise self.full()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def full(self) -> Full:
        """What to raise where there is no place."""
        wait_s = math.ceil(self.batch_s * self.taken / self.most)
        return Full(min(max(wait_s, 1), LONGEST_WAIT_S))

    async def answer(
        self,
        prompt: str,
        tokens: int,
        sampling: Decoding,
        seed: int,
        grammar: str | None,
        told: Callable[[list[int]], None] | None = None,
    ) -> Generation:
        """The engine's answer. A task that is cancelled while it waits takes its request out of the queue.

        `tokens` are those of the prompt. Raises Full for a long one where too many such wait.
        """
        future = asyncio.get_running_loop().create_future()
        request = PendingRequest(prompt, tokens, sampling, seed, grammar, future, told)
        if request.is_long and LONG_PLACES * sum(one.is_long for one in self.waiting) >= self.places:
            raise self.full()
        self.waiting.append(request)
        self.arrived.set()
        return await future

    async def is_well(self, prompt: str, sampling: Decoding) -> bool:
        """Whether the engine answers: one at work has not failed of late, one with nothing to do is asked."""
        now = time.monotonic()
        if self.began_at is not None:
            return self.failures < FAILURES and now - self.began_at < STUCK_S
        if not self.failures and now - self.answered_at < FRESH_S:
            return True
        try:
            async with asyncio.timeout(ALIVE_S):
                await self.answer(prompt, 1, sampling, 0, None)
        except Exception:
            return False
        return True

    async def run(self) -> None:
        """Feed the engine, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            if batch := self._next():
                self.began_at = time.monotonic()
                await loop.run_in_executor(self.thread, self._work, loop, batch)
                self.batch_s, self.began_at = time.monotonic() - self.began_at, None
            else:
                self.arrived.clear()

    def _next(self) -> list[PendingRequest]:
        """The first of the queue whose turn it is, and those behind it that can be generated with it."""
        self.waiting = [request for request in self.waiting if not request.answer.done()]
        if not self.waiting:
            return []
        turn = [request for request in self.waiting if request.is_long != self.was_long] or self.waiting
        alike = [request for request in turn if request.manner == turn[0].manner][: self.most]
        totals = accumulate(request.tokens for request in alike)
        fitting = sum(tokens <= LONG * self.most for tokens in totals)
        batch, self.was_long = alike[: max(fitting, 1)], turn[0].is_long
        self.waiting = [request for request in self.waiting if request not in batch]
        return batch

    def _work(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest]) -> None:
        """Generate for a batch, in the engine's thread; every request gets its answer or its error."""
        left, error = self._generate(loop, batch)
        if isinstance(error, UserError):  # of what they have in common
            for request in left:
                loop.call_soon_threadsafe(_settle, request.answer, None, error)
            return
        for request in left:
            if not request.answer.done():
                failed, error = self._generate(loop, [request])
                if failed:
                    loop.call_soon_threadsafe(_settle, request.answer, None, error)

    def _generate(
        self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest]
    ) -> tuple[list[PendingRequest], Exception | None]:
        """(the requests that got no answer, why); an engine that failed is gone then."""
        left = dict(enumerate(batch))
        first, prompts = batch[0], [request.prompt for request in batch]
        seeds = [request.seed for request in batch]

        def tell(index: int, tokens: list[int]) -> None:
            if (told := batch[index].told) is not None:
                loop.call_soon_threadsafe(told, tokens.copy())

        heard = {"tell": tell} if any(request.told for request in batch) else {}
        try:
            self.engine = self.engine or self.load()
            for answer in self.engine.generate(prompts, first.sampling, seeds, first.grammar, **heard):
                loop.call_soon_threadsafe(_settle, left.pop(answer.index).answer, answer, None)
            if left:
                raise RuntimeError("the engine left requests without an answer")
        except UserError as error:
            return list(left.values()), error
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # or they would keep the engine and its memory
            self.engine, self.failures = None, self.failures + 1
            return list(left.values()), error
        self.failures, self.answered_at = 0, time.monotonic()
        return [], None


def _settle(answer: asyncio.Future, generation: Generation | None, error: Exception | None) -> None:
    """Give a future its result or its error, unless its request was cancelled."""
    if answer.done():
        return
    if error is None:
        answer.set_result(generation)
    else:
        answer.set_exception(error)
