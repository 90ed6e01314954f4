"""From an exported student to a running server: what is loaded, and which engine and server take it.

Imported to serve only, never to show help.
"""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jinja2 import StrictUndefined

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_json, read_text, write_text
from stages.core.prompts import Template, render
from stages.core.stage import valid
from stages.core.tokenizer import TextCodec
from stages.engines import load
from stages.engines.protocol import Decoding, Engine
from stages.engines.serve import vllm
from stages.engines.serve.queue import EngineQueue
from stages.engines.serve.server import Student, reserved, serve
from stages.engines.serve.student import Served

WARM_UP = "hello"
# transformers computes a full batch for one request, and its threads wait for each other at a small model.
ALONE, TOGETHER = {"threads": 1, "batch_size": 1}, {"threads": 2, "batch_size": 8}


class Wanted(NamedTuple):
    """What to serve, and where.

    `engine` None: vllm with CUDA, else a CPU engine. `constrain`: every answer obeys the grammar, unasked.
    `decoding` has fields of Decoding that are set, those left out have the defaults of serving.
    """

    dataset: str
    host: str
    port: int  # 0: a free one
    engine: str | None
    constrain: bool
    decoding: dict


def run(wanted: Wanted, served: Served) -> None:
    """Serve until SIGTERM or SIGINT; with vllm this process becomes `vllm serve` where that answers alike.

    Raises UserError where student, prompt, grammar or engine is missing, and for a port that is taken.
    """
    address = reserved(wanted.host, wanted.port)  # before anything that takes long
    engine = wanted.engine or ("vllm" if vllm.available() else cpu_engine(served))
    sizes = ALONE if engine == "transformers" else TOGETHER
    decoding = load.resolve(valid(Decoding, {"engine": engine, **sizes, **wanted.decoding}, "serve"))
    student = student_of(wanted.dataset, decoding, wanted.constrain, served)
    if engine == "vllm":
        try:
            command = vllm_command(student, wanted.host, wanted.port)
        except UserError as error:
            print(f"serve: the small server, on the engine vllm ({error})", file=sys.stderr)
        else:
            os.execvp(command[0], command)
    queue = EngineQueue(partial(warm_engine, student), decoding.batch_size)
    asyncio.run(serve(student, queue, address))


def cpu_engine(served: Served) -> str:
    """The fast one, which has no grammars; transformers for a dataset that has one."""
    return "transformers" if served.grammar and served.grammar.is_file() else "openvino"


def student_of(dataset: str, decoding: Decoding, constrain: bool, served: Served) -> Student:
    """What is to be served. Raises UserError where the student, its prompt or its grammar is missing."""
    model, grammar = layout.model(dataset, "hf"), served.grammar
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no exported student; make it with `make {dataset}`")
    has_grammar = grammar is not None and grammar.is_file()
    if constrain and not has_grammar:
        place = f"{grammar}: no such file" if grammar else f"{dataset}: its task has none"
        raise UserError(f"{place}, so there is no grammar to hold answers to; drop --grammar")
    template = Template(layout.prompt(dataset, "student"))
    return Student(
        name=dataset,
        codec=TextCodec(model),
        context=read_json(model / "config.json")["max_position_embeddings"],
        sampling=decoding,
        render=partial(prompt_of, template, served.metadata),
        read=served.read,
        grammar=read_text(grammar) if has_grammar else None,
        grammar_file=grammar,
        constrain=constrain,
    )


def prompt_of(template: Template, known: dict, text: str, title: str | None, metadata: dict) -> str:
    """The prompt for a request, as generate renders it for a document whose metadata are `known` and these.

    Raises UserError where the template asks for a title or metadata that the request does not give.
    """
    given = StrictUndefined(hint="no 'title' is given with the request") if title is None else title
    return render(template, {"id": "", "title": given, "text": text, "metadata": known | metadata})


def vllm_command(student: Student, host: str, port: int) -> list[str]:
    """The command of `vllm serve`. Raises UserError where it would not answer as the small server does."""
    if student.read is not None:
        raise UserError("vllm serve reads no calls")
    if student.sampling.frequency_penalty:
        raise UserError("vllm serve has no frequency_penalty but that of a request")
    source = read_text(layout.prompt(student.name, "student"))
    template = vllm.chat_template(student.codec, source)
    prompts = student.codec.prompts([student.render(WARM_UP, None, {})])
    encoded = student.codec.tokenizer.encode(template.render(WARM_UP), add_special_tokens=False).ids
    if [encoded] != prompts:
        raise UserError("vllm serve would give other tokens than training did")
    file = layout.SCRATCH / f"serve-{student.name}.jinja"
    write_text(file, template.source)
    model = layout.model(student.name, "hf")
    return vllm.command(model, student.name, file, student.sampling, host, port)


def warm_engine(student: Student) -> Engine:
    """The engine, after its first answers: what is made once is not for the first client to wait for."""
    model: Path = layout.model(student.name, "hf")
    load.prepare(model, student.sampling)
    engine = load.open_engine(model, student.sampling)
    room = min(student.sampling.max_new_tokens, student.context // 2)
    sampling = student.sampling.model_copy(update={"max_new_tokens": room})
    for grammar in (None, student.grammar):
        try:
            list(engine.generate([WARM_UP], sampling, [0], grammar))
        except UserError as error:
            if student.constrain or grammar is None:
                raise
            print(f"serve: requests with `grammar` will be refused: {error}", file=sys.stderr)
    return engine
