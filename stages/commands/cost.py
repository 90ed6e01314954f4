"""Show what a teacher may cost before anything is asked.

Run as `python -m stages.cost DATASET` (`make cost DATASET=name`). Brings the requests of a dataset up to
date and shows their estimate. A dataset of skills asks twice: for examples, and for the calls of what was
accepted. The second estimate needs the answers to the first, and is left out until these are collected.
"""

import subprocess
import sys

import click

from stages import params
from stages.commands.build import in_use, repro
from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import main


def steps(dataset: str, blocks: dict[str, dict[str, dict]]) -> list[tuple[str, list[str]]]:
    """(the dataset that asks, the stages that make its requests); none of them asks a teacher.

    Raises UserError for a dataset that asks nothing.
    """
    if dataset not in blocks["prompt"]:
        raise UserError(
            f"params.yaml, prompt: no block for '{dataset}'{params.nearest(dataset, blocks['prompt'])}"
        )
    briefs = blocks["candidates"].get(dataset, {}).get("briefs")
    if briefs is None:
        return [(dataset, requests_of(dataset, blocks))]
    found = [(briefs, [f"skills@{dataset}", *requests_of(briefs, blocks)])]
    if layout.responses(briefs).is_file():
        found.append((dataset, [f"candidates@{dataset}", *requests_of(dataset, blocks)]))
    return found


def requests_of(dataset: str, blocks: dict[str, dict[str, dict]]) -> list[str]:
    return [f"{stage}@{dataset}" for stage in (*params.CORPORA, "prompt") if dataset in blocks[stage]]


@click.command(help=__doc__)
@click.argument("dataset")
@main
def cli(dataset: str) -> None:
    asked = steps(dataset, params.check())
    with in_use("code"):
        for _, stages in asked:
            repro("-q", "-s", *stages)  # without what is before: that might ask
    files = [str(layout.reports(name) / "prompt.json") for name, _ in asked]
    subprocess.run([sys.executable, "-m", "dvc", "metrics", "show", "--md", *files])
    if asked[-1][0] != dataset:
        print(f"then {dataset} asks for the calls of the accepted requests: once {asked[0][0]} is collected")


if __name__ == "__main__":
    cli()
