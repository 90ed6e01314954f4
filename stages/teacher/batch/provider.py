"""The calls of a Batch API. All but the one that costs money are repeated while a failure may pass.

A client with retries of its own would make a batch twice, and pay twice, where only the answer to the first
call was lost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from stages.core.errors import UserError
from stages.core.files import atomic_path
from stages.core.pacing import pause_s
from stages.teacher.batch.lines import PATH, object_in
from stages.teacher.batch.store import Batch
from stages.teacher.endpoint import CONNECT_S, Endpoint, Failure, call, unexpected_body

T = TypeVar("T")
FINAL = {"completed", "failed", "expired", "cancelled"}
MARK = "retort_batch"  # metadata by which a batch is known again
MOST_PAGES = 100  # of a list, at 100 batches each
LOOKS, LOOK_PAUSE_S = 5, 4.0  # a batch just made may be missing from the list for a while
SLACK_S = 3600  # between our clock and the provider's
UNBOUNDED = aiohttp.ClientTimeout(total=None, connect=CONNECT_S)  # of large files


class Refused(UserError):
    """The provider certainly did not make the batch."""


class _Failed(Exception):
    def __init__(self, failure: Failure):
        self.failure = failure


class Provider:
    """The Batch API at `endpoint`, over `session`. `model` is for messages."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, model: str):
        self.endpoint, self.session, self.model = endpoint, session, model
        self.was_answered, self.failed_in_a_row = False, 0

    async def upload(self, path: Path) -> str:
        """The id of the uploaded file. Raises Refused."""

        async def send() -> dict[str, Any]:
            with open(path, "rb") as file:
                form = aiohttp.FormData({"purpose": "batch"})
                form.add_field("file", file, filename=path.name)
                return await self._once("POST", "files", "id", data=form, timeout=UNBOUNDED)

        try:
            return (await self._call(send))["id"]
        except UserError as error:
            raise Refused(str(error)) from None

    async def create(self, batch: Batch) -> str:
        """Make the batch of an uploaded file; its id.

        Where the answer is lost, the batch may have been made: it is looked for before it is made again.
        Raises Refused where it was certainly not made, UserError where that stays unknown.
        """
        body = {
            "input_file_id": batch.file_id,
            "endpoint": PATH,
            "completion_window": self.endpoint.knobs.batch_window,
            "metadata": {MARK: batch.name, "retort_dataset": batch.dataset},
        }
        lost = False
        for attempt in range(self.endpoint.knobs.breaker):
            try:
                return (await self._once("POST", "batches", "id", json=body))["id"]
            except _Failed as error:
                failure = error.failure
            if not failure.retry and not lost:
                raise Refused(failure.message)
            lost = lost or failure.status != 429
            self._check(failure)
            await asyncio.sleep(pause_s(attempt, failure.retry_after))
            if lost and (batch_id := await self.find(batch)):
                return batch_id
        raise UserError(f"{failure.message} ({self.endpoint.knobs.breaker} attempts to make a batch)")

    async def find(self, batch: Batch) -> str | None:
        """The id of a batch of which it is not known whether it was made; None after several attempts."""
        for attempt in range(LOOKS):
            await asyncio.sleep(attempt * LOOK_PAUSE_S)
            if batch_id := await self._listed(batch):
                return batch_id
        return None

    async def _listed(self, batch: Batch) -> str | None:
        """The id of `batch` where the provider lists it. Raises UserError where its list does not end."""
        since = datetime.fromisoformat(batch.intended_at).timestamp() - SLACK_S
        params: dict[str, str] = {"limit": "100"}

        def list_page() -> Awaitable[dict[str, Any]]:
            return self._once("GET", "batches", "data", params=params)

        for _ in range(MOST_PAGES):
            page = await self._call(list_page)
            listed = page["data"] if isinstance(page["data"], list) else []
            others = [other for other in listed if isinstance(other, dict) and other.get("id")]
            for other in others:
                named = isinstance(marks := other.get("metadata"), dict) and marks.get(MARK) == batch.name
                if named or other.get("input_file_id") == batch.file_id:  # some servers keep no metadata
                    return str(other["id"])
            made = (other.get("created_at") for other in others)
            oldest = max((at if isinstance(at, int | float) else inf for at in made), default=0)
            if not page.get("has_more") or oldest < since or not others:
                return None
            params = {**params, "after": str(others[-1]["id"])}
        raise UserError(
            f"the list of batches at {self.endpoint.base_url} does not end ({MOST_PAGES} pages), so whether "
            f"the batch {batch.name} was made is not known; look there, and run again"
        )

    async def retrieve(self, batch: Batch) -> dict[str, Any]:
        """The batch as the provider has it now."""
        return await self._call(lambda: self._once("GET", f"batches/{batch.batch_id}", "status"))

    async def cancel(self, batch: Batch) -> None:
        """Ask the provider to stop the batch; whether it does shows when the batch is next retrieved."""
        try:
            await self._once("POST", f"batches/{batch.batch_id}/cancel", "id")
        except _Failed as error:
            if error.failure.stop:
                raise UserError(error.failure.stop) from None

    async def download(self, file_id: str, path: Path) -> None:
        async def receive() -> None:
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                await self._once("GET", f"files/{file_id}/content", file=file, timeout=UNBOUNDED)

        await self._call(receive)

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        """What the call returns, repeated while a failure may pass. Raises UserError."""
        for attempt in count():
            try:
                return await make()
            except _Failed as error:
                self._check(error.failure)
                await asyncio.sleep(pause_s(attempt, error.failure.retry_after))
        raise AssertionError("count() has no end")

    async def _once(self, method: str, path: str, field: str = "", **request: Any) -> dict[str, Any]:
        """The answer, which is to have `field`. Raises _Failed."""
        reply = await call(self.session, self.endpoint, self.model, method, path, **request)
        if reply.failure:
            raise _Failed(reply.failure)
        answer = object_in(reply.text)
        if field and answer.get(field) is None:
            raise _Failed(unexpected_body("of a Batch API", reply.text, self.endpoint))
        self.was_answered, self.failed_in_a_row = True, 0
        return answer

    def _check(self, failure: Failure) -> None:
        """Raises UserError where it is useless to ask again."""
        if not failure.retry or (failure.stop and not self.was_answered):
            gone = "; if the provider no longer knows the batch: --forget" if failure.status == 404 else ""
            raise UserError(failure.message + gone)
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= self.endpoint.knobs.breaker:
            raise UserError(f"{failure.message} ({self.failed_in_a_row} calls failed in a row)")
        if (failure.retry_after or 0) > self.endpoint.knobs.patience:
            raise UserError(f"{failure.message} (it asks to wait for {failure.retry_after:.0f} s)")
