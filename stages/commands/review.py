"""Review the candidates of a dataset: accept, edit or reject them, on a local web page or in a spreadsheet.

Run as `python -m stages review otto` (`make review DATASET=otto`): serves the page on 127.0.0.1 until it is
interrupted. With --export, candidates and decisions are written to a CSV file; with --import, the decisions
in such a file are taken in, all or none. Decisions go to `prompts/<dataset>/decisions.jsonl`, in git; the
stage corpus_skills reads them.
"""

from pathlib import Path

import click

from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import main


def export(dataset: str, target: Path) -> None:
    from stages.kinds.skills.parts.review.decisions import read_candidates, read_decisions
    from stages.kinds.skills.parts.review.table import write_csv

    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file to write, such as {target}/{dataset}.csv")
    if target.exists():  # what was decided in it would be lost
        raise UserError(f"{target} is there already: import it and remove it, or name another file")
    candidates = read_candidates(dataset)
    write_csv(target, candidates, read_decisions(layout.decisions(dataset)))
    print(f"{target}: {len(candidates):,} candidates")


def take_in(dataset: str, source: Path) -> None:
    from stages.kinds.skills.parts.files import read_skills
    from stages.kinds.skills.parts.review.decisions import (
        Conflict,
        read_candidates,
        read_decisions,
        save_decisions,
    )
    from stages.kinds.skills.parts.review.table import changes

    path, skills = layout.decisions(dataset), read_skills(layout.skills(dataset))
    found, counts = changes(source, read_candidates(dataset), read_decisions(path), skills)
    try:
        save_decisions(path, found)
    except Conflict as error:
        raise UserError(f"{path}: {error}; nothing was imported; import again") from None
    told = ", ".join(f"{counts[what]:,} {what}" for what in ("new", "changed", "cleared", "as before"))
    print(f"{path}: {told}")


@click.command(name="review", help=__doc__)
@click.argument("dataset")
@click.option(
    "--port", default=8800, show_default=True, type=click.IntRange(0, 65535), help="0 = any free one"
)
@click.option("--export", "target", help="write candidates and decisions to this CSV file")
@click.option("--import", "source", help="take in the decisions of this CSV file")
@main
def cli(dataset: str, port: int, target: str | None, source: str | None) -> None:
    if target and source:
        raise UserError("export and import: do one at a time")
    if target:
        export(dataset, Path(target))
    elif source:
        take_in(dataset, Path(source))
    else:
        from stages.kinds.skills.parts.review.server import serve

        serve(dataset, port)


if __name__ == "__main__":
    cli()
