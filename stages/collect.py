"""Get the teacher's answer to every request, paying for none twice.

Reads `data/<dataset>/requests.jsonl`; writes `data/<dataset>/responses.jsonl`, sorted by id: outcome, text,
usage and provenance of each. Answers are kept for ever in `data/teacher/store.sqlite`, outside DVC; the
output is a projection of that store, so it has the same bytes whatever the concurrency, after a `kill -9`,
and with no network and no key. Where the store is new but answers were pulled, they are taken over first.
`reports/<dataset>/failures.json` tells what was not accepted, by class, with examples.

With --reparse nothing is asked: the outputs are made again from the store. --cancel stops batches that go on
(`mode: batch`) and keeps what they had done; --forget gives up those that their provider no longer knows, and
counts them as spent. All three are for DATASET, else for every dataset in params.yaml.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import click
from pydantic import Field, model_validator

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError
from stages.support.files import write_json, write_jsonl
from stages.support.progress import Progress
from stages.teacher.batch import ask_in_batches
from stages.teacher.batch_follow import cancel_batches, check_free, forget_batches, source_of
from stages.teacher.batch_queue import Limits
from stages.teacher.batch_store import Batches
from stages.teacher.client import ask_all
from stages.teacher.connect import EMBEDDED, endpoint
from stages.teacher.money import Budget, check_cap
from stages.teacher.prices import price_of
from stages.teacher.projection import Projection
from stages.teacher.pulled import earlier_outputs
from stages.teacher.requests import Requests
from stages.teacher.resolve import Action, Policy
from stages.teacher.store import Store
from stages.teacher.tally import Tally


class CollectKnobs(Knobs):
    base_url: str = Field(EMBEDDED, description="'embedded' (a local stand-in) or an OpenAI-compatible URL")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="environment variable (or line in .env) with the key; '' = no key"
    )
    api_version: str = Field(
        "", description="of Azure OpenAI, whose base_url is https://NAME.openai.azure.com"
    )
    mode: Literal["online", "batch"] = Field(
        "online",
        description="batch: through the provider's Batch API, which takes up to a day and costs less",
    )
    batch_requests: int = Field(50_000, gt=0, description="most requests of one batch")
    batch_bytes: int = Field(190_000_000, gt=0, description="most bytes of one batch's input file")
    batch_window: str = Field("24h", description="time within which the provider is to do a batch")
    poll: float = Field(30.0, gt=0, description="seconds between two looks at a batch")
    concurrency: int = Field(64, gt=0, description="most requests in flight; fewer while the server objects")
    rpm: float = Field(0, ge=0, description="requests a minute; 0 = what the server's headers allow")
    tpm: float = Field(
        0, ge=0, description="tokens a minute, input and most output; 0 = as the headers allow"
    )
    timeout: float = Field(120.0, gt=0, description="seconds for one attempt")
    retries: int = Field(
        6, ge=0, description="further attempts after one that may be repeated; 429s are free"
    )
    breaker: int = Field(20, gt=0, description="failures in a row (5xx, timeouts, resets) that stop the run")
    patience: float = Field(600.0, gt=0, description="seconds of nothing but 429 that stop the run")
    hedge_after: float = Field(
        0, ge=0, description="seconds after which a slow request is sent again; 0 = never"
    )
    max_dollars: float = Field(0, ge=0, description="cap on all that this dataset ever spends; 0 = none")
    min_accept: float = Field(0.8, ge=0, le=1, description="least share of accepted answers")
    on_length: Action = Field("drop", description="answer cut at max_tokens; retry: with retry_max_tokens")
    on_refusal: Action = Field("drop", description="the model declined")
    on_content_filter: Action = Field("drop", description="stopped by the provider")
    on_blank: Action = Field("drop", description="only white space")
    on_invalid: Action = Field("drop", description="not in the form that was asked for")
    outcome_retries: int = Field(1, ge=0, description="times a request is asked again under `retry`")
    retry_max_tokens: int = Field(
        0, ge=0, description="limit for answers that were cut, under on_length: retry"
    )
    repair: bool = Field(False, description="show an invalid answer to the model once, to mend it")

    def limits(self) -> Limits:
        return Limits(self.batch_requests, self.batch_bytes, self.poll, self.batch_window)

    @model_validator(mode="after")
    def _larger_limit(self):
        if self.on_length == "retry" and not self.retry_max_tokens:
            raise ValueError("on_length: retry needs retry_max_tokens, the larger limit")
        return self

    def policy(self) -> Policy:
        names = ("length", "refusal", "content_filter", "blank", "invalid")
        actions = {name: getattr(self, f"on_{name}") for name in names}
        return Policy(actions, self.outcome_retries, self.retry_max_tokens, self.repair)


def reparse(dataset: str | None) -> None:
    """Make the outputs again from the store, for one dataset or all, with the knobs of params.yaml."""
    for name, knobs in chosen(dataset):
        if dataset is not None or layout.requests(name).is_file():
            collect(name, knobs, asking=False)


def cancel(dataset: str | None) -> None:
    """Stop the open batches of one dataset or all, and store what they had done."""
    with Store(layout.STORE) as store:
        for name, knobs in chosen(dataset):
            if not any(batch.dataset == name for batch in Batches(store).open()):
                continue
            with endpoint(name, knobs) as end:
                count = cancel_batches(name, end, store, knobs.poll)
            print(f"collect {name}: stopped batches: {count}; what they had done is stored", file=sys.stderr)
            left = {batch.source for batch in Batches(store).open() if batch.dataset == name}
            for source in sorted(left):
                print(
                    f"collect {name}: batches go on at {source}; to stop them, set base_url", file=sys.stderr
                )


def forget(dataset: str | None) -> None:
    """Give up the open batches of one dataset or all without asking their provider."""
    with Store(layout.STORE) as store:
        for name, _ in chosen(dataset):
            if count := forget_batches(name, store):
                print(f"collect {name}: forgotten batches: {count}; they count as spent", file=sys.stderr)


def chosen(dataset: str | None) -> Iterator[tuple[str, CollectKnobs]]:
    """The dataset, or all of them, with the knobs of params.yaml."""
    from stages.params import load

    blocks = load()["collect"]
    if dataset is not None and dataset not in blocks:
        raise UserError(f"params.yaml, collect: there is no dataset '{dataset}'")
    for name in blocks if dataset is None else [dataset]:
        yield name, CollectKnobs(**blocks[name])


def flag(name: str, told: str) -> click.Option:
    return click.Option([f"--{name}"], is_flag=True, help=told)


@stage(
    "collect",
    CollectKnobs,
    (flag("reparse", "Ask nothing; make the outputs again from the store."), reparse),
    (flag("cancel", "Stop the batches that go on; store what they had done."), cancel),
    (flag("forget", "Give up open batches that the provider no longer knows; they count as spent."), forget),
)
def command(dataset: str, knobs: CollectKnobs) -> tuple[dict, dict]:
    return collect(dataset, knobs)


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
    report = layout.reports(dataset) / "failures.json"
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


if __name__ == "__main__":
    command()
