"""The calls of a Batch API. All but the one that costs money are repeated while a failure may pass.

An openai client with retries of its own would make a batch twice, and pay twice, where only the answer to the
first call was lost.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

from stages.core.errors import UserError
from stages.core.files import atomic_path
from stages.core.pacing import pause_s
from stages.teacher.batch.lines import PATH
from stages.teacher.batch.store import Batch
from stages.teacher.endpoint import Endpoint, Failure, judge

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch as ProviderBatch
    from openai.types import FileObject

T = TypeVar("T")
FINAL = {"completed", "failed", "expired", "cancelled"}
MARK = "retort_batch"  # metadata by which a batch is known again
LOOKS, LOOK_PAUSE_S = 5, 4.0  # a batch just made may be missing from the list for a while
SLACK_S = 3600  # between our clock and the provider's


class Refused(UserError):
    """The provider certainly did not make the batch."""


class _Failed(Exception):
    def __init__(self, failure: Failure):
        self.failure = failure


class Provider:
    """The Batch API at `endpoint`, through the openai client `client`. `model` is for messages."""

    def __init__(self, endpoint: Endpoint, client: "AsyncOpenAI", model: str):
        self.endpoint, self.client, self.model = endpoint, client, model
        self.was_answered, self.failed_in_a_row = False, 0

    async def upload(self, name: str, file: BinaryIO) -> str:
        """The id of the uploaded file. Raises Refused."""

        def send() -> Awaitable["FileObject"]:
            file.seek(0)
            return self.client.files.create(file=(f"{name}.jsonl", file), purpose="batch")

        try:
            return (await self._call(send, "id", bounded=False)).id
        except UserError as error:
            raise Refused(str(error)) from None

    async def create(self, batch: Batch, window: str) -> str:
        """Make the batch of an uploaded file; its id.

        Where the answer is lost, the batch may have been made: it is looked for before it is made again.
        Raises Refused where it was certainly not made, UserError where that stays unknown.
        """
        lost = False
        for attempt in range(self.endpoint.breaker):
            try:
                created = await self._once(
                    lambda: self.client.batches.create(
                        input_file_id=_known(batch.file_id),
                        endpoint=PATH,
                        completion_window=cast(Literal["24h"], window),
                        metadata={MARK: batch.name, "retort_dataset": batch.dataset},
                    ),
                    "id",
                )
                return created.id
            except _Failed as error:
                failure = error.failure
            if not failure.retry and not lost:
                raise Refused(failure.message)
            lost = lost or failure.status != 429
            self._check(failure)
            await asyncio.sleep(pause_s(attempt, failure.retry_after))
            if lost and (batch_id := await self.find(batch)):
                return batch_id
        raise UserError(f"{failure.message} ({self.endpoint.breaker} attempts to make a batch)")

    async def find(self, batch: Batch) -> str | None:
        """The id of a batch of which it is not known whether it was made; None after several attempts."""
        for attempt in range(LOOKS):
            await asyncio.sleep(attempt * LOOK_PAUSE_S)
            if batch_id := await self._listed(batch):
                return batch_id
        return None

    async def _listed(self, batch: Batch) -> str | None:
        since = datetime.fromisoformat(batch.intended_at).timestamp() - SLACK_S
        page: dict[str, Any] = {"has_more": True}
        cursor: dict[str, str] = {}
        while page.get("has_more"):
            page = await self._call(partial(self._page, {"limit": 100, **cursor}), "data")
            for other in page["data"]:
                named = (other.get("metadata") or {}).get(MARK) == batch.name
                if named or other.get("input_file_id") == batch.file_id:  # some servers keep no metadata
                    return other["id"]
            if not page["data"] or max(other.get("created_at") or inf for other in page["data"]) < since:
                break
            cursor = {"after": page["data"][-1]["id"]}
        return None

    def _page(self, params: dict[str, Any]) -> Awaitable[Any]:
        """A page of the list of batches. The client's typed call breaks on an answer that is not JSON."""
        return self.client.get("/batches", cast_to=object, options={"params": params})

    async def retrieve(self, batch: Batch) -> "ProviderBatch":
        """The batch as the provider has it now."""
        return await self._call(lambda: self.client.batches.retrieve(_known(batch.batch_id)), "status")

    async def cancel(self, batch: Batch) -> None:
        """Ask the provider to stop the batch; whether it does shows when the batch is next retrieved."""
        try:
            await self._once(lambda: self.client.batches.cancel(_known(batch.batch_id)), "id")
        except _Failed as error:
            if error.failure.stop:
                raise UserError(error.failure.stop) from None

    async def download(self, file_id: str, path: Path) -> None:
        async def receive() -> None:
            with atomic_path(path) as temporary:
                async with self.client.files.with_streaming_response.content(file_id) as response:
                    await response.stream_to_file(temporary)

        await self._call(receive, bounded=False)

    async def _call(self, make: Callable[[], Awaitable[T]], expected: str = "", bounded: bool = True) -> T:
        """What the call returns, repeated while a failure may pass. Raises UserError."""
        for attempt in count():
            try:
                return await self._once(make, expected, bounded)
            except _Failed as error:
                self._check(error.failure)
                await asyncio.sleep(pause_s(attempt, error.failure.retry_after))
        raise AssertionError("count() has no end")

    async def _once(self, make: Callable[[], Awaitable[T]], expected: str, bounded: bool = True) -> T:
        """What the call returns. Raises _Failed.

        `expected` is a field that a proper answer has; the call of a large file is not `bounded` in time.
        """
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self.endpoint.timeout if bounded else None):
                answer = await make()
        except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
            raise _Failed(judge(error, self.endpoint, self.model)) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _Failed(self._strange(str(error))) from error
        value = answer.get(expected) if isinstance(answer, dict) else getattr(answer, expected, None)
        if expected and value is None:
            raise _Failed(self._strange(str(answer)))
        self.was_answered, self.failed_in_a_row = True, 0
        return answer

    def _strange(self, text: str) -> Failure:
        url = self.endpoint.base_url
        message = (
            f"{url} answered 200 with something that is not of a Batch API: {' '.join(text.split())[:200]}"
        )
        return Failure("not of a Batch API", message, 200, retry=True)

    def _check(self, failure: Failure) -> None:
        """Raises UserError where it is useless to ask again."""
        if not failure.retry or failure.stop and not self.was_answered:
            gone = "; if the provider no longer knows the batch: --forget" if failure.status == 404 else ""
            raise UserError(failure.message + gone)
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= self.endpoint.breaker:
            raise UserError(f"{failure.message} ({self.failed_in_a_row} calls failed in a row)")
        if (failure.retry_after or 0) > self.endpoint.patience:
            raise UserError(f"{failure.message} (it asks to wait for {failure.retry_after:.0f} s)")


def _known(name: str | None) -> str:
    """An id of the provider's that a batch has in its present state."""
    assert name is not None
    return name
