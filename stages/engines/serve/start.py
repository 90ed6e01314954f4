"""From models of this project to a running server: what is loaded, and which engine and server take it.

Imported to serve only, never to show help.
"""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from jinja2 import StrictUndefined

from stages.core import layout
from stages.core.chat_template import ChatTemplate
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.messages import say
from stages.core.prompts import Template, read_prompt, render
from stages.core.servers import setting
from stages.core.stage import valid
from stages.core.tokenizer import TextCodec
from stages.core.web import answers_to, is_public
from stages.core.web import serve as listen
from stages.engines import load
from stages.engines.protocol import Decoding, Engine
from stages.engines.serve.bodies import ChatBody, Refused, read_body
from stages.engines.serve.queue import EngineQueue
from stages.engines.serve.server import WARM_UP, Api, Model, Student
from stages.engines.serve.student import Served, exported

GRACE_S = 10  # what requests in flight have to end in, after SIGTERM
KEY = "RETORT_SERVE_KEY"
REQUEST = '(messages | selectattr("role", "equalto", "user") | list | last).content'  # of a chat
# transformers computes a full batch for one request, and its threads wait for each other at a small model.
ALONE, TOGETHER = {"threads": 1, "batch_size": 1}, {"threads": 2, "batch_size": 8}


def run(
    served: Mapping[str, Served],
    readers: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    *,
    host: str,
    port: int,
    engine: str | None,
    constrain: bool,
    decodings: Mapping[str, dict],
) -> None:
    """Serve until SIGTERM or SIGINT; with vllm this process becomes `vllm serve` where that answers alike.

    served: how each dataset's student is asked, by name. readers: its encoder and reranker, as fields of
    Model, of those that have them; a student is then no must. port: 0 takes a free one. engine: None takes
    vllm with CUDA, else a CPU engine. constrain: every answer obeys the grammar, unasked. decodings: fields
    of Decoding of each dataset; those left out have the defaults of serving. Raises UserError where there is
    nothing of a name to serve, a prompt, grammar or engine is missing, or the port is taken.
    """
    address = reserved(host, port)  # before anything that takes long
    key = setting(KEY)
    if is_public(address) and not key:
        say(f"serve: warning: {host} lets the network in, and there is no key: set {KEY}")
    models: dict[str, Model] = {}
    for dataset, of_kind in served.items():
        beside = readers.get(dataset, {})
        if beside and not layout.model(dataset, "hf").is_dir():
            models[dataset] = Model(**beside)
            continue
        student = student_of(dataset, sampling_of(engine, of_kind, decodings[dataset]), constrain, of_kind)
        if student.sampling.engine == "vllm" and len(served) == 1 and not beside:
            become_vllm(student, address, host, port, key)
        models[dataset] = Model(student, queue_of(student), **beside)
    asyncio.run(serve(Api(models, answers_to(address, host, key=key), key), address))


def become_vllm(student: Student, address: socket.socket, host: str, port: int, key: str) -> None:
    """Returns only where `vllm serve` would not answer as the small server does."""
    try:
        command = vllm_command(student, host, port)
    except UserError as error:
        say(f"serve: the small server, on the engine vllm ({error})")
        return
    address.close()
    os.execvpe(command[0], command, os.environ | ({"VLLM_API_KEY": key} if key else {}))


def queue_of(student: Student) -> EngineQueue:
    """Its engine, loaded and warm."""
    sampling = student.sampling
    queue = EngineQueue(partial(warm_engine, student), sampling.batch_size)
    cache = getattr(queue.engine, "cache_bytes", 0)
    more = f", a cache of up to {cache / 2**20:,.1f} MiB beside the model" if cache else ""
    at_once = f"{sampling.batch_size} requests at once, {queue.places} in progress at most"
    say(f"serve: {student.name}: engine {sampling.engine}, {at_once}{more}")
    return queue


def answered(
    dataset: str, served: Served, question: str, engine: str | None, decoding: dict
) -> tuple[Mapping, str]:
    """(what `served.ask` found for a question, the answer), without a server. Raises UserError."""
    assert served.ask is not None
    try:
        body = {"model": dataset, "messages": [{"role": "user", "content": question}]}
        asked = served.ask(read_body(ChatBody, body).turns())
    except Refused as error:
        raise UserError(str(error)) from None
    sampling = sampling_of(engine, served, decoding).model_copy(update={"batch_size": 1})
    model = exported(dataset)
    load.check_model(model)
    load.prepare(model, sampling)
    (answer,) = load.open_engine(model, sampling).generate([asked.prompt], sampling, [0])
    return asked.response, answer.text


def sampling_of(engine: str | None, served: Served, decoding: dict) -> Decoding:
    """The decoding of what a request does not say. Raises UserError."""
    engine = engine or ("vllm" if vllm_is_available() else cpu_engine(served))
    sizes = ALONE if engine == "transformers" else TOGETHER
    return load.resolve(valid(Decoding, {"engine": engine, **sizes, **decoding}, "serve"))


def vllm_is_available() -> bool:
    """Is vLLM installed, and a CUDA device there for it?"""
    return find_spec("vllm") is not None and load.cuda_is_available()


def cpu_engine(served: Served) -> str:
    """The fast one, which has no grammars; transformers for a dataset that has one."""
    return "transformers" if served.grammar and served.grammar.is_file() else "openvino"


def student_of(dataset: str, decoding: Decoding, constrain: bool, served: Served) -> Student:
    """What is to be served. Raises UserError where the student, its prompt or its grammar is missing."""
    model, grammar = exported(dataset), served.grammar
    load.check_model(model)
    has_grammar = grammar is not None and grammar.is_file()
    if constrain and not has_grammar:
        place = f"{grammar}: no such file" if grammar else f"{dataset}: its task has none"
        raise UserError(f"{place}, so there is no grammar to hold answers to; drop --grammar")
    template = Template(layout.prompt(dataset, "student"))
    return Student(
        name=dataset,
        codec=TextCodec(model),
        context=load.context_of(model),
        sampling=decoding,
        render=partial(prompt_of, template, served.metadata),
        ask=served.ask,
        page=served.page,
        read=served.read,
        grammar=read_text(grammar) if has_grammar else None,
        grammar_file=grammar,
        constrain=constrain,
    )


class Given(dict):
    """The metadata that a request gives; a prompt that asks for more is told where it belongs."""

    def __missing__(self, name: str) -> StrictUndefined:
        return left_out(f"metadata.{name}", f'"metadata": {{"{name}": …}}', "metadata")


def left_out(field: str, wanted: str, param: str) -> StrictUndefined:
    """What the template has of a field that the request does not give: to use it is Refused."""
    hint = (
        f"the student's prompt uses document.{field}: put {wanted} into the body of the request "
        f"(openai client: extra_body={{{wanted}}}; see docs/guide/serving.md)"
    )
    return StrictUndefined(hint, exc=partial(Refused, param=param))


def prompt_of(template: Template, known: Mapping, text: str, title: str | None, metadata: dict) -> str:
    """The prompt for a request, as generate renders it for a document whose metadata are `known` and these.

    Raises Refused where the template asks for a title or metadata that the request does not give, UserError
    for what it cannot do with those given.
    """
    given = left_out("title", '"title": "…"', "title") if title is None else title
    return render(
        template, {"id": "", "title": given, "text": text, "metadata": Given({**known, **metadata})}
    )


def vllm_command(student: Student, host: str, port: int) -> list[str]:
    """The command of `vllm serve`. Raises UserError where it would not answer as the small server does.

    No test starts it, for want of vLLM and CUDA; what its chat template renders is tested. It names no
    max_new_tokens, and leaves those of generation_config.json out: vLLM would hold requests to them that say
    otherwise.
    """
    if student.read is not None:
        raise UserError("vllm serve reads no calls")
    if student.ask is not None:
        raise UserError("vllm serve finds nothing for a request")
    if student.sampling.frequency_penalty:
        raise UserError("vllm serve has no frequency_penalty but that of a request")
    template = chat_template(student.codec, read_prompt(layout.prompt(student.name, "student")))
    try:
        prompts = student.codec.prompts([student.render(WARM_UP, None, {})])
    except Refused as error:
        raise UserError(f"vllm serve gives a prompt no more than the request: {error}") from None
    encoded = student.codec.tokenizer.encode(template.render(WARM_UP), add_special_tokens=False).ids
    if [encoded] != prompts:
        raise UserError("vllm serve would give other tokens than training did")
    file, model = layout.SCRATCH / f"serve-{student.name}.jinja", layout.model(student.name, "hf")
    write_text(file, template.source)
    usual = student.sampling.model_dump(include={"temperature", "top_k", "top_p", "repetition_penalty"})
    return [
        *("vllm", "serve", str(model), "--served-model-name", student.name),
        *("--host", host, "--port", str(port), "--allowed-origins", "[]"),
        *("--chat-template", str(file), "--chat-template-content-format", "string"),
        *("--generation-config", "vllm"),
        *("--override-generation-config", json.dumps(usual)),
    ]


def chat_template(codec: TextCodec, prompt: str) -> ChatTemplate:
    """The template that puts the student prompt of that source around the last user message of a chat.

    The model's own template, or the tokenizer's first token, comes around that. Raises UserError for a
    prompt with filters of this project: vLLM does not know them.
    """
    document = f'{{"id": "", "title": "", "text": {REQUEST}, "metadata": {{}}}}'
    rendered = f"{{%- set document = {document} -%}}\n{{%- set prompt -%}}\n{prompt}\n{{%- endset -%}}\n"
    if codec.chat is None:
        first = "".join(map(codec.tokenizer.id_to_token, codec.prefix))
        return ChatTemplate(f"{rendered}{{{{ {json.dumps(first)} ~ (prompt | trim) }}}}", "student.md", {})
    message = '{"role": "user", "content": prompt | trim}'
    # The newline goes with trim_blocks, and nothing else of the model's template.
    source = f"{rendered}{{%- set messages = [{message}] %}}\n{codec.chat.source}"
    return ChatTemplate(source, "student.md", codec.chat.tokens)


def warm_engine(student: Student) -> Engine:
    """The engine, after its first answers: what is made once is not for the first client to wait for."""
    model = layout.model(student.name, "hf")
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
            say(f"serve: requests with `grammar` will be refused: {error}")
    return engine


def reserved(host: str, port: int) -> socket.socket:
    """A socket of that address, or of a free port for 0, at which nobody listens yet. Raises UserError."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise unusable(host, port, error) from None
    return bound


def unusable(host: str, port: int, error: Exception) -> UserError:
    return UserError(f"port {port} of {host}: {error}; choose another with --port")


async def serve(api: Api, address: socket.socket) -> None:
    """Listen until SIGTERM or SIGINT, then let requests in flight end.

    The addresses are the first line of standard output, as JSON. Raises UserError where another process has
    begun to listen there.
    """
    host, port = address.getsockname()[:2]
    site = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    told = {"base_url": f"{site}v1"} | ({"page": site} if api.page_file else {})
    try:
        await listen(api.app(), address, json.dumps(told), GRACE_S)
    except OSError as error:
        raise unusable(host, port, error) from None
