"""One engine, one thread: requests wait in a queue, and those that are sampled alike go to it together."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from stages.engines.protocol import Decoding, Engine, Generation


class Job(NamedTuple):
    prompt: str
    sampling: Decoding
    seed: int
    grammar: str | None
    answer: asyncio.Future

    @property
    def manner(self) -> tuple[Decoding, str | None]:
        return self.sampling, self.grammar


class EngineQueue:
    """The engine that `load` gives, loaded and used in a thread of its own; up to `most` jobs at once."""

    def __init__(self, load: Callable[[], Engine], most: int):
        self.thread, self.most = ThreadPoolExecutor(1), most
        self.engine = self.thread.submit(load).result()
        self.waiting: list[Job] = []
        self.arrived = asyncio.Event()

    async def answer(self, prompt: str, sampling: Decoding, seed: int, grammar: str | None) -> Generation:
        """The engine's answer. A task that is cancelled while it waits takes its job out of the queue."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(Job(prompt, sampling, seed, grammar, future))
        self.arrived.set()
        return await future

    async def run(self) -> None:
        """Feed the engine, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.arrived.wait()
            if jobs := self._next():
                await loop.run_in_executor(self.thread, self._work, loop, jobs)
            else:
                self.arrived.clear()

    def _next(self) -> list[Job]:
        """The first of the queue and those behind it that can be generated with it."""
        self.waiting = [job for job in self.waiting if not job.answer.done()]
        alike = [job for job in self.waiting if job.manner == self.waiting[0].manner][: self.most]
        self.waiting = [job for job in self.waiting if job not in alike]
        return alike

    def _work(self, loop: asyncio.AbstractEventLoop, jobs: list[Job]) -> None:
        (sampling, grammar), prompts = jobs[0].manner, [job.prompt for job in jobs]
        try:
            for made in self.engine.generate(prompts, sampling, [job.seed for job in jobs], grammar):
                loop.call_soon_threadsafe(_settle, jobs[made.index].answer, made, None)
        except Exception as error:  # told to those who wait, whose handlers say what it is
            for job in jobs:
                loop.call_soon_threadsafe(_settle, job.answer, None, error)


def _settle(answer: asyncio.Future, made: Generation | None, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(made)
    else:
        answer.set_exception(error)
