"""What to do about an open batch: learn whether it exists, fetch its results, stop it."""

import asyncio
import random
import sys
from collections import Counter
from typing import Any

from stages.core.errors import UserError
from stages.teacher.batch.lines import read_results
from stages.teacher.batch.provider import FINAL, Provider
from stages.teacher.batch.store import Batch, Batches, Collected
from stages.teacher.endpoint import Endpoint, open_session, short
from stages.teacher.store.store import Store

FORGOTTEN = "forgotten"


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


async def fetch(provider: Provider, batches: Batches, batch: Batch, seen: dict[str, Any]) -> Collected | None:
    """Store what a claimed batch brought. None where another process did.

    `seen` is the provider's view of the batch, in a final state. Raises UserError where it names no file of
    the answers that it says there are.
    """
    completed = (seen.get("request_counts") or {}).get("completed")
    if completed and not seen.get("output_file_id"):
        raise UserError(
            f"{provider.endpoint.base_url}: {batch.batch_id} has {completed:,} answers, but names no file of "
            "them; nothing was given up: run again later"
        )
    paths = []
    for kind in ("output", "error"):
        if file_id := seen.get(f"{kind}_file_id"):
            paths.append(batches.file(batch.name, kind))
            await provider.download(file_id, paths[-1])
    odd = Counter[str]()
    results = read_results(paths, batches.keys(batch.name), odd)
    collected = batches.collect(
        batch, status=seen["status"], results=results, odd=odd, endpoint=provider.endpoint
    )
    if collected is not None and +odd:
        counts_of = ", ".join(f"{count:,} {kind}" for kind, count in sorted((+odd).items()))
        print(f"batch {batch.batch_id}: results that do not fit its requests: {counts_of}", file=sys.stderr)
    batches.clean(batch.name)
    return collected


def rejection(seen: dict[str, Any], endpoint: Endpoint) -> str | None:
    """Why the provider's validation refused the batch, so that nothing of it was done; None: it did not."""
    if seen["status"] != "failed" or seen.get("output_file_id") or seen.get("error_file_id"):
        return None
    errors = (seen.get("errors") or {}).get("data") or []
    words = [f"{error.get('code')}: {error.get('message')} (line {error.get('line')})" for error in errors]
    return short("; ".join(words).replace(" (line None)", "") or "no reason given", endpoint)


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
    async with open_session(endpoint) as session:
        provider = Provider(endpoint, session, mine[0].model)
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
            if seen["status"] not in FINAL:
                if seen["status"] != "cancelling":
                    await provider.cancel(batch)
                return False
            if reason := rejection(seen, provider.endpoint):
                batches.void(name, "rejected", reason)
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
