"""From requests to responses: take over, ask, project."""

import sys
from functools import partial
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json, write_jsonl
from stages.core.progress import Progress
from stages.teacher.batch.follow import check_free, source_of
from stages.teacher.batch.run import ask_in_batches
from stages.teacher.batch.store import Batches
from stages.teacher.client import ask_all
from stages.teacher.connect import EMBEDDED, endpoint
from stages.teacher.knobs import CollectKnobs
from stages.teacher.money import Budget, check_cap
from stages.teacher.prices import price_of
from stages.teacher.projection import Projection
from stages.teacher.pulled import earlier_outputs
from stages.teacher.requests import Requests
from stages.teacher.store.store import Store
from stages.teacher.tally import Tally


def collect(dataset: str, knobs: CollectKnobs, asking: bool = True) -> tuple[dict, dict]:
    """(metrics, which follow from the store; figures of this run)."""
    source, target = layout.requests(dataset), layout.responses(dataset)
    say = partial(print, f"collect {dataset}:", file=sys.stderr)
    requests, policy = Requests(source), knobs.policy()
    price = price_of(requests.model)
    with Store(layout.STORE) as store, Budget(store, dataset, price, knobs.max_dollars) as budget:
        tally = Tally()
        if asking:
            check_cap(knobs.max_dollars, price, requests.first, f"params.yaml, collect.{dataset}")
            refill(requests, store, target, say)
            tally = ask(dataset, knobs, requests, store, budget, say)
        projection = Projection(requests, store, policy, price)
        write_jsonl(target, projection.rows())
        ledger = store.spent(dataset) if price else None
    report = layout.figures(dataset) / "failures.json"
    write_json(report, {**projection.failures, **tally.failed()})
    say(f"{len(requests):,} rows: {projection.told()}")
    metrics = projection.metrics()
    if not projection.accepted or projection.accepted < knobs.min_accept * len(requests):
        raise UserError(
            f"{dataset}: {projection.accepted or 'none'} of {len(requests):,} answers accepted, below "
            f"min_accept {knobs.min_accept:g} ({projection.told()}); see {report}. "
            "What came is stored; a new run asks for errors only"
        )
    return metrics, {**tally.figures(), "dollars_ever": ledger}


def refill(requests: Requests, store: Store, target: Path, say) -> None:
    """Take over what earlier outputs hold and the store lacks."""
    if all(store.knows(row["request_key"]) for row in requests):
        return
    for earlier in earlier_outputs(target):
        if taken := store.refill(earlier):
            say(f"{taken:,} answers taken over from {earlier}")


def ask(dataset: str, knobs: CollectKnobs, requests: Requests, store: Store, budget: Budget, say) -> Tally:
    """Ask for what is missing, in rounds: what one leaves cut or invalid may be asked again by the next."""
    policy, total, given_up = knobs.policy(), Tally(), set()
    todo = requests.pending(store, policy, given_up)
    done = requests.distinct - len(todo)
    say(f"{done:,} answers stored, {len(todo):,} to ask{requests.estimate(todo, budget.price, knobs.mode)}")
    if not todo:
        return total
    check_mode(knobs, f"params.yaml, collect.{dataset}")
    asker = ask_all if knobs.mode == "online" else partial(ask_in_batches, limits=knobs.limits())
    with endpoint(dataset, knobs) as end:
        keys = (request["request_key"] for request, _ in requests.asks(todo, store, policy))
        check_free(Batches(store).holding(keys), source_of(end) if knobs.mode == "batch" else None)
        while todo:
            label = f"collect {dataset}"
            with Progress(done + len(todo), label, "request", done) as shown:
                asks = requests.asks(todo, store, policy)
                tally = asker(asks, endpoint=end, store=store, budget=budget, shown=shown)
            total.add(tally)
            given_up |= tally.given_up
            todo = requests.pending(store, policy, given_up) if policy.asks_again() else []
    for kind, entry in sorted(total.failures.items()):
        say(f"{entry['count']:,} failed ({kind}), such as: {entry['examples'][0]['message']}")
    return total


def check_mode(knobs: CollectKnobs, where: str) -> None:
    """Raises UserError where the teacher has no Batch API that is spoken here."""
    if knobs.mode == "batch" and (knobs.base_url == EMBEDDED or knobs.api_version):
        raise UserError(
            f"{where}: mode: batch needs a base_url with OpenAI's Batch API. The embedded teacher has none, "
            "Azure has it at https://NAME.openai.azure.com/openai/v1, without api_version. Or: mode: online"
        )
