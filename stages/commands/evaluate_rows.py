"""Score the students of a dataset of skills on the rows of any file: `{user, answer}` or `{input, output}`.

Models and decoding are as in the block evaluate_calls of params.yaml. Writes one JSON file: measures, figures
by skill and confusions of each system, and what each answered to each row. Rows whose own call breaks the
schema are counted and left out.
The embedded teacher is asked, too; another one only on `--teacher`, under the dataset's `max_dollars`, and
what it answers is not kept. docs/kinds/skills/calls.md defines the measures.
"""

import os
from functools import partial
from pathlib import Path

import click

from stages import params
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.core.hashing import sha256_text
from stages.core.messages import printable
from stages.core.prompts import messages
from stages.core.stage import main
from stages.teacher.connect import EMBEDDED

SYSTEMS = ("base", "student", "student_grammar")


def ask_teacher(dataset: str, blocks: dict, documents: list[dict]) -> list[str]:
    """The teacher's call for each document, "" where it gave none; asked once, as the dataset's prompt asks.

    Raises UserError where the dataset asks no teacher.
    """
    from stages.kinds.skills.evaluate_calls import label
    from stages.kinds.skills.parts.scored_rows import ask_once
    from stages.prompt import requests_for, template_of

    prompting = params.knobs_of(dataset, "prompt", blocks).model_copy(update={"samples": 1, "n": 1})
    knobs = params.knobs_of(dataset, "collect", blocks).model_copy(update={"mode": "online"})
    template = template_of(prompting)
    requests = (
        {**row, "prompt_hash": sha256_text(template.source)}
        for document in documents
        for row in requests_for(document["id"], messages(template, document), prompting)
    )
    calls = {row["id"]: label(row) for row in ask_once(dataset, requests, prompting.model, knobs)}
    return [calls[document["id"]] for document in documents]


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
@click.option("--systems", default=",".join(SYSTEMS), show_default=True, help="which, with commas between")
@click.option(
    "--teacher/--no-teacher", default=None, help="ask the teacher [default: if it is the embedded one]"
)
@main
def cli(dataset: str, rows: Path, out: Path, systems: str, teacher: bool | None) -> None:
    names = systems.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {', '.join(SYSTEMS)}")
    check_target(out)
    from stages.kinds.skills.parts import scored_rows

    blocks = params.blocks()
    knobs = params.knobs_of(dataset, "evaluate_calls", blocks)
    if teacher is None:  # the embedded one costs nothing
        teacher = blocks.get("collect", {}).get(dataset, {}).get("base_url", EMBEDDED) == EMBEDDED
    ask = partial(ask_teacher, dataset, blocks) if teacher else None
    scores = scored_rows.evaluate(dataset, rows, knobs, names, ask)
    write_json(out, scores)
    print(printable(scored_rows.table(scores)))
