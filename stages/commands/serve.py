"""Serve the exported student of a dataset on this machine, to any client of OpenAI's protocol.

A chat request's last user message is put into prompts/DATASET/student.md, as in training; a student of skills
answers with a call. With vLLM and CUDA, `vllm serve` serves what it can serve alike; all else goes to a small
server on the engines of this project. The first line of standard output tells the address, once requests are
answered.
"""

import importlib
from collections.abc import Iterable

import click

from stages import params
from stages.core.stage import main
from stages.engines.serve import bodies
from stages.engines.serve.student import Served
from stages.kinds.registry import KINDS

ENGINES = ("openvino", "transformers", "vllm")
SAMPLING = {"max_new_tokens", *bodies.SAMPLING}


def served(dataset: str) -> Served:
    """How its kind of task has the student of a dataset asked and read; as plain text where no kind says.

    A kind knows its datasets by their files: a student may be served where no params.yaml is.
    """
    modules = (importlib.import_module(kind.serving) for kind in KINDS if kind.serving)
    return next(filter(None, (module.served(dataset) for module in modules)), Served())


def usual_decoding(dataset: str, stages: Iterable[str]) -> dict:
    """What a request need not say: SAMPLING of the first of the stages that has a block for the dataset.

    Nothing where no params.yaml or no such block is there. Raises UserError for a block that is not valid.
    """
    blocks = params.blocks() if params.PARAMS.is_file() else {}
    for stage in stages:
        if dataset in blocks.get(stage, {}):
            return params.knobs_of(dataset, stage, blocks).model_dump(include=SAMPLING)
    return {}


@click.command(help=__doc__)
@click.argument("dataset")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Others reach this machine only by 0.0.0.0."
)
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--engine", type=click.Choice(ENGINES), help="Default: vllm with CUDA; else see docs/guide/serving.md."
)
@click.option("--grammar", is_flag=True, help="Hold every answer to the grammar of the dataset's calls.")
@click.option("--precision", default="auto", show_default=True, help="auto, f32 or bf16.")
@click.option("--threads", type=int, help="CPU threads of the engine. Default: 2, transformers 1.")
@click.option(
    "--batch", "batch_size", type=int, help="Requests answered together. Default: 8, transformers 1."
)
@main
def cli(
    dataset: str, host: str, port: int, engine: str | None, grammar: bool, precision: str, **sizes: int | None
) -> None:
    from stages.engines.serve import start

    of_kind = served(dataset)
    stages = [of_kind.evaluated_by, "generate"] if of_kind.evaluated_by else ["generate"]
    given = {name: size for name, size in sizes.items() if size is not None}
    decoding = {"precision": precision, **usual_decoding(dataset, stages), **given}
    start.run(dataset, of_kind, host=host, port=port, engine=engine, constrain=grammar, decoding=decoding)
