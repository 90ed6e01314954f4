"""Finish shards of a generation that another process laid out: what a task of a Slurm array runs.

PLACE is a directory data/.work/generate-..., or its URL (docs/guide/machines.md). Of N parts, part I finishes
the shards I, I + N, I + 2N, ..., one after another. A shard that is finished already costs nothing, and one
that was begun goes on.
"""

import click

from stages.core.errors import UserError
from stages.core.stage import main
from stages.engines.jobs import shared


@click.command(help=__doc__)
@click.argument("place")
@click.option("--part", default=0, show_default=True, help="which of them, from 0")
@click.option("--of", "parts", default=1, show_default=True, help="number of parts")
@main
def cli(place: str, part: int, parts: int) -> None:
    if not 0 <= part < parts:
        raise UserError(f"--part {part} --of {parts}: parts are numbered from 0, so the last is {parts - 1}")
    for item in shared.read_job(place).items[part::parts]:
        shared.complete(place, item)
