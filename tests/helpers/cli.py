"""A stage as its user runs it: through the command line, in this process."""

from collections.abc import Sequence
from types import ModuleType

from click.testing import CliRunner, Result

from stages.core.stage import command
from stages.params import STAGES


def invoke(stage: str | ModuleType, arguments: Sequence[str]) -> Result:
    """Run the command of a stage, given by name or by module."""
    name = stage if isinstance(stage, str) else stage.__name__.rpartition(".")[2]
    return CliRunner().invoke(command(STAGES[name]), list(arguments))
