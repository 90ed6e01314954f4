"""A teacher that answers at once with the same words, as fast as one core can, and counts what it is asked.

`POST /v1/chat/completions` answers after `latency` seconds. With `rpm` it admits that many a minute (a token
bucket that holds one second's worth) and answers 429 beyond; with `share_429` that share of the admitted gets
a 429 too, drawn from the request's body and how often it was admitted, so that it is the same in every run.
`POST /reset` takes these settings as JSON and forgets the counts; `GET /stats` gives them, with `?times=1`
also when each request was answered. A request without messages is a probe for headers: 400, counted apart.

    python -m benchmarks.collect_peers.fake_teacher --port 8000     serve
    python -m benchmarks.collect_peers.fake_teacher                 measure how many requests/s it can answer
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

SETTINGS = {"latency": 0.05, "rpm": 0, "share_429": 0.0, "retry_after": 1}
WORDS = (
    "how to read a file line by line without loading it whole, what the default encoding is on a platform, "
    "when a context manager closes the descriptor and what happens to buffered bytes after an exception, "
)
ANSWER = {
    "id": "chatcmpl-benchmark",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "benchmark",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join((WORDS * 3).split()[:100])},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 160, "completion_tokens": 130, "total_tokens": 290},
    "system_fingerprint": "fp_benchmark",
}
LIMITED = {
    "error": {
        "message": "Rate limit reached for benchmark on requests per min (RPM). Please try again later.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
}
EMPTY = {"error": {"message": "[] is too short - 'messages'", "type": "invalid_request_error", "code": None}}
PLENTY = 1_000_000_000  # what the headers say where nothing is limited


class Teacher:
    def __init__(self):
        self.answer, self.limited, self.empty = (json.dumps(x).encode() for x in (ANSWER, LIMITED, EMPTY))
        self.reset({})

    def reset(self, settings: dict) -> None:
        self.settings = SETTINGS | settings
        self.rate = self.settings["rpm"] / 60
        self.level, self.filled_at = self.rate, time.monotonic()
        self.admitted: dict[bytes, int] = {}
        self.times: dict[bytes, list[float]] = {}
        self.arrivals = self.answers = self.over_limit = self.drawn_429 = self.probes = 0
        self.first_arrival = self.last_answer = None

    def stats(self, times: bool) -> dict:
        names = "arrivals answers over_limit drawn_429 probes first_arrival last_answer"
        counts = {name: getattr(self, name) for name in names.split()}
        counts["answered_requests"] = len(self.times)
        return counts | ({"times": {key.hex(): at for key, at in self.times.items()}} if times else {})

    def admits(self) -> bool:
        if not self.rate:
            return True
        now = time.monotonic()
        self.level = min(self.rate, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def draws_429(self, key: bytes) -> bool:
        if not self.settings["share_429"]:
            return False
        turn = self.admitted.get(key, 0)
        self.admitted[key] = turn + 1
        drawn = int.from_bytes(blake2b(key + turn.to_bytes(4, "big"), digest_size=4).digest(), "big")
        return drawn < self.settings["share_429"] * 2**32

    def headers(self, status: int) -> dict[str, str]:
        limit = self.settings["rpm"] or PLENTY
        left, wait = (int(self.level), (self.rate - self.level) / self.rate) if self.rate else (limit - 1, 0)
        told = {
            "Content-Type": "application/json",
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": f"{wait:.3f}s",
            "x-ratelimit-limit-tokens": str(PLENTY),
            "x-ratelimit-remaining-tokens": str(PLENTY - 1),
            "x-ratelimit-reset-tokens": "0s",
        }
        return told | ({"Retry-After": str(self.settings["retry_after"])} if status == 429 else {})

    async def handle(self, request):
        from aiohttp import web

        if request.method == "GET":
            return web.json_response(self.stats("times" in request.query))
        body = await request.read()
        if request.path == "/reset":
            self.reset(json.loads(body or b"{}"))
            return web.json_response(self.settings)
        if len(body) < 200 and not json.loads(body).get("messages"):
            self.probes += 1
            return web.Response(status=400, body=self.empty, headers=self.headers(400))
        self.arrivals += 1
        self.first_arrival = self.first_arrival or time.monotonic()
        key = blake2b(body, digest_size=8).digest()
        status = 200
        if not self.admits():
            self.over_limit += 1
            status = 429
        elif self.draws_429(key):
            self.drawn_429 += 1
            status = 429
        if self.settings["latency"] and status == 200:
            await asyncio.sleep(self.settings["latency"])
        content = self.answer if status == 200 else self.limited
        response = web.Response(status=status, body=content, headers=self.headers(status))
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionResetError:  # the client is gone: it did not get this answer
            return response
        if status == 200:
            self.answers += 1
            self.last_answer = time.monotonic()
            self.times.setdefault(key, []).append(self.last_answer)
        return response


async def serve(port: int) -> None:
    from aiohttp import web

    runner = web.ServerRunner(web.Server(Teacher().handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def running(core: int):
    """Start the server on a core of its own; yields its port."""
    command = [sys.executable, str(Path(__file__).resolve()), "--port", "0"]
    with pinned(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextmanager
def pinned(core: int):
    """What is started in this block runs on `core` alone."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int, int]:
    """A core for the server and another for what is measured; the same one where there is only one."""
    found = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return found[0], found[-1]


async def load(port: int, count: int, connections: int) -> float:
    """Requests/s of a client that does nothing but write and read bytes: what the server can take."""
    content = json.dumps({"model": "benchmark", "messages": [{"role": "user", "content": WORDS * 4}]})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sent = f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()

    async def ask(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(number):
            writer.write(sent)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(ask(count // connections) for _ in range(connections)))
    return count / (time.perf_counter() - started)


def capacity(port: int, core: int, count: int = 12_800) -> float:
    with pinned(core):
        return asyncio.run(load(port, count, connections=256))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--port", type=int, help="serve there (0 = any free one) instead of measuring")
    given = arguments.parse_args()
    if given.port is not None:
        asyncio.run(serve(given.port))
        return
    mine, other = cores()
    with running(mine) as port:
        print(json.dumps({"requests_per_second": round(capacity(port, other))}))


if __name__ == "__main__":
    main()
