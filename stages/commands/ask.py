"""Ask the student of a dataset that answers from passages: on a page in the browser, or one question here.

With a QUESTION, the passages that are found for it are printed with their scores, then the answer. Without
one, a server starts as `serve` does, with a page at its address: passages, answers as they are written, and
questions that go on from there. The first line of standard output tells both addresses.
"""

from textwrap import indent

import click

from stages.commands.serve import ENGINES, served, usual_decoding
from stages.core.errors import UserError
from stages.core.stage import main


@click.command(help=__doc__)
@click.argument("dataset")
@click.argument("question", required=False)
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option("--engine", type=click.Choice(ENGINES), help="Default: as `serve`.")
@click.option("--precision", default="auto", show_default=True, help="auto, f32 or bf16.")
@main
def cli(dataset: str, question: str | None, port: int, engine: str | None, precision: str) -> None:
    from stages.engines.serve import start

    of_kind = served(dataset)
    if of_kind.ask is None:
        raise UserError(f"{dataset}: its students answer without passages; `make serve DATASET={dataset}`")
    decoding = {"precision": precision, **usual_decoding(dataset, [of_kind.evaluated_by or "generate"])}
    if question is None:
        start.run(
            {dataset: of_kind},
            host="127.0.0.1",
            port=port,
            engine=engine,
            constrain=False,
            decodings={dataset: decoding},
        )
        return
    beside, answer = start.answered(dataset, of_kind, question, engine, decoding)
    for passage in beside["passages"]:
        print(f"{passage['score']:8.3f}  {passage['title']}\n{indent(passage['text'], ' ' * 10)}\n")
    print(answer)
