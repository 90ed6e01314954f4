"""Turn skill files into the other form: text into YAML, or YAML into text.

SOURCE is a file or a folder; each skill becomes a file of its name in FOLDER. No file is overwritten.
"""

from pathlib import Path

import click

from stages.core.messages import say
from stages.core.stage import main
from stages.kinds.skills.parts.files import convert

SUFFIXES = {"yaml": ".yaml", "text": ".txt"}


@click.command(help=__doc__)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(sorted(SUFFIXES)), default="yaml", show_default=True)
@click.option("--lenient", is_flag=True, help="Leave out what is wrong, and count it.")
@main
def cli(source: Path, folder: Path, to: str, lenient: bool) -> None:
    files, problems = convert(source, folder, SUFFIXES[to], lenient)
    for file in files:
        print(file)
    for what, count in sorted(problems.items()):
        say(f"{count:,} lines or examples {what}")
