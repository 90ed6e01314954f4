"""An OpenAI-compatible HTTP server for one exported student, on the engines of this project.

`GET /v1/models`, `POST /v1/chat/completions` and `/v1/completions`, `GET /health`. A chat request goes
through the student's own prompt template; a completion gives the prompt itself. How prompts are rendered and
answers are read is passed in.
"""

import asyncio
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.core.web import application, body_of, check, parsed
from stages.core.web import serve as listen
from stages.engines.protocol import Decoding, Generation
from stages.engines.serve.bodies import Body, ChatBody, CompletionBody, Refused, read_body, too_long
from stages.engines.serve.queue import EngineQueue, Full
from stages.engines.serve.student import Reading

GRACE_S = 10  # what requests in flight have to end in, after SIGTERM
LARGEST_BODY = 2**20  # bytes
SHORT = 2**14  # bytes of a body that is read at once, which takes some milliseconds
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
    read: Callable[[str, str], Reading] | None = None
    grammar: str | None = None
    grammar_file: Path | None = None
    constrain: bool = False


class Question(NamedTuple):
    """What a body asks the engine."""

    body: Body
    prompt: str
    prompt_tokens: int
    sampling: Decoding
    grammar: str | None


class Api:
    """The handlers. `answers` says to which hosts they answer; with a `key`, only who has it may ask."""

    def __init__(self, student: Student, queue: EngineQueue, answers: Callable[[str], bool], key: str = ""):
        self.student, self.queue, self.answers, self.key = student, queue, answers, key
        self.reader = ThreadPoolExecutor(1)
        self.most_characters = student.context * max(map(len, student.codec.tokenizer.get_vocab()))

    def app(self) -> web.Application:
        """The application, which feeds the queue."""
        app = application(LARGEST_BODY, self.guard)
        app.cleanup_ctx.append(self.feeding)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{name}", self.models),
                web.get("/health", self.health),
            ]
        )
        return app

    async def feeding(self, app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        yield
        task.cancel()

    @web.middleware
    async def guard(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Errors in OpenAI's shape; what is not the client's fault is logged with its cause."""
        try:
            check(request, self.answers, self.key if request.path.startswith("/v1/") else "")
            return await handler(request)
        except Refused as error:
            return _problem(error.status, str(error), error.param, error.code)
        except UserError as error:
            return _problem(400, str(error))
        except Full as error:
            return _problem(503, str(error), code="overloaded", headers={"Retry-After": str(error.wait_s)})
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in KEPT_HEADERS if name in error.headers}
            return _problem(error.status, error.text or "", code=str(error.status), headers=kept)
        except ConnectionResetError:  # the client is gone: nobody reads this
            return web.Response(status=499)
        except Exception:
            logging.exception("%s %s", request.method, request.path)
            return _problem(500, "the server failed; its log says why", code="server_error")

    def read(self, kind: type[Body], raw: bytes, charset: str | None) -> Question:
        """What a request asks. Raises Refused, UserError and HTTPException."""
        student = self.student
        body = read_body(kind, _checked(parsed(raw, charset), student.name))
        prompt = _rendered(body, student) if isinstance(body, ChatBody) else body.prompt
        if len(prompt) > self.most_characters:  # to count the tokens of a megabyte takes a second
            raise too_long(student.context, f"{len(prompt):,} characters")
        tokens = len(student.codec.prompts([prompt])[0])
        sampling = body.sampling(student.sampling, tokens, student.context)
        return Question(body, prompt, tokens, sampling, _grammar(body, student))

    async def answered(self, kind: type[Body], request: web.Request) -> tuple[Body, str, str, dict]:
        """(the body, what the student wrote, why it ended, the tokens used). Raises Full, and as `read`."""
        raw = await body_of(request)
        given = kind, raw, request.charset
        with self.queue.place():
            if len(raw) <= SHORT:
                asked = self.read(*given)
            else:  # one at a time, so that neither short ones nor the engine wait for them
                asked = await asyncio.get_running_loop().run_in_executor(self.reader, self.read, *given)
            body, seed = asked.body, asked.body.drawn_seed()
            answer = await self.queue.answer(
                asked.prompt, asked.prompt_tokens, asked.sampling, seed, asked.grammar
            )
        text, stopped = body.stopped(answer.text)
        return body, text, "stop" if stopped else answer.finish_reason, _usage(answer)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        student = self.student
        body, text, reason, usage = await self.answered(ChatBody, request)
        message = {"role": "assistant", "content": text, "refusal": None}
        if student.read is not None:
            tools = body.callable_tools()
            message["content"], function = student.read(text, body.request())
            if function and tools is not None and (not tools or function[0] in tools):
                message |= {"content": None, "tool_calls": [_tool_call(*function)]}
                reason = "tool_calls"
        head, logprobs = _head("chat.completion", student.name), {"logprobs": None}
        if not body.stream:
            choice = {"index": 0, "message": message, **logprobs, "finish_reason": reason}
            return web.json_response({**head, "choices": [choice], "usage": usage})
        delta = {key: value for key, value in message.items() if key != "refusal"}
        if "tool_calls" in delta:
            delta["tool_calls"] = [{"index": 0, **call} for call in delta["tool_calls"]]
        parts = [({"delta": delta}, None), ({"delta": {}}, reason)]
        events = [{"index": 0, **part, **logprobs, "finish_reason": end} for part, end in parts]
        return await _stream(request, {**head, "object": "chat.completion.chunk"}, events, body, usage)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body, text, reason, usage = await self.answered(CompletionBody, request)
        head = _head("text_completion", self.student.name)
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        if body.stream:
            return await _stream(request, head, [choice], body, usage)
        return web.json_response({**head, "choices": [choice], "usage": usage})

    async def models(self, request: web.Request) -> web.Response:
        student = self.student
        entry = {"id": student.name, "object": "model", "created": 0, "owned_by": "retort"}
        name = request.match_info.get("name")
        if name not in (None, student.name):
            raise _unknown_model(student.name)
        return web.json_response(entry if name else {"object": "list", "data": [entry]})

    async def health(self, request: web.Request) -> web.Response:
        one_token = self.student.sampling.model_copy(update={"max_new_tokens": 1})
        if not await self.queue.is_well(WARM_UP, one_token):
            return _problem(503, "the engine does not answer; the log says why", code="server_error")
        return web.json_response({"status": "ok"})


def _rendered(body: ChatBody, student: Student) -> str:
    """The prompt of a chat. Raises Refused, and UserError of the template."""
    asked = body.request()
    if body.callable_tools() is not None and student.read is None:
        raise Refused(f"the student of {student.name} has no skills, and calls no functions", "tools")
    return student.render(asked, body.title, body.metadata or {})


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


async def _stream(
    request: web.Request, head: dict, choices: list[dict], body: Body, usage: dict
) -> web.StreamResponse:
    """Server-sent events: the answer is whole by now, so its text is one of them."""
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    events = [{**head, "choices": [choice]} for choice in choices]
    if body.stream_options and body.stream_options.include_usage:
        events.append({**head, "choices": [], "usage": usage})
    for event in (*map(json.dumps, events), "[DONE]"):
        await response.write(f"data: {event}\n\n".encode())
    await response.write_eof()
    return response


def _checked(body: object, name: str) -> object:
    """`body`, if it is text and asks for the model of that name. Raises Refused."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # half a character, a lone surrogate, is one
        raise Refused(f"the body is not JSON: {error}") from None
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"] != name:
        raise _unknown_model(name)
    return body


def _unknown_model(name: str) -> Refused:
    return Refused(f"only the model '{name}' is served here", "model", "model_not_found", 404)


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

    The address is the first line of standard output, as JSON. Raises UserError where another process has
    begun to listen there.
    """
    host, port = address.getsockname()[:2]
    url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
    try:
        await listen(api.app(), address, json.dumps({"base_url": url}), GRACE_S)
    except OSError as error:
        raise unusable(host, port, error) from None
