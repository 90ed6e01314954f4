"""Turn skill files into the other form: text into YAML, or YAML into text.

Run as `python -m stages convert_skills SOURCE FOLDER [--to yaml|text] [--lenient]`. SOURCE is a file or a
folder; each skill becomes a file of its name in FOLDER. No file is overwritten.
"""

import sys
from pathlib import Path

import click

from stages.core.errors import UserError
from stages.core.stage import main

SUFFIXES = {"yaml": ".yaml", "text": ".txt"}


@click.command(help=__doc__)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(sorted(SUFFIXES)), default="yaml", show_default=True)
@click.option("--lenient", is_flag=True, help="Leave out what is wrong, and count it.")
@main
def cli(source: Path, folder: Path, to: str, lenient: bool) -> None:
    from stages.core.files import write_text
    from stages.kinds.skills.parts.files import read_source, written

    read = read_source(source, lenient)
    suffix = SUFFIXES[to]
    files = {folder / f"{skill.name}{suffix}": written(skill, suffix) for skill in read.skills.skills}
    if there := next((file for file in files if file.exists()), None):
        raise UserError(f"{there}: is there already; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: expected a folder, and there is a file; name another one") from None
    for file, text in files.items():
        write_text(file, text)
        print(file)
    for what, count in sorted(read.problems.items()):
        print(f"{count:,} lines or examples {what}", file=sys.stderr)


if __name__ == "__main__":
    cli()
