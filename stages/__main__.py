"""Retort's command line: every stage of dvc.yaml and every command that `make` calls, by name.

A stage's knobs are imported to show help or to check params; the stage itself only to run it.
"""

import importlib
import sys
from pathlib import Path

import click

from stages import params
from stages.core.stage import Stage, command, docstring, guarded
from stages.kinds.registry import KINDS
from stages.knobs import SPINE

COMMANDS = Path(__file__).parent / "commands"
OTHERS = {"code": "stages.code", "params": "stages.params"}  # of the house, for no dataset


def modules() -> dict[str, str]:
    """Command name -> dotted name of its module, which has a click command `cli`."""
    own = {path.stem: f"stages.commands.{path.stem}" for path in sorted(COMMANDS.glob("[a-z]*.py"))}
    return own | OTHERS


class Retort(click.Group):
    """Finds stages and commands by name, importing no more than the one that is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*params.STAGES, *modules()]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in params.STAGES:
            return command(params.STAGES[name])
        module = modules().get(name)
        return importlib.import_module(module).cli if module else None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(context):
            close = params.nearest(args[0], self.list_commands(context))
            raise click.UsageError(f"no stage or command is called '{args[0]}'{close}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: list[tuple[str, tuple[Stage, ...]]] = [("Stages of the spine", SPINE)]
        groups += [(f"Stages of the kind {kind.name}", kind.stages) for kind in KINDS]
        for title, stages in groups:
            with formatter.section(title):
                formatter.write_dl([(stage.name, first_line(stage.module)) for stage in stages])
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_line(module)) for name, module in modules().items()])


def first_line(module: str) -> str:
    return docstring(module).split("\n\n")[0].replace("\n", " ")


@click.command(cls=Retort, help=__doc__, context_settings={"terminal_width": 120})
def cli() -> None:
    pass


def main() -> None:
    """The console script `retort`, and `python -m stages`."""
    sys.exit(guarded(lambda: cli(prog_name="retort")))


if __name__ == "__main__":
    main()
