"""Send outputs to the DVC remote, and say which sources of datasets nobody else will have.

`dvc push` sends what stages made. The files that people brought are shared only where git or DVC tracks them.
"""

import sys
from pathlib import Path

import click

from stages import params
from stages.commands.build import dvc
from stages.commands.new import unshared
from stages.core.messages import say
from stages.core.stage import main


def sources() -> set[Path]:
    """What the datasets that take part are read from. Raises UserError for params of no shape."""
    blocks = params.blocks()
    stages = [stage for stage in params.STAGES.values() if stage.reads_source]
    knobs = [knobs for stage in stages for knobs in blocks[stage.name].values()]
    return {Path(each["path"]) for each in knobs if "path" in each}


@click.command(help=__doc__)
@main
def cli() -> None:
    for problem in filter(None, map(unshared, sorted(sources()))):
        say(f"warning: {problem}")
    sys.exit(dvc("push"))
