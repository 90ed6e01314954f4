"""Server-sent events of one answer: what there is of it is sent while the student writes."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from aiohttp import web

from stages.core.tokenizer import TextCodec
from stages.engines.protocol import Generation

HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
STALLED_S = 20  # for a client to read an event
BEGUN = web.RequestKey("BEGUN", web.StreamResponse)  # the response of a request that is under way
Part = Callable[[str, bool], dict]  # (a piece of the answer, is it the first) → a choice without index


class Stream:
    """The response begins when there is something to send: what goes wrong before has a status of its own."""

    def __init__(
        self, request: web.Request, head: dict, beside: Mapping[str, Any], part: Part, codec: TextCodec
    ):
        """head: fields of every event. beside: further ones, of the first."""
        self.request, self.head, self.beside, self.part, self.codec = request, head, beside, part, codec
        self.response: web.StreamResponse | None = None
        self.ids: list[int] = []
        self.news = asyncio.Event()
        self.sent: str | None = None  # of the answer

    def tell(self, ids: list[int]) -> None:
        """Take the tokens of the answer so far. A client that reads slowly gets several at once."""
        self.ids = ids
        self.news.set()

    async def following(self, answer: Coroutine[Any, Any, Generation]) -> Generation:
        """The answer. What was told of it is sent meanwhile."""
        answering = asyncio.ensure_future(answer)
        answering.add_done_callback(lambda _: self.news.set())
        try:
            while not answering.done():
                await self.news.wait()
                self.news.clear()
                end = self.ids.index(eos) if (eos := self.codec.eos_id) in self.ids else None
                text = self.codec.decode(self.ids[:end]).rstrip("\ufffd")  # half of a character may be there
                if text:
                    await self.more(text)
            return await answering
        finally:
            answering.cancel()

    async def more(self, text: str) -> None:
        """Send what `text`, the answer so far, has beyond what was sent."""
        if self.sent is None or (text != self.sent and text.startswith(self.sent)):
            await self.send(self.part(text[len(self.sent or "") :], self.sent is None))
            self.sent = text

    async def send(self, choice: dict, reason: str | None = None) -> None:
        await self._write([{"index": 0, **choice, "logprobs": None, "finish_reason": reason}])

    async def ended(self, choice: dict, reason: str, usage: dict | None) -> web.StreamResponse:
        """The whole response. usage: of an event of its own, or None."""
        await self.send(choice, reason)
        if usage is not None:
            await self._write([], usage=usage)
        await self._say("[DONE]")
        assert self.response is not None
        return self.response

    async def _write(self, choices: list[dict], **more: dict) -> None:
        beside = self.beside if self.response is None else {}
        await self._say(json.dumps({**self.head, **beside, "choices": choices, **more}))

    async def _say(self, event: str) -> None:
        """Raises ConnectionResetError where the client is gone, or does not read."""
        if self.response is None:
            self.response = self.request[BEGUN] = web.StreamResponse(headers=HEADERS)
            await self.response.prepare(self.request)
        try:
            async with asyncio.timeout(STALLED_S):
                await self.response.write(f"data: {event}\n\n".encode())
        except TimeoutError:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise ConnectionResetError from None
