"""An OpenAI-compatible HTTP server for one exported student, on the engines of this project.

`GET /v1/models`, `POST /v1/chat/completions` and `/v1/completions`, `GET /health`. A chat request goes
through the student's own prompt template; a completion gives the prompt itself. How prompts are rendered and
answers are read is passed in.
"""

import asyncio
import json
import logging
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.protocol import Decoding, Generation
from stages.engines.serve.bodies import Body, ChatBody, CompletionBody, Refused, read_body
from stages.engines.serve.queue import EngineQueue
from stages.engines.serve.student import Reading

GRACE_S = 10  # what requests in flight have to end in, after SIGTERM
LARGEST_BODY = 4 * 2**20  # bytes


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


def make_app(student: Student, queue: EngineQueue) -> web.Application:
    """The application; requests wait in `queue`, which somebody has to run."""

    async def answered(body: Body, prompt: str, ids: list[int]) -> tuple[str, str, dict]:
        """(what the student wrote, why it ended, the tokens used)."""
        sampling = body.sampling(student.sampling, len(ids), student.context)
        answer = await queue.answer(prompt, sampling, body.drawn_seed(), _grammar(body, student))
        text, stopped = body.stopped(answer.text)
        return text, "stop" if stopped else answer.finish_reason, _usage(answer)

    async def chat(request: web.Request) -> web.StreamResponse:
        body = read_body(ChatBody, await _json(request, student.name))
        asked, tools = body.request(), body.callable_tools()
        if tools is not None and student.read is None:
            raise Refused(f"the student of {student.name} has no skills, and calls no functions", "tools")
        prompt = student.render(asked, body.title, body.metadata or {})
        text, reason, usage = await answered(body, prompt, student.codec.prompts([prompt])[0])
        message = {"role": "assistant", "content": text, "refusal": None}
        if student.read is not None:
            message["content"], function = student.read(text, asked)
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

    async def completions(request: web.Request) -> web.StreamResponse:
        body = read_body(CompletionBody, await _json(request, student.name))
        text, reason, usage = await answered(body, body.prompt, student.codec.prompts([body.prompt])[0])
        head = _head("text_completion", student.name)
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        if body.stream:
            return await _stream(request, head, [choice], body, usage)
        return web.json_response({**head, "choices": [choice], "usage": usage})

    async def models(request: web.Request) -> web.Response:
        entry = {"id": student.name, "object": "model", "created": 0, "owned_by": "retort"}
        name = request.match_info.get("name")
        if name not in (None, student.name):
            raise _unknown_model(student.name)
        return web.json_response(entry if name else {"object": "list", "data": [entry]})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application(middlewares=[_problems], client_max_size=LARGEST_BODY)
    app.add_routes(
        [
            web.post("/v1/chat/completions", chat),
            web.post("/v1/completions", completions),
            web.get("/v1/models", models),
            web.get("/v1/models/{name}", models),
            web.get("/health", health),
        ]
    )
    return app


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


async def _json(request: web.Request, name: str) -> object:
    try:
        body = await request.json()
        json.dumps(body, ensure_ascii=False).encode()  # half a character (a lone surrogate) is an error, too
    except (ValueError, LookupError, RecursionError, web.RequestPayloadError) as error:
        raise Refused(f"the body is not JSON: {error}") from None
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"] != name:
        raise _unknown_model(name)
    return body


def _unknown_model(name: str) -> Refused:
    return Refused(f"only the model '{name}' is served here", "model", "model_not_found", 404)


@web.middleware
async def _problems(request: web.Request, handler: Callable) -> web.StreamResponse:
    """Errors in OpenAI's shape; what is not the client's fault is logged with its cause."""
    try:
        return await handler(request)
    except Refused as error:
        return _problem(error.status, str(error), error.param, error.code)
    except UserError as error:
        return _problem(400, str(error))
    except web.HTTPException as error:
        return _problem(error.status, error.reason, code=str(error.status))
    except Exception:
        logging.exception("%s %s", request.method, request.path)
        return _problem(500, "the server failed; its log says why", code="server_error")


def _problem(status: int, message: str, param: str | None = None, code: str = "invalid_value"):
    form = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": form, "param": param, "code": code}
    return web.json_response({"error": error}, status=status)


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


async def serve(student: Student, queue: EngineQueue, address: socket.socket) -> None:
    """Listen until SIGTERM or SIGINT, then let requests in flight end.

    The address is the first line of standard output, as JSON. Raises UserError where another process has
    begun to listen there.
    """
    runner = web.AppRunner(
        make_app(student, queue), access_log=None, handler_cancellation=True, shutdown_timeout=GRACE_S
    )
    await runner.setup()
    host, port = address.getsockname()[:2]
    try:
        await web.SockSite(runner, address).start()
    except OSError as error:
        raise unusable(host, port, error) from None
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    feeding = asyncio.create_task(queue.run())
    host = f"[{host}]" if ":" in host else host
    print(json.dumps({"base_url": f"http://{host}:{port}/v1"}), flush=True)
    await ended.wait()
    await runner.cleanup()
    feeding.cancel()
