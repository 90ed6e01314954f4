"""Score the models of a dataset on the rows of any file, as its kind scores them.

Of a dataset of skills rows are `{user, answer}` or `{input, output}`; of one of the kind retriever
`{query, pos}` or `{query, pos_index}`; of one of rag LocalRQA's or `{question, answer, document_id}`; of
papers `{question, answer}`, and answers to score beside the models' in `model_response`.
Models and settings are those of the dataset's params. Writes one JSON file with the measures of each system,
and prints the first of them.
The embedded teacher is asked, too, where the kind has one; another one only on `--teacher`, under the
dataset's `max_dollars`, and what it answers is not kept.
"""

import importlib
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from stages import params
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json, write_jsonl
from stages.core.hashing import sha256_text
from stages.core.messages import printable, say
from stages.core.prompts import messages
from stages.core.stage import main
from stages.kinds import registry
from stages.kinds.kind import Blocks
from stages.teacher.knobs import EMBEDDED


def ask_teacher(dataset: str, blocks: dict, documents: list[dict]) -> list[dict]:
    """The teacher's answer to each document, as a row of responses.jsonl; asked once, as the dataset asks.

    The store is thrown away, so nothing of it is kept, and nothing is known beforehand. Raises UserError
    where the dataset asks no teacher, or its `max_dollars` has no price to go by.
    """
    from stages.prompt import requests_for, template_of
    from stages.teacher.collecting import ask
    from stages.teacher.money import Budget, check_cap
    from stages.teacher.prices import price_of
    from stages.teacher.projection import Projection
    from stages.teacher.requests import Requests
    from stages.teacher.store.store import Store

    prompting = params.knobs_of(dataset, "prompt", blocks).model_copy(update={"samples": 1, "n": 1})
    knobs = params.knobs_of(dataset, "collect", blocks).model_copy(update={"mode": "online"})
    template = template_of(prompting)
    requests = (
        {**row, "prompt_hash": sha256_text(template.source)}
        for document in documents
        for row in requests_for(document["id"], messages(template, document), prompting)
    )
    with TemporaryDirectory() as folder:
        source = Path(folder) / "requests.jsonl"
        write_jsonl(source, requests)
        asked, price = Requests(source), price_of(prompting.model)
        check_cap(knobs.max_dollars, price, asked.first, f"params.yaml, collect.{dataset}")
        to_user = partial(say, f"evaluate_rows {dataset}:")
        with (
            Store(Path(folder) / "store.sqlite") as store,
            Budget(store, dataset, price, knobs.max_dollars) as budget,
        ):
            ask(dataset, knobs, asked, store, budget, to_user)
            answers = {row["id"]: row for row in Projection(asked, store, knobs.policy(), price).rows()}
    return [answers[document["id"]] for document in documents]


def module_of(dataset: str, blocks: Blocks) -> str:
    """The module that scores rows for the dataset's kind. Raises UserError where none does."""
    kinds = registry.kinds_of({stage for stage, datasets in blocks.items() if dataset in datasets})
    modules = [kind.rows for kind in kinds if kind.rows]
    if not modules:
        known = [name for name in params.datasets(blocks) if name != dataset]
        raise UserError(
            f"{layout.PARAMS}: '{dataset}' is no dataset whose kind scores rows of a file"
            f"{registry.nearest(dataset, known)}"
        )
    return modules[0]


def check_target(target: Path) -> None:
    """Raises UserError where no file can be written: known before anything runs."""
    if target.is_dir():
        raise UserError(f"--out: {target} is a folder; name a file to write, such as {target}/scores.json")
    folder = next(parent for parent in target.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"--out {target}: {folder} is no folder that can be written to; name another file")


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--rows", required=True, type=click.Path(path_type=Path), help="what to score")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the JSON file to write")
@click.option("--systems", help="which, with commas between  [default: all but the teacher]")
@click.option(
    "--teacher/--no-teacher", default=None, help="ask the teacher [default: if it is the embedded one]"
)
@main
def cli(dataset: str, rows: Path, out: Path, systems: str | None, teacher: bool | None) -> None:
    check_target(out)
    blocks = params.blocks()
    module = importlib.import_module(module_of(dataset, blocks))
    if teacher is None:  # the embedded one costs nothing
        teacher = blocks.get("collect", {}).get(dataset, {}).get("base_url", EMBEDDED) == EMBEDDED
    ask = partial(ask_teacher, dataset, blocks) if teacher else None
    scores = module.evaluate_rows(dataset, rows, blocks, None if systems is None else systems.split(","), ask)
    write_json(out, scores)
    print(printable(module.table(scores)))
