"""From requests to responses: take over earlier answers, ask for the others, write what the store knows."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import layout, messages
from stages.core.errors import UserError
from stages.core.files import write_json, write_jsonl
from stages.core.progress import Progress
from stages.core.versions import LOCK, locked_hashes
from stages.teacher.batch.run import ask_in_batches
from stages.teacher.batch.store import Batches, check_free
from stages.teacher.client import ask_all
from stages.teacher.connect import endpoint
from stages.teacher.knobs import EMBEDDED, CollectKnobs
from stages.teacher.money import Budget, check_cap
from stages.teacher.prices import noted_price
from stages.teacher.projection import Projection
from stages.teacher.requests import Requests
from stages.teacher.store.store import Store
from stages.teacher.tally import Tally

Say = Callable[[str], None]


def collect(
    dataset: str, knobs: CollectKnobs, asking: bool = True
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Write responses.jsonl and failures.json of `dataset`, asking for what is missing if `asking`.

    Returns metrics, which follow from the store, and figures of this run. Raises UserError where going on is
    useless, or where less than `min_accept` of the answers are accepted; all that came is stored in any case.
    """
    source, target = layout.requests(dataset), layout.responses(dataset)
    say = partial(messages.say, f"collect {dataset}:")
    requests, policy = Requests(source), knobs.policy()
    price = noted_price(dataset, requests.model)
    with Store(layout.STORE) as store, Budget(store, dataset, price, knobs.max_dollars) as budget:
        tally = Tally()
        if asking:
            check_cap(knobs.max_dollars, price, requests.first, f"params.yaml, collect.{dataset}")
            refill(requests, store, target, say)
            tally = ask(dataset, knobs, requests, store, budget, say)
        projection = Projection(requests, store, policy, price)
        write_jsonl(target, projection.rows())
        spent = store.spent(dataset)[0] if price else None
    report = layout.figures(dataset) / "failures.json"
    write_json(report, {**projection.failures, **tally.failed()})
    say(f"{len(requests):,} rows: {projection.summary()}")
    metrics = projection.metrics()
    if not projection.accepted or projection.accepted < knobs.min_accept * len(requests):
        raise UserError(
            f"{dataset}: {projection.accepted or 'none'} of {len(requests):,} answers accepted, below "
            f"min_accept {knobs.min_accept:g} ({projection.summary()}); see {report}. "
            "What came is stored; a new run asks for errors only"
        )
    return metrics, {**tally.figures(), "dollars_ever": spent}


# Answers of earlier runs


def refill(requests: Requests, store: Store, target: Path, say: Say) -> None:
    """Take over what earlier outputs at `target` hold and the store lacks."""
    if all(store.knows(row["request_key"]) for row in requests):
        return
    for earlier in earlier_outputs(target):
        if count := store.refill(earlier):
            say(f"{count:,} answers taken over from {earlier}")


def earlier_outputs(path: Path) -> Iterator[Path]:
    """`path` itself, then the copy of it in DVC's cache; each where it exists.

    DVC deletes a stage's outputs before it runs the stage, so a pulled file is gone by the time it is wanted.
    But `dvc.lock` still names the deleted file's md5 (DVC rewrites the entry only after the stage succeeds),
    and the cache still holds the content under that md5.
    """
    if path.is_file():
        yield path
    md5 = locked_hashes().get(path.as_posix())
    if md5 is None:
        return
    cached = _cache_directory() / "files" / "md5" / md5[:2] / md5[2:]
    if cached.is_file():
        yield cached
    elif not path.is_file():
        note = f"{LOCK} names answers that are not on this machine; `dvc pull {path}` saves asking again"
        messages.say(f"note: {note}")


def _cache_directory() -> Path:
    """Ask DVC: the directory is configurable, by project, user and machine."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"`dvc cache dir` failed: {done.stderr.strip().splitlines()[-1]}")
    return Path(done.stdout.strip())


# Asking


def ask(
    dataset: str, knobs: CollectKnobs, requests: Requests, store: Store, budget: Budget, say: Say
) -> Tally:
    """Ask for what is missing, in rounds: what one leaves cut or invalid may be asked again by the next."""
    policy = knobs.policy()
    todo = requests.pending(store, policy, given_up=set())
    done = requests.distinct - len(todo)
    tally = Tally(known=done)
    say(f"{done:,} answers stored, {len(todo):,} to ask{requests.estimate(todo, budget.price, knobs.mode)}")
    if not todo:
        return tally
    check_mode(knobs, f"params.yaml, collect.{dataset}")
    with endpoint(knobs) as server:
        keys = (request["request_key"] for request, _ in requests.asks(todo, store, policy))
        check_free(Batches(store).holding(keys), server.source if knobs.mode == "batch" else None)
        while todo:
            asks = requests.asks(todo, store, policy)
            with Progress(done + len(todo), f"collect {dataset}", "request", done) as shown:
                send = ask_all if knobs.mode == "online" else ask_in_batches
                send(asks, server, store, budget, shown, tally)
            todo = requests.pending(store, policy, tally.given_up) if policy.asks_again() else []
    for kind, entry in sorted(tally.failures.items()):
        say(f"{entry['count']:,} failed ({kind}), such as: {entry['examples'][0]['message']}")
    return tally


def check_mode(knobs: CollectKnobs, where: str) -> None:
    """Raises UserError where the teacher has no Batch API that is spoken here."""
    if knobs.mode == "batch" and knobs.base_url == EMBEDDED:
        raise UserError(
            f"{where}: mode: batch needs a base_url with OpenAI's Batch API; the embedded teacher has none"
        )
