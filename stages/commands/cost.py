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
    made: list[tuple[str, list[str]]] = []
    stages: list[str] = []
    chain = [f"{stage.name}@{dataset}" for stage in params.stages_of(dataset, blocks)]
    before = params.before(dataset, blocks)
    for target in dict.fromkeys([*before, *chain[: chain.index(f"{ASKS}@{dataset}") + 1]]):
        stage, name = target.split("@")
        if stage != "collect":
            stages.append(target)
        if stage == ASKS:
            made.append((name, stages))
            stages = []
            if not layout.responses(name).is_file():
                break
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
