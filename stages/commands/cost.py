"""Show what a teacher may cost before anything is asked.

Brings the requests of a dataset up to date and shows their estimate. A dataset that is built upon another
which asks, such as one of skills upon its briefs, has an estimate for each; the second needs the answers to
the first, and is left out until these are collected.
"""

import subprocess
import sys

import click

from stages import params
from stages.commands.build import in_use, repro
from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import main
from stages.kinds.kind import Blocks
from stages.kinds.registry import nearest

ASKS = "prompt"


def steps(dataset: str, blocks: Blocks) -> list[tuple[str, list[str]]]:
    """(the dataset that asks, the stages that make its requests); none of them asks a teacher.

    Raises UserError for a dataset that asks nothing.
    """
    if dataset not in blocks[ASKS]:
        raise UserError(f"params, {ASKS}: no block for '{dataset}'{nearest(dataset, blocks[ASKS])}")
    of = params.made(blocks)
    shared = tuple(f"{stage}@" for stage in params.BASE_STAGES)
    made: list[tuple[str, list[str]]] = []
    listed: set[str] = set()
    before = [target for target in params.before(dataset, blocks, of) if target.startswith(f"{ASKS}@")]
    for asking in [*before, f"{ASKS}@{dataset}"]:
        needed = [target for target in of.upstream([asking]) if not target.startswith(shared)]
        collected = [target.partition("@")[2] for target in needed if target.startswith("collect@")]
        if all(layout.responses(other).is_file() for other in collected):
            asked = (target for target in needed if not target.startswith("collect@"))
            made.append((asking.partition("@")[2], [target for target in asked if target not in listed]))
            listed.update(needed)
    return made


@click.command(help=__doc__)
@click.argument("dataset")
@main
def cli(dataset: str) -> None:
    asked = steps(dataset, params.check())
    with in_use(layout.CODE_STAGE):
        for _, stages in asked:
            repro("-q", "-s", *stages)  # without what is before: that might ask
    files = [str(layout.figures(name) / f"{ASKS}.json") for name, _ in asked]
    subprocess.run([sys.executable, "-m", "dvc", "metrics", "show", "--md", *files])
    if asked[-1][0] != dataset:
        print(f"then {dataset} asks about what came of it: once {asked[0][0]} is collected")
