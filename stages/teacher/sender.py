"""Send one request: its answer is saved before it is read, and settled with budget and pacing."""

import asyncio
import time

from stages.core.pacing import Pacer
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


class Sender:
    """`session` is aiohttp's; a request must have been admitted (`admit`) before it is sent."""

    def __init__(self, session, endpoint: Endpoint, store: Store, budget: Budget, pacer: Pacer, tally: Tally):
        self.session, self.endpoint, self.store = session, endpoint, store
        self.budget, self.pacer, self.tally = budget, pacer, tally
        self.unsaved: list[tuple[Attempt, dict]] = []
        self.writing = asyncio.Lock()

    def wait_s(self, request: dict) -> float:
        """Seconds until pacing lets the request go; infinite: ask again when one in flight is over."""
        return self.pacer.wait_s(token_cost(request))

    def admit(self, request: dict) -> bool:
        """Take the request's place in pace and budget; False where the cap has no room for it now."""
        if not self.budget.reserve(self.worst(request)):
            return False
        self.pacer.sent(token_cost(request))
        return True

    def worst(self, request: dict) -> float:
        return self.budget.price.worst(request) if self.budget.price else 0.0

    async def send(self, request: dict) -> list[str] | Failure:
        """The outcomes of the answer, or the failure. Either is stored, durably, before it is read."""
        import aiohttp

        end, model, began = self.endpoint, request["model"], time.monotonic()
        raw, failure, status, headers, answers = None, None, None, {}, None
        self.tally.attempts += 1
        try:
            try:
                url, body = completions_url(end, model), body_of(request)
                async with self.session.post(url, json=body, allow_redirects=False) as reply:
                    text = (await reply.read()).decode("utf-8", errors="backslashreplace")
                status, headers = reply.status, reply.headers
                if status == 200 or is_filtered(text):
                    raw = text
                else:
                    failure = judge_reply(status, text, headers, end, model, began)
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = judge_connection(error, end, began)
            self.tally.refused += failure is not None and failure.refused
            kind = failure and failure.kind
            await self._save(self._record(request, began, raw, status, kind, headers), request)
            answers = None if raw is None else read_answers(raw, request)
        except asyncio.CancelledError:
            if raw is None and failure is None:
                record = self._record(request, began, None, None, "cancelled", headers)
                self.unsaved.append((record, request))
            raise
        finally:
            self._over(request, answers, status, headers)
        if failure is None and answers is None:
            failure = not_a_completion(raw, end, began)
        return failure or [answer.outcome for answer in answers]

    def _record(self, request: dict, began: float, raw, status, error, headers) -> Attempt:
        price = self.budget.price
        return Attempt(
            request["request_key"],
            self.endpoint.base_url,
            round(time.monotonic() - began, 3),
            status,
            error,
            raw,
            self.budget.dataset,
            request_id=sound(headers.get("x-request-id") or headers.get("apim-request-id") or "") or None,
            price=price and price.record,
        )

    def _over(self, request: dict, answers: list[Answer] | None, status: int | None, headers) -> None:
        """Settle the attempt with budget and pacing. What may have been billed unseen counts in full."""
        self.pacer.over(token_cost(request), headers)
        price, worst = self.budget.price, self.worst(request)
        if price is None:
            return
        known = price.dollars(answers[0].usage) if answers else None
        if known is None:
            known = 0.0 if status not in (None, 200) else worst
        self.budget.settle(worst, known)
        self.tally.dollars += known

    async def _save(self, attempt: Attempt, request: dict) -> None:
        """Durable on return. What arrives during one commit shares the next: fsync does not set the pace."""
        self.unsaved.append((attempt, request))
        async with self.writing:
            batch, self.unsaved = self.unsaved, []
            if batch:
                writing = asyncio.ensure_future(asyncio.to_thread(self._append, batch))
                try:
                    await asyncio.shield(writing)
                except BaseException:
                    await asyncio.wait([writing])  # cancelled, the thread goes on: the lock stays its own
                    if writing.exception():  # `flush` may have more luck: these answers are paid for
                        self.unsaved = batch + self.unsaved
                    raise

    def flush(self) -> None:
        batch, self.unsaved = self.unsaved, []
        if batch:
            self._append(batch)

    def _append(self, batch: list[tuple[Attempt, dict]]) -> None:
        self.store.append((attempt for attempt, _ in batch), (request for _, request in batch))


def token_cost(request: dict) -> float:
    """What a request counts against tokens per minute: its input, about, and the most it may write."""
    return rough_tokens(request) + choices_of(request) * (limit_of(request) or 0)
