"""What bad requests do to honest ones: called by `python -m benchmarks.serve --dataset pydoc --hostile 60`.

32 clients ask the server one request after another, first honest short ones only, then with 5% malformed, 5%
empty, 5% huge and 5% vanishing ones among them; each request is of another document, so that no prefix is
cached. Every honest request must be answered or refused with 429; the bar for its 95th percentile is
twice that without the others; the memory may not grow once the key/value cache is full.
"""

import asyncio
import gzip
import json
import os
import random
import sys
import time
from collections import Counter
from itertools import cycle

from benchmarks.serve import LONGEST, running

CLIENTS, SHARE, EVERY_S = 32, 0.05, 2
KINDS = ("malformed", "empty", "huge", "vanishing")
BAR = 2  # times the 95th percentile without bad requests
JSON = ("Content-Type: application/json",)
BOMB = gzip.compress(b" " * 2**27)


class Crowd:
    """The clients of one server for some seconds."""

    def __init__(self, dataset: str, url: str, documents, hostile: bool, seed: int):
        self.dataset, self.documents, self.hostile = dataset, documents, hostile
        self.host, self.port = url.split("/")[2].split(":")
        self.choose, self.seconds = random.Random(seed), []
        self.outcomes = {kind: Counter() for kind in ("honest", *KINDS)}

    async def run(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(self.client(end) for _ in range(CLIENTS)))

    async def client(self, end: float) -> None:
        while time.perf_counter() < end:
            kind = "honest"
            if self.hostile and self.choose.random() < SHARE * len(KINDS):
                kind = self.choose.choice(KINDS)
            started = time.perf_counter()
            try:
                outcome = await asyncio.wait_for(getattr(self, kind)(), 300)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                outcome = type(error).__name__
            self.outcomes[kind][outcome] += 1
            if kind == "honest" and outcome == 200:
                self.seconds.append(time.perf_counter() - started)
            elif outcome == 429:
                await asyncio.sleep(0.5)

    async def honest(self) -> int | str:
        return await self.send(self.chat())

    async def malformed(self) -> int | str:
        body, fields = self.chat(), json.loads(self.chat())
        return await self.send(
            *self.choose.choice(
                (
                    (body[:-9],),
                    (b"[" * 100_000,),
                    (body, ("Content-Type: text/plain",)),
                    (body, ("Content-Type: application/json; charset=rot13",)),
                    (BOMB, (*JSON, "Content-Encoding: gzip")),
                    (body, (*JSON, "Origin: http://evil.example")),
                    (json.dumps({**fields, "top_k": 2**70, "temperature": 1}).encode(),),
                    (json.dumps({**fields, "top_p": 1e-300, "temperature": 1}).encode(),),
                    (json.dumps({**fields, "n": 9, "messages": "none"}).encode(),),
                    (body, (*JSON, "Content-Length: -1")),
                )
            )
        )

    async def empty(self) -> int | str:
        if self.choose.random() < 0.5:
            body = {"model": self.dataset, "prompt": self.choose.choice(("", " ", "\n"))}
            return await self.send(json.dumps(body | {"max_tokens": LONGEST}).encode(), path="completions")
        return await self.send(self.chat(text=self.choose.choice(("", " \n", "\u200b"))))

    async def huge(self) -> int | str:
        text = self.choose.choice(("word ", "a", "𝕏", "\n")) * self.choose.choice((150_000, 1_000_000))
        if self.choose.random() < 0.5:
            body = {"model": self.dataset, "prompt": text}
            return await self.send(json.dumps(body, ensure_ascii=False).encode(), path="completions")
        return await self.send(self.chat(text=text))

    async def vanishing(self) -> str:
        """Gone before the request is whole, or while it waits; with a farewell or without one."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        body = self.chat(stream=self.choose.random() < 0.5)
        whole = self.request(body, JSON)
        writer.write(whole if self.choose.random() < 0.5 else whole[: self.choose.randrange(len(whole))])
        await asyncio.sleep(self.choose.choice((0, 0.01, 0.2)))
        if self.choose.random() < 0.5:
            writer.transport.abort()
        writer.close()
        return "gone"

    def chat(self, text: str | None = None, **fields) -> bytes:
        document = next(self.documents)
        said = document["text"][:200] if text is None else text
        body = {"model": self.dataset, "title": document["title"], "max_tokens": LONGEST}
        body |= {"messages": [{"role": "user", "content": said}], **fields}
        return json.dumps(body, ensure_ascii=False).encode()

    def request(self, body: bytes, headers: tuple[str, ...], path: str = "chat/completions") -> bytes:
        lines = [f"POST /v1/{path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close", *headers]
        if not any(line.startswith("Content-Length") for line in headers):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join((*lines, "", "")).encode() + body

    async def send(self, body: bytes, headers=JSON, path: str = "chat/completions") -> int | str:
        """The status of the answer, which is read whole."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self.request(body, headers, path))
            status = int((await reader.readline()).split()[1])
            await reader.read()
            return status
        finally:
            writer.close()

    def p95_ms(self) -> float:
        ordered = sorted(self.seconds)
        return round(1000 * ordered[int(0.95 * len(ordered))], 1)


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


async def sampled(pid: int, found: list[float]) -> None:
    while True:
        found.append(round(resident_mib(pid)))
        await asyncio.sleep(EVERY_S)


async def both(dataset: str, url: str, pid: int, documents, seconds: int) -> dict:
    crowds, memory = {}, []
    sampling = asyncio.create_task(sampled(pid, memory))
    for name, hostile in (("warm_up", True), ("honest", False), ("hostile", True)):
        begun = len(memory)
        crowd = crowds[name] = Crowd(dataset, url, documents, hostile, seed=len(crowds))
        await crowd.run(seconds)
        print(f"{name}: memory in MiB, every {EVERY_S} s: {memory[begun:]}", file=sys.stderr)
        for kind, outcomes in crowd.outcomes.items():
            print(f"{name}: {kind}: {dict(outcomes)}", file=sys.stderr)
    sampling.cancel()
    warm, later = memory[len(memory) // 3], memory[len(memory) // 3 :]
    last = await crowds["honest"].honest()
    without, among = crowds["honest"], crowds["hostile"]
    good = {200, 429}
    failed = sum(
        times for one in crowds.values() for what, times in one.outcomes["honest"].items() if what not in good
    )
    return {
        "load": round(os.getloadavg()[0], 1),
        "seconds": seconds,
        "honest_answered": {name: crowd.outcomes["honest"][200] for name, crowd in crowds.items()},
        "honest_refused": sum(crowd.outcomes["honest"][429] for crowd in crowds.values()),
        "honest_failed": failed,
        "p95_ms_without": without.p95_ms(),
        "p95_ms_among": among.p95_ms(),
        "times": round(among.p95_ms() / without.p95_ms(), 2),
        "memory_mib": {"after_warm_up": warm, "highest_since": max(later)},
        "answers_afterwards": last == 200,
        "passed": failed == 0 and last == 200 and among.p95_ms() < BAR * without.p95_ms(),
    }


def measure(dataset: str, seconds: int) -> None:
    """Print what was found; the last line is JSON."""
    from stages.core import layout
    from stages.core.files import iter_jsonl

    documents = cycle(list(iter_jsonl(layout.corpus(dataset) / "documents.jsonl")))
    with running(dataset) as (url, process):
        found = asyncio.run(both(dataset, url, process.pid, documents, seconds))
    print(json.dumps(found))
