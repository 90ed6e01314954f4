"""Review the candidates of a dataset: accept, edit or reject them, on a local web page or in a spreadsheet.

Run as `python -m stages review otto` (`make review DATASET=otto`): serves the page on 127.0.0.1 until it is
interrupted. With --export, candidates and decisions are written to a CSV file; with --import, the decisions
in such a file are taken in, all or none. Decisions go to `prompts/<dataset>/decisions.jsonl`, in git; the
stage corpus_skills reads them.
"""

from pathlib import Path

import click

from stages.core.errors import UserError
from stages.core.stage import main
from stages.kinds.skills import places


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
    if target or source:
        from stages.kinds.skills.parts.review import table

        if target:
            print(f"{target}: {table.export_csv(dataset, Path(target)):,} candidates")
        else:
            counts = table.import_csv(dataset, Path(source))
            kinds = ("new", "changed", "cleared", "as before")
            numbers = ", ".join(f"{counts[kind]:,} {kind}" for kind in kinds)
            print(f"{places.decisions(dataset)}: {numbers}")
    else:
        from stages.kinds.skills.parts.review.server import serve

        serve(dataset, port)


if __name__ == "__main__":
    cli()
