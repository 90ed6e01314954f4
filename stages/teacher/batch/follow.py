"""What to do about an open batch: learn whether it exists, fetch its results, stop it."""

import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stages.core.errors import UserError
from stages.core.records import KeyedRequest
from stages.teacher.batch.lines import Result, judge_result, read_results
from stages.teacher.batch.provider import FINAL, Provider
from stages.teacher.batch.store import Batch, Batches
from stages.teacher.endpoint import Endpoint, Failure, not_a_completion, open_client, short
from stages.teacher.outcomes import read_answers
from stages.teacher.store.store import Store

if TYPE_CHECKING:
    from openai.types import Batch as ProviderBatch

FORGOTTEN = "forgotten"


@dataclass
class Collected:
    """What a batch brought, by request key."""

    dollars: float
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def read(self, result: Result, request: KeyedRequest, model: str, endpoint: Endpoint) -> None:
        """Add the outcomes or the failure of one result."""
        if result.raw is None:
            self.failures[result.key] = judge_result(result, endpoint, model)
        elif (answers := read_answers(result.raw, request)) is None:
            self.failures[result.key] = not_a_completion(result.raw, endpoint)
        else:
            self.outcomes[result.key] = [answer.outcome for answer in answers]


def source_of(endpoint: Endpoint) -> str:
    """The name by which the store knows a provider: its address."""
    return endpoint.base_url.rstrip("/")


async def settle(provider: Provider, batches: Batches, name: str) -> None:
    """Look for a claimed batch at the provider whose process died before it knew whether it was made.

    Afterwards the batch is submitted or void.
    """
    batch = batches.get(name)
    if batch.state == "uploaded" and (batch_id := await provider.find(batch)):
        batches.note(name, "submitted", batch_id=batch_id)
    elif batch.state in ("intended", "uploaded"):  # none is made before `uploaded` is on the disk
        batches.void(name, "never made")


async def fetch(
    provider: Provider, batches: Batches, batch: Batch, seen: "ProviderBatch"
) -> Collected | None:
    """Store what a claimed batch brought. None where another process did.

    `seen` is the provider's view of the batch, in a final state. Raises UserError where it names no file of
    the answers that it says there are.
    """
    counts, endpoint = seen.request_counts, provider.endpoint
    if counts and counts.completed and not seen.output_file_id:
        raise UserError(
            f"{endpoint.base_url}: {batch.batch_id} has {counts.completed:,} answers, but names no file of "
            "them; nothing was given up: run again later"
        )
    paths = []
    for kind, file_id in (("output", seen.output_file_id), ("error", seen.error_file_id)):
        if file_id:
            paths.append(batches.file(batch.name, kind))
            await provider.download(file_id, paths[-1])
    keys, odd = batches.keys(batch.name), Counter[str]()
    results = read_results(paths, keys, odd)
    dollars = batches.collect(batch, status=seen.status, results=results, odd=odd, endpoint=endpoint)
    if dollars is None:
        return None
    if +odd:
        counts_of = ", ".join(f"{count:,} {kind}" for kind, count in sorted((+odd).items()))
        print(f"batch {batch.batch_id}: results that do not fit its requests: {counts_of}", file=sys.stderr)
    collected = Collected(dollars)
    for result in read_results(paths, keys, Counter()):
        collected.read(result, batches.request(result.key), batch.model, endpoint)
    batches.clean(batch.name)
    return collected


def is_rejected(seen: "ProviderBatch") -> bool:
    """Whether the provider's validation refused the batch, so that nothing of it was done."""
    return seen.status == "failed" and not (seen.output_file_id or seen.error_file_id)


def rejection(seen: "ProviderBatch", endpoint: Endpoint) -> str:
    """Why, in the provider's words."""
    errors = (seen.errors and seen.errors.data) or []
    lines = [f"{e.code}: {e.message}" + (f" (line {e.line})" if e.line else "") for e in errors]
    return short("; ".join(lines) or "no reason given", endpoint)


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")


def check_free(held: list[Batch], source: str | None) -> None:
    """Raises UserError where requests are held by open batches, other than those at `source`."""
    held = [batch for batch in held if batch.source != source]
    if not held:
        return
    first = held[0]
    raise UserError(
        f"nothing was sent: some of these requests are in open batches ({listed([b.name for b in held])}). "
        f"Fetch their answers with mode: batch and base_url: {first.source}, or stop them with "
        f"`python -m stages collect {first.dataset} --cancel`"
    )


def cancel_batches(dataset: str, endpoint: Endpoint, store: Store, poll: float) -> int:
    """Stop the open batches of a dataset at `endpoint`, and store what they had done; returns how many."""
    batches = Batches(store)
    mine = [b for b in batches.open() if (b.dataset, b.source) == (dataset, source_of(endpoint))]
    if mine:
        asyncio.run(_cancel(mine, endpoint, batches, poll))
    return len(mine)


async def _cancel(mine: list[Batch], endpoint: Endpoint, batches: Batches, poll: float) -> None:
    async with open_client(endpoint) as client:
        provider = Provider(endpoint, client, mine[0].model)
        left = [batch.name for batch in mine]
        while left := [name for name in left if not await _is_stopped(provider, batches, name)]:
            await asyncio.sleep(poll * random.uniform(0.8, 1.2))


async def _is_stopped(provider: Provider, batches: Batches, name: str) -> bool:
    """Stop a batch, or store what it had done once it has stopped; False where more is to be waited for."""
    with batches.claim(name) as claimed:
        if not claimed:  # another process submits or collects it now
            return False
        await settle(provider, batches, name)
        if (batch := batches.get(name)).state == "submitted":
            seen = await provider.retrieve(batch)
            if seen.status not in FINAL:
                if seen.status != "cancelling":
                    await provider.cancel(batch)
                return False
            if is_rejected(seen):
                batches.void(name, "rejected", rejection(seen, provider.endpoint))
            else:
                await fetch(provider, batches, batch, seen)
        batches.clean(name)
        return True


def forget_batches(dataset: str, store: Store) -> int:
    """Give up the open batches of a dataset, wherever they are, without a call; returns how many.

    For batches that their provider no longer knows. What was reserved for them stays spent.
    """
    batches = Batches(store)
    mine = [batch for batch in batches.open() if batch.dataset == dataset]
    for batch in mine:
        with batches.claim(batch.name) as claimed:
            if not claimed:
                raise UserError(
                    f"{batch.name}: another process is submitting or collecting it; stop that first"
                )
            batches.void(batch.name, FORGOTTEN, refund=False)
            batches.clean(batch.name)
    return len(mine)
