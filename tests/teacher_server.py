"""A teacher for tests: the embedded server with faults, counting its calls; and small datasets for it."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from stages.support import layout
from stages.support.files import atomic_directory, read_jsonl, write_jsonl
from stages.support.hashing import sha256_json
from stages.teacher.server import make_app


def fake_answer(messages: list[dict]) -> str:
    word = messages[-1]["content"].split()[-1]
    return f"- how to use {word}\n- what {word} returns\n- {word} example"


class Reply(NamedTuple):
    """What a faulty server says instead of an answer."""

    body: str
    status: int = 200
    content_type: str = "application/json"
    headers: dict | None = None


class Teacher:
    """`fault(body, times_seen)` may return a Reply, or "reset", or a number of seconds to hang first."""

    def __init__(self, fault: Callable | None = None, delay: float = 0.0):
        self.fault, self.delay = fault, delay
        self.seen: Counter[str] = Counter()
        self.bodies: dict[str, dict] = {}
        self.keys: set[str] = set()
        self.busy = self.most_busy = 0

    @property
    def calls(self) -> int:
        return sum(self.seen.values())

    @web.middleware
    async def middleware(self, request: web.Request, handler):
        body = await request.json()
        key = sha256_json(body)
        self.seen[key] += 1
        self.bodies[key] = body
        self.keys.add(request.headers.get("Authorization", ""))
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            fault = self.fault(body, self.seen[key]) if self.fault else None
            if fault == "reset":
                request.transport.abort()
                return web.Response()
            if isinstance(fault, Reply):
                return web.Response(
                    text=fault.body,
                    status=fault.status,
                    content_type=fault.content_type,
                    headers=fault.headers,
                )
            await asyncio.sleep(fault or self.delay)
            return await handler(request)
        finally:
            self.busy -= 1

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve from a thread; yields the base_url."""
        loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

        async def main() -> None:
            app = make_app(fake_answer)
            app.middlewares.append(self.middleware)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
            self.stop = asyncio.Event()
            ready.set()
            await self.stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
        thread.start()
        ready.wait(10)
        try:
            yield address[0]
        finally:
            loop.call_soon_threadsafe(self.stop.set)
            thread.join(10)


def completion(text, reason="stop", **message) -> Reply:
    """A chat completion with this content."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": reason,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return Reply(
        json.dumps({"object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage})
    )


def failure(status: int, message="no", code=None, **headers) -> Reply:
    return Reply(json.dumps({"error": {"message": message, "code": code}}), status, headers=headers)


def word_of(body: dict) -> str:
    return body["messages"][-1]["content"].split()[-1]


def write_corpus(dataset: str, count: int = 20) -> list[dict]:
    """Documents p000, p001, …: every tenth is held out, every tenth is for validation."""
    splits = {8: "val", 9: "test"}
    documents = [
        {
            "id": f"p{i:03}",
            "title": f"Page {i}",
            "text": f"About word{i}",
            "metadata": {},
            "split": splits.get(i % 10, "train"),
        }
        for i in range(count)
    ]
    with atomic_directory(layout.corpus(dataset), "corpus") as target:
        write_jsonl(target / "documents.jsonl", documents)
        write_jsonl(target / "queries.jsonl", [])
        write_jsonl(target / "pairs.jsonl", [])
    return documents


def write_prompts(
    dataset: str, teacher="# System\nWrite queries.\n# User\n{{ document.text }}", student=None
):
    path = layout.prompt(dataset, "teacher")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(teacher, encoding="utf-8")
    layout.prompt(dataset, "student").write_text(
        student or "{{ document.title }}: {{ document.text }}\nQueries:"
    )


def make_requests(dataset: str, count: int = 20) -> list[dict]:
    """Corpus, prompts and requests of a small dataset, made by the real prompt stage."""
    from stages.prompt import PromptKnobs, command

    write_corpus(dataset, count)
    write_prompts(dataset)
    command.run(dataset, PromptKnobs())
    return read_jsonl(layout.requests(dataset))


def responses(dataset: str) -> list[dict]:
    return [json.loads(line) for line in Path(layout.responses(dataset)).read_text().splitlines()]
