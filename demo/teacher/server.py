r"""The embedded teacher: a stand-in for an LLM behind a real local HTTP server (OpenAI's chat protocol).

It follows rules (`demo.teacher.queries`) and is no language model: it is there so that everything can be
tried and tested with no key and no network. Token counts in `usage` are counts of words. Its answers are the
same at any temperature and seed, and tell no probabilities. By hand:

    python -m demo.teacher.server --port 8000
    curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "embedded", "messages": [{"role": "user", "content": "..."}]}'
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable

import click

from stages.core.hashing import sha256_json
from stages.core.text import clip_words

MODEL = "embedded"  # every name that begins so is served: `embedded-2` after the rules have changed
MOST_CHOICES = 128
# The function to call, or None, and what makes of lines the JSON that was asked for.
Shape = tuple[str | None, Callable[[str], dict]]


def complete(body: dict, answer: Callable[[list[dict]], str]) -> dict:
    """The chat completion for a request body. Raises ValueError for a body that it cannot serve."""
    model, messages, count = body.get("model"), body.get("messages"), body.get("n", 1)
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ValueError("'messages' must be a list of at least one message")
    if not isinstance(messages[-1].get("content"), str):
        raise ValueError("the last message must have a text as its content")
    if body.get("stream"):
        raise ValueError("the embedded teacher does not stream")
    if not isinstance(count, int) or not 1 <= count <= MOST_CHOICES:
        raise ValueError(f"'n' must be a whole number from 1 to {MOST_CHOICES}")
    text, shape = answer(messages), _shape(body)
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    choices = [_choice(place, _variant(text, place), shape, limit) for place in range(count)]
    read = sum(len(str(message.get("content")).split()) for message in messages)
    written = sum(words for _, words in choices)
    return {
        "id": f"chatcmpl-{sha256_json(body)[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "system_fingerprint": "rules",
        "choices": [choice for choice, _ in choices],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _variant(text: str, place: int) -> str:
    """Rules answer but in one way: the later choices begin at another line, and in time end earlier."""
    if place == 0:
        return text
    lines = text.splitlines() or [""]
    rounds, start = divmod(place, len(lines))
    return "\n".join([*lines[start:], *lines[:start]][: max(1, len(lines) - rounds)])


def _choice(place: int, text: str, shape: Shape | None, limit: int | None) -> tuple[dict, int]:
    """(a choice of the answer, its words): the text itself, or JSON that holds its lines."""
    function, filled = shape or (None, None)
    if filled:
        text = json.dumps(filled(text), ensure_ascii=False)
    cut = clip_words(text, limit) if limit else text
    words = len(cut.split())
    message = {"role": "assistant", "content": None if function else cut, "refusal": None}
    if function:
        called = {"name": function, "arguments": cut}
        message["tool_calls"] = [{"id": f"call_{place}", "type": "function", "function": called}]
    whole = words == len(text.split())
    reason = ("tool_calls" if function else "stop") if whole else "length"
    return {"index": place, "message": message, "logprobs": None, "finish_reason": reason}, words


def _shape(body: dict) -> Shape | None:
    """What structure a body asks for, if any. Raises ValueError where it is none that lines can fill."""
    wanted, tools = body.get("response_format") or {"type": "text"}, body.get("tools")
    try:
        if tools:
            (tool,) = tools
            return tool["function"]["name"], _filler(tool["function"]["parameters"])
        if wanted["type"] == "text":
            return None
        return None, _filler(wanted["json_schema"]["schema"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(
            "the embedded teacher can only fill a json_schema, or call the one tool, "
            "whose single property is an array of strings, of objects of two strings, "
            "or of objects of a string and an array of strings"
        ) from None


def _filler(schema: dict) -> Callable[[str], dict]:
    ((field, kind),) = schema["properties"].items()
    item = kind["items"]
    if "$ref" in item:
        item = schema["$defs"][item["$ref"].rpartition("/")[2]]
    if (kind["type"], item["type"]) == ("array", "string"):
        return lambda text: {field: text.splitlines()}
    (name, text_kind), (below, list_kind) = item["properties"].items()
    if (kind["type"], text_kind["type"], list_kind["type"]) == ("array", "string", "string"):
        return lambda text: {
            field: [
                dict(zip((name, below), line.split("\t"), strict=True))
                for line in text.splitlines()
                if line.count("\t") == 1
            ]
        }
    if (kind["type"], text_kind["type"], list_kind["items"]["type"]) != ("array", "string", "string"):
        raise ValueError(field)
    return lambda text: {field: _two_levels(text, name, below)}


def _two_levels(text: str, name: str, below: str) -> list[dict]:
    """Lines after the last heading as objects, those after a tab in the list of the one above."""
    rows: list[dict] = []
    for line in re.split(r"(?m)^#.*$", text)[-1].strip().splitlines():
        if line.startswith("\t") and rows:
            rows[-1][below].append(line.strip())
        else:
            rows.append({name: line.strip(), below: []})
    return rows


def make_app(answer: Callable[[list[dict]], str]):
    """An aiohttp application with `POST /v1/chat/completions` and `GET /v1/models`."""
    from aiohttp import web

    def problem(status: int, message: str, code: str) -> web.Response:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return web.json_response({"error": error}, status=status)

    async def chat(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            if not str(body.get("model", "")).startswith(MODEL):
                return problem(404, f"only models named '{MODEL}...' are served here", "model_not_found")
            return web.json_response(complete(body, answer))
        except (ValueError, AttributeError) as error:
            return problem(400, str(error), "invalid_value")

    async def models(request: web.Request) -> web.Response:
        entry = {"id": MODEL, "object": "model", "created": 0, "owned_by": "rules"}
        return web.json_response({"object": "list", "data": [entry]})

    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/v1/models", models)])
    return app


async def serve(app, port: int, until_eof: bool) -> None:
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    port = runner.addresses[0][1]
    print(json.dumps({"base_url": f"http://127.0.0.1:{port}/v1"}), flush=True)
    if until_eof:
        await asyncio.to_thread(sys.stdin.read)
    else:
        await asyncio.Event().wait()
    await runner.cleanup()


@click.command(help=__doc__)
@click.option("--port", default=8000, help="0 takes a free one.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
def main(port: int, until_eof: bool) -> None:
    from demo.teacher.queries import answer

    try:
        asyncio.run(serve(make_app(answer), port, until_eof))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}") from None


if __name__ == "__main__":
    main()
