"""One engine, one thread: requests wait in a queue, and those that are sampled alike go to it together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from stages.engines.protocol import Decoding, Engine, Generation


class PendingRequest(NamedTuple):
    """A request in the queue, and the future that its answer goes to."""

    prompt: str
    sampling: Decoding
    seed: int
    grammar: str | None
    answer: asyncio.Future

    @property
    def manner(self) -> tuple[Decoding, str | None]:
        """What requests of one batch must have in common."""
        return self.sampling, self.grammar


class EngineQueue:
    """The engine that `load` returns, loaded and used in one thread; up to `most` requests at once."""

    def __init__(self, load: Callable[[], Engine], most: int):
        self.thread, self.most = ThreadPoolExecutor(1), most
        self.engine = self.thread.submit(load).result()
        self.waiting: list[PendingRequest] = []
        self.arrived = asyncio.Event()

    async def answer(self, prompt: str, sampling: Decoding, seed: int, grammar: str | None) -> Generation:
        """The engine's answer. A task that is cancelled while it waits takes its request out of the queue."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(PendingRequest(prompt, sampling, seed, grammar, future))
        self.arrived.set()
        return await future

    async def run(self) -> None:
        """Feed the engine, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            if batch := self._next():
                await loop.run_in_executor(self.thread, self._work, loop, batch)
            else:
                self.arrived.clear()

    def _next(self) -> list[PendingRequest]:
        """The first of the queue and those behind it that can be generated with it."""
        self.waiting = [request for request in self.waiting if not request.answer.done()]
        alike = [request for request in self.waiting if request.manner == self.waiting[0].manner]
        batch = alike[: self.most]
        self.waiting = [request for request in self.waiting if request not in batch]
        return batch

    def _work(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest]) -> None:
        """Generate for a batch, in the engine's thread; every request gets its answer or the error."""
        (sampling, grammar), prompts = batch[0].manner, [request.prompt for request in batch]
        try:
            seeds = [request.seed for request in batch]
            for generation in self.engine.generate(prompts, sampling, seeds, grammar):
                loop.call_soon_threadsafe(_settle, batch[generation.index].answer, generation, None)
        except Exception as error:  # the handlers of the requests turn it into a response
            for request in batch:
                loop.call_soon_threadsafe(_settle, request.answer, None, error)


def _settle(answer: asyncio.Future, generation: Generation | None, error: Exception | None) -> None:
    """Give a future its result or its error, unless its request was cancelled."""
    if answer.done():
        return
    if error is None:
        answer.set_result(generation)
    else:
        answer.set_exception(error)
