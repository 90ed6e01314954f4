"""A teacher request: its body, and what makes two of them the same request.

A request is a row of `requests.jsonl`: `model`, `messages`, `params` (sampling parameters as sent), `sample`,
and where the task wants structure `response_format` or `tools`.
"""

import json

from stages.core.hashing import sha256_json

FAMILY = "openai/chat.completions"
LIMITS = ("max_tokens", "max_completion_tokens")  # the old and the new name of the same parameter


def request_key(
    model: str,
    messages: list[dict],
    params: dict,
    sample: int = 0,
    tools: list | None = None,
    schema: dict | None = None,
    family: str = FAMILY,
) -> str:
    """sha256 of everything that can change an answer, and of nothing else.

    `family` is the protocol, not the host: the same model behind another address is asked only once. How a
    request is sent (concurrency, timeout, retries, online or in a batch) does not count. `params` are the
    sampling parameters as sent. Models must differ in name where they differ in answers.
    """
    return sha256_json(
        {
            "family": family,
            "model": model,
            "messages": messages,
            "params": params,
            "sample": sample,
            "tools": tools,
            "schema": schema,
        }
    )


def key_of(request: dict) -> str:
    """The request's key."""
    return _key(request, request["params"])


def question_key(request: dict) -> str:
    """The request's key without its limit on tokens: an answer that ended before a limit suits any larger."""
    return _key(request, {name: value for name, value in request["params"].items() if name not in LIMITS})


def _key(request: dict, params: dict) -> str:
    return request_key(
        request["model"],
        request["messages"],
        params,
        request.get("sample", 0),
        request.get("tools"),
        request.get("response_format"),
    )


def body_of(request: dict) -> dict:
    """The JSON body to send."""
    body = {"model": request["model"], "messages": request["messages"], **request["params"]}
    return body | {name: request[name] for name in ("response_format", "tools") if request.get(name)}


def texts_of(request: dict) -> list[str]:
    """What each message says, parts other than plain text as JSON."""
    contents = (message.get("content") or "" for message in request["messages"])
    return [content if isinstance(content, str) else json.dumps(content) for content in contents]


def choices_of(request: dict) -> int:
    return request["params"].get("n", 1)


def limit_of(request: dict) -> int | None:
    """The most tokens of one choice; None where the request sets no limit."""
    return next((request["params"][name] for name in LIMITS if name in request["params"]), None)


def with_limit(request: dict, limit: int) -> dict:
    """The same question with another limit on tokens."""
    name = next((name for name in LIMITS if name in request["params"]), LIMITS[0])
    changed = {**request, "params": {**request["params"], name: limit}}
    return {**changed, "request_key": key_of(changed)}
