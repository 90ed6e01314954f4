"""Embeddings and reranking beside chats: models that read texts whole, each in one thread.

Texts of requests that wait are read together. `POST /v1/embeddings` is OpenAI's, `POST /v1/rerank` as Jina,
Cohere, vLLM and text-embeddings-inference have it.
"""

import asyncio
import base64
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stages.engines.serve.bodies import Refused
from stages.engines.serve.queue import Full

TOGETHER = 256  # texts read in one go: more make nobody wait less
PLACES = 64  # requests that may wait or be read
MOST_TEXTS = 2048  # of a request, as OpenAI
Item = TypeVar("Item")
Text = Annotated[str, Field(min_length=1)]


def _several(texts: object) -> object:
    """A text alone is a list of one, so that what is wrong with a list is told of the list."""
    return [texts] if isinstance(texts, str) else texts


class EmbeddingsBody(BaseModel):
    """`input_type` chooses the prompt of a model that has one for each side, as in training."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS), BeforeValidator(_several)]
    input_type: Literal["query", "document"] = "document"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


class Document(BaseModel):
    text: Text


class RerankBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    query: Text
    documents: Annotated[list[Text | Document], Field(min_length=1, max_length=MOST_TEXTS)]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = True

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


class TextQueue(Generic[Item]):
    """A model in one thread: `read(items)` gives an array, a row an item, and how many tokens each has.

    Requests share a call of it. Its tokenizer is used by that thread alone: two at once fail.
    """

    def __init__(self, read: Callable[[Sequence[Item]], tuple[np.ndarray, Sequence[int]]]):
        self.read, self.thread, self.taken = read, ThreadPoolExecutor(1), 0
        self.waiting: list[tuple[list[Item], asyncio.Future]] = []
        self.running: asyncio.Task | None = None

    async def of(self, items: list[Item]) -> tuple[np.ndarray, int]:
        """What the model makes of them, and their tokens. Raises Full, and what `read` raises for them."""
        if self.taken >= PLACES:
            raise Full(1)
        self.taken += 1
        try:
            future = asyncio.get_running_loop().create_future()
            self.waiting.append((items, future))
            if self.running is None or self.running.done():
                self.running = asyncio.create_task(self._run())
            return await future
        finally:
            self.taken -= 1

    async def _run(self) -> None:
        while self.waiting:
            batch, count = [], 0
            while self.waiting and (not batch or count + len(self.waiting[0][0]) <= TOGETHER):
                items, future = self.waiting.pop(0)
                if not future.done():  # of a client that is still there
                    batch.append((items, future))
                    count += len(items)
            await self._read(batch)

    async def _read(self, batch: list[tuple[list[Item], asyncio.Future]]) -> None:
        """Answer each request; where a call fails, each of them alone, so that one does not fail the rest."""
        together = [item for items, _ in batch for item in items]
        if not together:
            return
        try:
            loop = asyncio.get_running_loop()
            rows, tokens = await loop.run_in_executor(self.thread, self.read, together)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._read([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        start = 0
        for items, future in batch:
            if not future.done():
                end = start + len(items)
                future.set_result((rows[start:end], int(sum(tokens[start:end]))))
            start += len(items)


class Encoder(NamedTuple):
    """An embedding model of so many dimensions. `queue` reads (text, side), side as `input_type`."""

    queue: TextQueue[tuple[str, str]]
    dims: int

    async def answer(self, body: EmbeddingsBody) -> dict:
        """The response. Raises Refused, Full."""
        if body.dimensions and body.dimensions > self.dims:
            raise Refused(f"the model has {self.dims} dimensions", "dimensions")
        vectors, tokens = await self.queue.of([(text, body.input_type) for text in body.input])
        if body.dimensions and body.dimensions < self.dims:  # of a Matryoshka model, the first are a vector
            vectors = vectors[:, : body.dimensions]
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return {
            "object": "list",
            "model": body.model,
            "data": [
                {"object": "embedding", "index": place, "embedding": _written(vector, body.encoding_format)}
                for place, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _written(vector: np.ndarray, form: str) -> str | list[float]:
    plain = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(plain.tobytes()).decode() if form == "base64" else plain.tolist()


class Reranker(NamedTuple):
    """A cross-encoder. `queue` reads (query, text) and gives scores, from 0 to 1."""

    queue: TextQueue[tuple[str, str]]

    async def answer(self, body: RerankBody) -> dict:
        """The response: documents by their score, best first. Raises Full."""
        rows, tokens = await self.queue.of([(body.query, text) for text in body.texts])
        scores = rows.tolist()
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        if not all(map(math.isfinite, scores)):
            raise RuntimeError("the reranker gave no number")
        return {
            "object": "list",
            "model": body.model,
            "results": [
                {"index": place, "relevance_score": scores[place]}
                | ({"document": {"text": body.texts[place]}} if body.return_documents else {})
                for place in order[: body.top_n]
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
