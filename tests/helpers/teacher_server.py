"""A teacher for tests: the embedded server with faults, limits and a bill; and small datasets for it."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from aiohttp import web

from demo.teacher.server import MODEL, complete, make_app
from stages.core import layout
from stages.core.files import atomic_directory, read_jsonl, write_jsonl
from stages.core.hashing import sha256_json
from tests.helpers.rate_limits import Limits, most_in_window, token_cost
from tests.helpers.replies import Reply, deliver, failure, usage_of


def fake_answer(messages: list[dict]) -> str:
    word = messages[-1]["content"].split()[-1]
    return f"- how to use {word}\n- what {word} returns\n- {word} example"


class Teacher:
    """`fault(body, times_seen)` may return one of these instead of None:

    - a Reply, sent instead of an answer;
    - a number of seconds to hang before the answer;
    - "reset": the connection ends before any answer is computed;
    - "reset mid-body" (RST), "close mid-body" (FIN): it ends after half of the announced answer;
    - "truncated": half of the answer, as a whole and well-formed HTTP response;
    - ("drip", seconds): the answer comes a few bytes at a time, with this pause after each;
    - a callable that takes the answer's dict and returns the one to send.
    """

    def __init__(
        self,
        fault: Callable | None = None,
        delay: float = 0.0,
        limits: Limits | None = None,
        answer: Callable[[list[dict]], str] = fake_answer,
    ):
        self.fault, self.delay, self.limits, self.answer = fault, delay, limits or Limits(), answer
        self.seen: Counter[str] = Counter()  # by the body's hash; what was over the limit is not in it
        self.billed: Counter[str] = Counter()
        self.bodies: dict[str, dict] = {}
        self.keys: set[str] = set()
        self.busy = self.most_busy = self.over_limit = self.billed_prompt = self.billed_completion = 0
        self.arrivals: list[float] = []  # time.monotonic(), of those over the limit too
        self.arrived_tokens: list[int] = []
        self.request_ids = count(1)

    @property
    def calls(self) -> int:
        return sum(self.seen.values())

    def billed_dollars(self, input_price: float, output_price: float) -> float:
        """Prices are for a million tokens."""
        return (self.billed_prompt * input_price + self.billed_completion * output_price) / 1e6

    def most_requests(self, seconds: float) -> int:
        """The most that arrived within any so many seconds."""
        return most_in_window(self.arrivals, seconds)

    def most_tokens(self, seconds: float) -> int:
        return most_in_window(self.arrivals, seconds, self.arrived_tokens)

    @web.middleware
    async def middleware(self, request: web.Request, handler):
        self.keys.add(request.headers.get("Authorization", ""))
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            return await self._chat(request, handler)
        return await self._beside(request, handler)

    async def _beside(self, request: web.Request, handler) -> web.StreamResponse:
        """All that is not a chat completion."""
        return await handler(request)

    async def _chat(self, request: web.Request, handler) -> web.StreamResponse:
        body = await request.json()
        tokens = token_cost(body)
        self.arrivals.append(time.monotonic())
        self.arrived_tokens.append(tokens)
        if wait := self.limits.admit(tokens):
            self.over_limit += 1
            advice = self.limits.advice(wait)
            return failure(429, "Rate limit reached", "rate_limit_exceeded", **advice).response()
        key = sha256_json(body)
        self.seen[key] += 1
        self.bodies[key] = body
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            fault = self.fault(body, self.seen[key]) if self.fault else None
            return await self._respond(request, handler, key, fault)
        finally:
            self.busy -= 1

    async def _respond(self, request: web.Request, handler, key: str, fault) -> web.StreamResponse:
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if isinstance(fault, Reply):
            self._bill(key, usage_of(fault.body))
            return fault.response()
        response = await handler(request)
        if response.status == 200:
            response = self._charge(key, response.text, fault if callable(fault) else None)
        # After the bill: whoever hangs up on a slow teacher pays for the answer all the same.
        await asyncio.sleep(fault if isinstance(fault, int | float) and fault else self.delay)
        return await deliver(request, response, fault)

    def _charge(self, key: str, text: str, change: Callable[[dict], dict] | None) -> web.Response:
        """Bill an answer and change it: one sent without its usage costs as much."""
        sent = json.dumps(change(json.loads(text))) if change else text
        self._bill(key, usage_of(sent) or usage_of(text))
        return Reply(sent).response()

    def _bill(self, key: str, usage: tuple[int, int] | None) -> None:
        if usage:
            self.billed[key] += 1
            self.billed_prompt += usage[0]
            self.billed_completion += usage[1]

    async def _stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["x-request-id"] = f"req_{next(self.request_ids):06}"
        if request.path.endswith("/chat/completions"):
            response.headers.update(self.limits.headers())

    def computed(self, body: dict) -> Reply:
        """The answer to a body that came by another way than /v1/chat/completions."""
        if not str(body.get("model", "")).startswith(MODEL):
            return failure(404, f"only models named '{MODEL}...' are served here", "model_not_found")
        try:
            return Reply(json.dumps(complete(body, self.answer)))
        except ValueError as error:
            return failure(400, str(error), "invalid_value")

    def routes(self) -> list[web.RouteDef]:
        """Those that the embedded server does not have."""
        return []

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve from a thread; yields the base_url."""
        loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

        async def main() -> None:
            app = make_app(self.answer)
            app.add_routes(self.routes())
            app.middlewares.append(self.middleware)
            app.on_response_prepare.append(self._stamp)
            # Nobody waits for answers that come late; 0 would be to wait for them without an end.
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
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
    from stages.knobs import PromptKnobs
    from stages.prompt import run as run_prompt

    write_corpus(dataset, count)
    write_prompts(dataset)
    run_prompt(dataset, PromptKnobs(template=str(layout.prompt(dataset, "teacher"))))
    return read_jsonl(layout.requests(dataset))


def responses(dataset: str) -> list[dict]:
    return [json.loads(line) for line in Path(layout.responses(dataset)).read_text().splitlines()]
