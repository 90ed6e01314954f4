"""An OpenAI-compatible HTTP server for models of this project: students, retrievers and rerankers.

`GET /v1/models`, `POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings` and `/v1/rerank`,
`GET /health` and `/metrics`. A chat request goes through the student's own prompt template; a completion
gives the prompt itself. How prompts are rendered and answers are read is passed in.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.core.web import application, body_of, check, html_page, parsed
from stages.engines.protocol import Decoding, Generation
from stages.engines.serve.bodies import Body, ChatBody, CompletionBody, Refused, read_body, too_long
from stages.engines.serve.metrics import CONTENT_TYPE, Metrics
from stages.engines.serve.queue import EngineQueue, Full
from stages.engines.serve.stream import BEGUN, Part, Stream
from stages.engines.serve.student import Asked, Reading
from stages.engines.serve.texts import EmbeddingsBody, Encoder, RerankBody, Reranker, TextQueue

LARGEST_BODY = 2**20  # bytes
SHORT = 2**14  # bytes of a body that is read at once, which takes some milliseconds
NO_EMBEDDINGS = "has no retriever, and gives no embeddings"
MOST_READ = 64  # longer bodies that wait to be read
WARM_UP = "hello"
KEPT_HEADERS = ("Allow", "WWW-Authenticate")  # of an error


class Student(NamedTuple):
    """What is served. `read` is None for a student that calls no functions.

    `render(text, title, metadata)` gives the prompt and `read(text, request)` what the student said with a
    text; both may raise UserError. `grammar` is the text of the file `grammar_file`, None where that is not
    there; `constrain` uses it unasked.
    """

    name: str
    codec: TextCodec
    context: int  # tokens
    sampling: Decoding  # for what a request does not say
    render: Callable[[str, str | None, dict], str]
    ask: Callable[[Sequence[tuple[str, str]]], Asked] | None = None  # in place of `render`
    page: Path | None = None
    read: Callable[[str, str], Reading] | None = None
    grammar: str | None = None
    grammar_file: Path | None = None
    constrain: bool = False


class Model(NamedTuple):
    """What is served under one name: a student with its engine, an encoder, a reranker, or several."""

    student: Student | None = None
    queue: EngineQueue | None = None
    encoder: Encoder | None = None
    reranker: Reranker | None = None


class Question(NamedTuple):
    """What a body asks the engine. The response has the fields `beside`, too."""

    body: Body
    prompt: str
    beside: Mapping[str, Any]
    prompt_tokens: int
    sampling: Decoding
    grammar: str | None


class Answered(NamedTuple):
    """What the student wrote, and why it ended; the `head` of a response, and a stream if one is wanted."""

    student: Student
    body: Body
    text: str
    reason: str
    usage: dict
    head: dict
    stream: Stream | None


class Api:
    """The handlers of models by name. `answers`: to which hosts; with a `key`, only who has it may ask."""

    def __init__(self, models: Mapping[str, Model], answers: Callable[[str], bool], key: str = ""):
        self.served, self.answers, self.key = models, answers, key
        self.reader, self.reading = ThreadPoolExecutor(1), 0
        self.metrics = Metrics()
        students = [model.student for model in models.values() if model.student]
        self.queues = [model.queue for model in models.values() if model.queue]
        self.most_characters = {
            student.name: student.context * max(map(len, student.codec.tokenizer.get_vocab()))
            for student in students
        }
        self.page_file = next((student.page for student in students if student.page), None)

    def app(self) -> web.Application:
        """The application, which feeds the queue."""
        app = application(LARGEST_BODY, self.guard)
        app.cleanup_ctx.append(self.feeding)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.post("/v1/embeddings", partial(self.texts, EmbeddingsBody, "encoder", NO_EMBEDDINGS)),
                web.post("/v1/rerank", partial(self.texts, RerankBody, "reranker", "has no reranker")),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{name}", self.models),
                web.get("/health", self.health),
                web.get("/metrics", self.measured),
            ]
        )
        if self.page_file is not None:
            app.router.add_get("/", self.page)
        return app

    async def feeding(self, app: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(queue.run()) for queue in self.queues]
        yield
        for task in tasks:
            task.cancel()

    @web.middleware
    async def guard(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Errors in OpenAI's shape: the last event of a stream that has begun, else the response."""
        started = time.perf_counter()
        response = await self.told(request, handler)
        # Of paths that do not exist there may be any number.
        path = request.match_info.route.resource.canonical if request.match_info.route.resource else "other"
        self.metrics.answered(path, response.status, time.perf_counter() - started)
        begun = request.get(BEGUN)
        if begun is None or begun is response:
            return response
        if isinstance(response, web.Response) and response.text:
            with suppress(ConnectionResetError):
                await begun.write(f"data: {response.text}\n\n".encode())
        return begun

    async def told(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """The handler's response, or its error; what is not the client's fault is logged with its cause."""
        try:
            check(request, self.answers, self.key if request.path.startswith("/v1/") else "")
            return await handler(request)
        except Refused as error:
            return _problem(error.status, str(error), error.param, error.code)
        except UserError as error:
            return _problem(400, str(error))
        except Full as error:
            headers = {"Retry-After": str(error.wait_s)}
            return _problem(429, str(error), code="rate_limit_exceeded", headers=headers)
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
            return _problem(error.status, error.text or "", code=str(error.status), headers=kept)
        except ConnectionResetError:  # the client is gone: nobody reads this
            return web.Response(status=499)
        except Exception:
            logging.exception("%s %s", request.method, request.path)
            return _problem(500, "the server failed; its log says why", code="server_error")

    async def body(self, request: web.Request) -> tuple[object, Model]:
        """(what a request's body says, the model that it names). Raises Full, Refused and HTTPException."""
        raw = await body_of(request)
        if len(raw) <= SHORT:
            said = _checked(parsed(raw, request.charset))
        else:
            said = await self.aside(lambda: _checked(parsed(raw, request.charset)))
        name = said.get("model") if isinstance(said, dict) else None
        if not isinstance(name, str):  # refused below, with what else is wrong
            return said, next(iter(self.served.values()))
        if name not in self.served:
            raise self.unknown()
        return said, self.served[name]

    async def aside(self, work: Callable[[], Any]) -> Any:
        """What takes long is done one at a time, so that neither short requests nor engines wait for it."""
        if self.reading >= MOST_READ:
            raise Full(1)
        self.reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reader, work)
        finally:
            self.reading -= 1

    def unknown(self) -> Refused:
        names = " and ".join(f"'{name}'" for name in self.served)
        what = f"only the model {names} is" if len(self.served) == 1 else f"only the models {names} are"
        return Refused(f"{what} served here", "model", "model_not_found", 404)

    def read(self, kind: type[Body], said: object, student: Student) -> Question:
        """What a request asks. Raises Refused and UserError."""
        body = read_body(kind, said)
        prompt, beside = _asked(body, student) if isinstance(body, ChatBody) else Asked(body.prompt, {})
        if len(prompt) > self.most_characters[student.name]:  # counting a megabyte's tokens takes a second
            raise too_long(student.context, f"{len(prompt):,} characters")
        tokens = len(student.codec.prompts([prompt])[0])
        sampling = body.sampling(student.sampling, tokens, student.context)
        return Question(body, prompt, beside, tokens, sampling, _grammar(body, student))

    async def answered(self, kind: type[Body], request: web.Request, form: str, part: Part) -> Answered:
        """The answer; what there is of it is sent before it is whole to who wants a stream.

        form: what OpenAI calls the response. Raises Full, and as `read`.
        """
        said, model = await self.body(request)
        student, queue = model.student, model.queue
        if student is None or queue is None:
            raise Refused("this model answers /v1/embeddings or /v1/rerank, no chats", "model")
        with queue.place():
            if (request.content_length or SHORT + 1) <= SHORT and student.ask is None:
                asked = self.read(kind, said, student)
            else:
                asked = await self.aside(lambda: self.read(kind, said, student))
            body, beside, head = asked.body, asked.beside, _head(form, student.name)
            stream = Stream(request, head, beside, part, student.codec) if body.stream else None
            to_engine = asked.prompt, asked.prompt_tokens, asked.sampling, body.drawn_seed(), asked.grammar
            # What a text says, and where it stops, is known of whole ones only.
            if stream and not (body.stop or student.read or asked.grammar):
                answer = await stream.following(queue.answer(*to_engine, stream.tell))
            else:
                answer = await queue.answer(*to_engine)
        text, stopped = body.stopped(answer.text)
        reason = "stop" if stopped else answer.finish_reason
        usage = _usage(answer)
        self.metrics.used(student.name, usage)
        return Answered(student, body, text, reason, usage, {**head, **beside}, stream)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        def part(text: str, is_first: bool) -> dict:
            return {"delta": {**({"role": "assistant"} if is_first else {}), "content": text}}

        answered = await self.answered(ChatBody, request, "chat.completion", part)
        student, body, text, reason, usage, head, stream = answered
        message = {"role": "assistant", "content": text, "refusal": None}
        if student.read is not None:
            tools = body.callable_tools()
            message["content"], function = student.read(text, body.request())
            if function and tools is not None and (not tools or function[0] in tools):
                message |= {"content": None, "tool_calls": [_tool_call(*function)]}
                reason = "tool_calls"
        if stream is None:
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            return web.json_response({**head, "choices": [choice], "usage": usage})
        if calls := message.pop("tool_calls", None):
            delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **calls[0]}]}
            await stream.send({"delta": delta})
        else:
            await stream.more(message["content"])
        return await stream.ended({"delta": {}}, reason, body.counted(usage))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        answered = await self.answered(
            CompletionBody, request, "text_completion", lambda text, is_first: {"text": text}
        )
        if answered.stream is not None:
            await answered.stream.more(answered.text)
            usage = answered.body.counted(answered.usage)
            return await answered.stream.ended({"text": ""}, answered.reason, usage)
        choice = {"index": 0, "text": answered.text, "logprobs": None, "finish_reason": answered.reason}
        return web.json_response({**answered.head, "choices": [choice], "usage": answered.usage})

    async def texts(
        self, kind: type[EmbeddingsBody | RerankBody], reader: str, lacks: str, request: web.Request
    ) -> web.Response:
        """The answer of that field of the model which a body names; `lacks` is said of one without it."""
        said, model = await self.body(request)
        body = read_body(kind, said)
        own = getattr(model, reader)
        if own is None:
            raise Refused(f"'{body.model}' {lacks}", "model")
        response = await own.answer(body)
        self.metrics.used(body.model, response["usage"])
        return web.json_response(response)

    async def models(self, request: web.Request) -> web.Response:
        entries = {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "retort"} for name in self.served
        }
        name = request.match_info.get("name")
        if name is None:
            return web.json_response({"object": "list", "data": list(entries.values())})
        if name not in entries:
            raise self.unknown()
        return web.json_response(entries[name])

    async def page(self, request: web.Request) -> web.Response:
        assert self.page_file is not None
        return html_page(self.page_file)

    async def health(self, request: web.Request) -> web.Response:
        for model in self.served.values():
            if model.student and model.queue:
                one_token = model.student.sampling.model_copy(update={"max_new_tokens": 1})
                if not await model.queue.is_well(WARM_UP, one_token):
                    message = "the engine does not answer; the log says why"
                    return _problem(503, message, code="server_error")
        return web.json_response({"status": "ok"})

    async def measured(self, request: web.Request) -> web.Response:
        waiting = {
            name: sum(queue.taken for queue in (model.queue, *_text_queues(model)) if queue)
            for name, model in self.served.items()
        }
        return web.Response(body=self.metrics.text(waiting).encode(), headers={"Content-Type": CONTENT_TYPE})


def _text_queues(model: Model) -> list[TextQueue]:
    return [reader.queue for reader in (model.encoder, model.reranker) if reader]


def _asked(body: ChatBody, student: Student) -> Asked:
    """What a chat asks. Raises Refused, and UserError of the template."""
    asked = body.request()
    if body.callable_tools() is not None and student.read is None:
        raise Refused(f"the student of {student.name} has no skills, and calls no functions", "tools")
    if student.ask is None:
        return Asked(student.render(asked, body.title, body.metadata or {}), {})
    if param := next((name for name in ("title", "metadata") if getattr(body, name)), None):
        raise Refused(f"'{param}' is found for each request here", param, "unsupported_parameter")
    return student.ask(body.turns())


def _grammar(body: Body, student: Student) -> str | None:
    """The Lark text that the answer has to obey: the body's word counts, else how the server was started."""
    wanted = student.constrain if body.grammar is None else body.grammar
    if wanted is True and student.grammar is None:
        missing = f" ({student.grammar_file})" if student.grammar_file else ""
        raise Refused(
            f"{student.name} has no grammar{missing}; leave `grammar` out, or give a Lark text", "grammar"
        )
    return student.grammar if wanted is True else f"{wanted}\n" if wanted else None


def _usage(answer: Generation) -> dict:
    read, written = answer.prompt_tokens, answer.generated_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _tool_call(name: str, arguments: dict) -> dict:
    called = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": called}


def _head(form: str, model: str) -> dict:
    prefix = "cmpl" if form == "text_completion" else "chatcmpl"
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": form,
        "created": int(time.time()),
        "model": model,
    }


def _checked(body: object) -> object:
    """`body`, if it is text. Raises Refused."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # half a character, a lone surrogate, is one
        raise Refused(f"the body is not JSON: {error}") from None
    return body


def _problem(
    status: int,
    message: str,
    param: str | None = None,
    code: str = "invalid_value",
    headers: dict[str, str] | None = None,
) -> web.Response:
    form = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": form, "param": param, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)
