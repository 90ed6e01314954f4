"""Serve the exported student of a dataset on this machine, to any client of OpenAI's protocol.

Run as `python -m stages.serve DATASET`, or `make serve DATASET=otto`. A chat request's last user message is
put into prompts/DATASET/student.md, as in training; a student of skills answers with a call. With vLLM and
CUDA, `vllm serve` serves what it can serve alike; all else goes to a small server on the engines of this
project. The first line of standard output tells the address, once requests are answered.
"""

import os
import sys
from functools import partial
from pathlib import Path

import click

from stages import params
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.stage import main, valid
from stages.engines.protocol import Decoding

ENGINES = ("openvino", "transformers", "vllm")
WARM_UP = "hello"
USUAL = {"temperature", "top_k", "top_p", "frequency_penalty", "max_new_tokens"}
# transformers computes a full batch for one request, and its threads wait for each other at a small model.
ALONE, TOGETHER = {"threads": 1, "batch_size": 1}, {"threads": 2, "batch_size": 8}


def cpu_engine(dataset: str) -> str:
    """The fast one, which has no grammars; transformers for a dataset that has one."""
    return "transformers" if (layout.skills(dataset) / "grammar.lark").is_file() else "openvino"


def usual_decoding(dataset: str) -> dict:
    """What a request need not say: as params.yaml has the students of the dataset evaluated, else generate.

    Nothing where no params.yaml or no such block is there.
    """
    blocks = params.load() if params.PARAMS.is_file() else {}
    for stage in ("evaluate_calls", "generate"):
        if dataset in blocks.get(stage, {}):
            where = f"params.yaml, {stage}.{dataset}"
            knobs = valid(params.command(stage).knobs, blocks[stage][dataset], where)
            return knobs.model_dump(include=USUAL)
    return {}


def student_of(dataset: str, decoding: Decoding, constrain: bool):
    """What is to be served. Raises UserError where the student, its prompt or its grammar is missing."""
    from stages.core.prompts import Template
    from stages.core.tokenizer import TextCodec
    from stages.engines.load import context_of
    from stages.engines.serve.server import Student
    from stages.kinds.skills.parts.briefs import about
    from stages.kinds.skills.parts.files import read_skills

    model, directory = layout.model(dataset, "hf"), layout.skills(dataset)
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no exported student; make it with `make {dataset}`")
    grammar = directory / "grammar.lark"
    if constrain and not grammar.is_file():
        raise UserError(f"{grammar}: no such file, so there is no grammar to hold calls to; drop --grammar")
    skills = read_skills(directory) if (directory / "skills.json").is_file() else None
    known = about(skills) if skills else {}  # what the metadata of every request says
    return Student(
        dataset,
        TextCodec(model),
        context_of(model),
        decoding,
        partial(prompt_of, Template(layout.prompt(dataset, "student")), known),
        reader(skills) if skills else None,
        read_text(grammar) if grammar.is_file() else None,
        constrain,
    )


def prompt_of(template, known: dict, text: str, title: str | None, metadata: dict) -> str:
    """The prompt for a request, as generate renders it for a document.

    Raises UserError where the template asks for a title or metadata that the request does not give.
    """
    from jinja2 import StrictUndefined

    from stages.core.prompts import render

    given = StrictUndefined(hint="no 'title' is given with the request") if title is None else title
    return render(template, {"id": "", "title": given, "text": text, "metadata": known | metadata})


def reader(skills):
    """What reads a student's text as a call, spelt as in the request; a text that is no call stays."""
    from stages.engines.serve.server import Reading
    from stages.kinds.skills.parts.calls import write_call
    from stages.kinds.skills.parts.task import understood

    def read(text: str, request: str) -> Reading:
        call = understood(text, request, skills)
        if call is None:
            return Reading(text, None)
        return Reading(write_call(call), None if call.name == skills.fallback else call)

    return read


def vllm_command(student, host: str, port: int) -> list[str]:
    """The command of `vllm serve`. Raises UserError where it would not answer as the small server does."""
    from stages.engines.serve import vllm as vllm_server

    if student.read is not None:
        raise UserError("vllm serve reads no calls")
    if student.sampling.frequency_penalty:
        raise UserError("vllm serve has no frequency_penalty but that of a request")
    source = read_text(layout.prompt(student.name, "student"))
    template = vllm_server.chat_template(student.codec, source)
    prompts = student.codec.prompts([student.render(WARM_UP, None, {})])
    encoded = student.codec.tokenizer.encode(template.render(WARM_UP), add_special_tokens=False).ids
    if [encoded] != prompts:
        raise UserError("vllm serve would give other tokens than training did")
    file = layout.SCRATCH / f"serve-{student.name}.jinja"
    write_text(file, template.source)
    model = layout.model(student.name, "hf")
    return vllm_server.command(model, student.name, file, student.sampling, host, port)


def loaded(student, model: Path):
    """The engine, after its first answers: what is made once is not for the first client to wait for."""
    from stages.engines import load

    load.prepare(model, student.sampling)
    engine = load.open_engine(model, student.sampling)
    room = min(student.sampling.max_new_tokens, student.context // 2)
    usual = student.sampling.model_copy(update={"max_new_tokens": room})
    for grammar in (None, student.grammar):
        try:
            list(engine.generate([WARM_UP], usual, [0], grammar))
        except UserError as error:
            if student.constrain or grammar is None:
                raise
            print(f"serve: requests with `grammar` will be refused: {error}", file=sys.stderr)
    return engine


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
    import asyncio

    from stages.engines.load import resolve
    from stages.engines.serve import queue as server_queue
    from stages.engines.serve import server
    from stages.engines.serve import vllm as vllm_server

    address = server.reserved(host, port)  # before anything that takes long
    chosen = engine or ("vllm" if vllm_server.available() else cpu_engine(dataset))
    usual = usual_decoding(dataset) | (ALONE if chosen == "transformers" else TOGETHER)
    given = {name: size for name, size in sizes.items() if size is not None}
    knobs = {"engine": chosen, "precision": precision, **usual, **given}
    decoding = resolve(valid(Decoding, knobs, "serve"))
    student = student_of(dataset, decoding, grammar)
    if chosen == "vllm":
        try:
            command = vllm_command(student, host, port)
        except UserError as error:
            print(f"serve: the small server, on the engine vllm ({error})", file=sys.stderr)
        else:
            os.execvp(command[0], command)
    load = partial(loaded, student, layout.model(dataset, "hf"))
    queue = server_queue.EngineQueue(load, decoding.batch_size)
    asyncio.run(server.serve(student, queue, address))


if __name__ == "__main__":
    cli()
