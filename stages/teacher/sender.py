"""Send one request: its answer is saved before it is read, and settled with budget and pacing."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.core.pacing import Pacer
from stages.core.records import Request
from stages.teacher.endpoint import (
    Endpoint,
    Failure,
    completions_url,
    judge_connection,
    judge_reply,
    not_a_completion,
)
from stages.teacher.identity import body_of, choices_of, limit_of
from stages.teacher.money import Budget
from stages.teacher.outcomes import Answer, is_filtered, read_answers, sound
from stages.teacher.prices import rough_tokens
from stages.teacher.store.store import Attempt, Store
from stages.teacher.tally import Tally

if TYPE_CHECKING:
    import aiohttp


class Sender:
    """Sends requests through `session`; each must have been admitted (`admit`) before."""

    def __init__(
        self,
        session: "aiohttp.ClientSession",
        *,
        endpoint: Endpoint,
        store: Store,
        budget: Budget,
        pacer: Pacer,
        tally: Tally,
    ):
        self.session, self.endpoint, self.store = session, endpoint, store
        self.budget, self.pacer, self.tally = budget, pacer, tally
        self.unsaved: list[tuple[Attempt, Request]] = []
        self.writing = asyncio.Lock()

    def wait_s(self, request: Request) -> float:
        """Seconds until pacing lets the request go; infinite: ask again when one in flight is over."""
        return self.pacer.wait_s(token_cost(request))

    def admit(self, request: Request) -> bool:
        """Take the request's place in pace and budget; False where the cap has no room for it now."""
        if not self.budget.reserve(self.worst(request)):
            return False
        self.pacer.sent(token_cost(request))
        return True

    def worst(self, request: Request) -> float:
        """The most that the request can cost, in dollars; 0 where the price is unknown."""
        return self.budget.price.worst(request) if self.budget.price else 0.0

    async def send(self, request: Request) -> list[str] | Failure:
        """The outcomes of the answer, or the failure. The attempt is stored, durably, before it is read."""
        import aiohttp

        endpoint, model, began = self.endpoint, request["model"], time.monotonic()
        raw: str | None = None
        failure: Failure | None = None
        status: int | None = None
        answers: list[Answer] | None = None
        headers: Mapping[str, str] = {}
        self.tally.attempts += 1
        try:
            try:
                url, body = completions_url(endpoint, model), body_of(request)
                async with self.session.post(url, json=body, allow_redirects=False) as reply:
                    text = (await reply.read()).decode("utf-8", errors="backslashreplace")
                status, headers = reply.status, reply.headers
                if status == 200 or is_filtered(text):
                    raw = text
                else:
                    failure = judge_reply(
                        endpoint, model, status=status, text=text, headers=headers, sent_at=began
                    )
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = judge_connection(error, endpoint, began)
            self.tally.refused += failure is not None and failure.refused
            error_class = failure.kind if failure else None
            attempt = self._attempt(
                request, began=began, raw=raw, status=status, error=error_class, headers=headers
            )
            await self._save(attempt, request)
            answers = None if raw is None else read_answers(raw, request)
        except asyncio.CancelledError:
            if raw is None and failure is None:
                attempt = self._attempt(
                    request, began=began, raw=None, status=None, error="cancelled", headers=headers
                )
                self.unsaved.append((attempt, request))
            raise
        finally:
            self._over(request, answers, status, headers)
        if answers is not None:
            return [answer.outcome for answer in answers]
        return failure or not_a_completion(raw or "", endpoint, began)

    def _attempt(
        self,
        request: Request,
        *,
        began: float,
        raw: str | None,
        status: int | None,
        error: str | None,
        headers: Mapping[str, str],
    ) -> Attempt:
        return Attempt(
            request["request_key"],
            self.endpoint.base_url,
            seconds=round(time.monotonic() - began, 3),
            status=status,
            error=error,
            raw=raw,
            dataset=self.budget.dataset,
            request_id=sound(headers.get("x-request-id") or headers.get("apim-request-id") or "") or None,
            price=self.budget.price.record if self.budget.price else None,
        )

    def _over(
        self,
        request: Request,
        answers: list[Answer] | None,
        status: int | None,
        headers: Mapping[str, str],
    ) -> None:
        """Settle the attempt with budget and pacing. What may have been billed unseen counts in full."""
        self.pacer.over(token_cost(request), headers)
        price, worst = self.budget.price, self.worst(request)
        if price is None:
            return
        if answers and answers[0].usage is not None:
            cost = price.dollars(answers[0].usage)
        else:
            cost = 0.0 if status not in (None, 200) else worst
        self.budget.settle(worst, cost)
        self.tally.dollars += cost

    async def _save(self, attempt: Attempt, request: Request) -> None:
        """Durable on return. What arrives during one commit shares the next: fsync does not set the pace."""
        self.unsaved.append((attempt, request))
        async with self.writing:
            batch, self.unsaved = self.unsaved, []
            if batch:
                writing = asyncio.ensure_future(asyncio.to_thread(self._append, batch))
                try:
                    await asyncio.shield(writing)
                except BaseException:
                    # Cancelled, the thread goes on writing: the lock must be held until it is through.
                    await asyncio.wait([writing])
                    if writing.exception():  # `flush` may have more luck: these answers are paid for
                        self.unsaved = batch + self.unsaved
                    raise

    def flush(self) -> None:
        """Save what no `_save` could, at the end of a run."""
        batch, self.unsaved = self.unsaved, []
        if batch:
            self._append(batch)

    def _append(self, batch: list[tuple[Attempt, Request]]) -> None:
        self.store.append((attempt for attempt, _ in batch), (request for _, request in batch))


def token_cost(request: Request) -> float:
    """What a request counts against tokens per minute: its input, about, and the most it may write."""
    return rough_tokens(request) + choices_of(request) * (limit_of(request) or 0)
