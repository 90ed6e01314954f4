"""Serve the exported student of a dataset on this machine, to any client of OpenAI's protocol.

Run as `python -m stages.serve DATASET`, or `make serve DATASET=otto`. A chat request's last user message is
put into prompts/DATASET/student.md, as in training; a student of skills answers with a call. With vLLM and
CUDA, `vllm serve` serves what it can serve alike; all else goes to a small server on the engines of this
project. The first line of standard output tells the address, once requests are answered.
"""

from collections.abc import Iterable

import click

from stages import params
from stages.core.stage import main, valid
from stages.engines.serve.form import Form

ENGINES = ("openvino", "transformers", "vllm")
SAMPLING = {"temperature", "top_k", "top_p", "frequency_penalty", "max_new_tokens"}


def form_of(dataset: str) -> Form:
    """How its kind of task has the student of a dataset asked and read; the plain form for other kinds."""
    from stages.kinds.skills.parts import serving  # the one place here that knows a kind

    return serving.form_of(dataset) or Form()


def usual_decoding(dataset: str, stages: Iterable[str | None]) -> dict:
    """What a request need not say: SAMPLING of the first of the stages that has a block for the dataset.

    Nothing where no params.yaml or no such block is there. Raises UserError for a block that is not valid.
    """
    blocks = params.load() if params.PARAMS.is_file() else {}
    for stage in stages:
        if dataset in blocks.get(stage, {}):
            where = f"params.yaml, {stage}.{dataset}"
            knobs = valid(params.command(stage).knobs, blocks[stage][dataset], where)
            return knobs.model_dump(include=SAMPLING)
    return {}


@click.command(help=__doc__)
@click.argument("dataset")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Others reach this machine only by 0.0.0.0."
)
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--engine", type=click.Choice(ENGINES), help="Default: vllm with CUDA; else see docs/serving.md."
)
@click.option("--grammar", is_flag=True, help="Hold every answer to the grammar of the dataset's calls.")
@click.option("--precision", default="auto", show_default=True, help="auto, f32 or bf16.")
@click.option("--threads", type=int, help="CPU threads of the engine. Default: 2, transformers 1.")
@click.option(
    "--batch", "batch_size", type=int, help="Requests answered together. Default: 8, transformers 1."
)
@main
def cli(dataset: str, host: str, port: int, engine: str | None, grammar: bool, precision: str, **sizes):
    from stages.engines.serve import start

    form = form_of(dataset)
    given = {name: size for name, size in sizes.items() if size is not None}
    decoding = {"precision": precision, **usual_decoding(dataset, (form.evaluated_by, "generate")), **given}
    start.run(start.Wanted(dataset, host, port, engine, grammar, decoding), form)


if __name__ == "__main__":
    cli()
