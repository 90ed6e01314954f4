"""Get the teacher's answer to every request, paying for none twice.

Reads `data/<dataset>/requests.jsonl`; writes `data/<dataset>/responses.jsonl`, sorted by id: outcome, text,
usage and provenance of each. Answers are kept for ever in `data/teacher/store.sqlite`, outside DVC; the
output is a projection of that store, so it has the same bytes whatever the concurrency, after a `kill -9`,
and with no network and no key. Where the store is new but answers were pulled, they are taken over first.
`reports/<dataset>/figures/failures.json` tells what was not accepted, by class, with examples.

With --reparse nothing is asked: the outputs are made again from the store. --cancel stops batches that go on
(`mode: batch`) and keeps what they had done; --forget gives up those that their provider no longer knows, and
counts them as spent. All three are for DATASET, else for every dataset in params.yaml.
"""

from collections.abc import Iterator

from stages import params
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.layout import PARAMS
from stages.core.messages import say
from stages.core.stage import valid
from stages.teacher.batch.run import cancel_batches
from stages.teacher.batch.store import Batches, forget_batches
from stages.teacher.collecting import collect
from stages.teacher.connect import endpoint
from stages.teacher.knobs import CollectKnobs
from stages.teacher.store.store import Store


def reparse(dataset: str | None, given: dict) -> None:
    """Make the outputs again from the store, for one dataset or all."""
    troubles = []
    for name, knobs in chosen(dataset, given):
        if dataset is not None or layout.requests(name).is_file():
            try:
                metrics, _ = collect(name, knobs, asking=False)
                write_json(layout.figures(name) / "collect.json", metrics)
            except UserError as error:  # the other datasets come first
                troubles.append(str(error))
    if troubles:
        raise UserError("; ".join(troubles))


def cancel(dataset: str | None, given: dict) -> None:
    """Stop the open batches of one dataset or all, and store what they had done."""
    with Store(layout.STORE) as store:
        for name, knobs in chosen(dataset, given):
            if not any(batch.dataset == name for batch in Batches(store).open()):
                continue
            with endpoint(knobs) as end:
                count = cancel_batches(name, end, store)
            say(f"collect {name}: stopped batches: {count}; what they had done is stored")
            left = {batch.source for batch in Batches(store).open() if batch.dataset == name}
            for source in sorted(left):
                say(f"collect {name}: batches go on at {source}; to stop them, set base_url")


def forget(dataset: str | None, given: dict) -> None:
    """Give up the open batches of one dataset or all without asking their provider."""
    with Store(layout.STORE) as store:
        for name, _ in chosen(dataset, given):
            if count := forget_batches(name, store):
                say(f"collect {name}: forgotten batches: {count}; they count as spent")


def chosen(dataset: str | None, given: dict) -> Iterator[tuple[str, CollectKnobs]]:
    """The dataset, or all of them, with the knobs of params.yaml, changed by those `given`."""
    blocks = blocks_in_params()
    if dataset is not None and dataset not in blocks and not layout.requests(dataset).is_file():
        raise UserError(f"{PARAMS}, collect: there is no dataset '{dataset}'")
    for name in blocks if dataset is None else [dataset]:
        yield name, valid(CollectKnobs, {**blocks.get(name, {}), **given}, f"{PARAMS}, collect.{name}")


def blocks_in_params() -> dict[str, dict]:
    return params.blocks()["collect"] if PARAMS.is_file() else {}


def run(dataset: str, knobs: CollectKnobs) -> tuple[dict, dict]:
    cap = blocks_in_params().get(dataset, {}).get("max_dollars", 0)
    if cap and not knobs.max_dollars:  # by hand, what is not given is not read from there
        raise UserError(
            f"{PARAMS} caps {dataset} at ${cap:g}: run `dvc repro collect@{dataset}`, or give --max_dollars"
        )
    return collect(dataset, knobs)
