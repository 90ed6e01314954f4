"""A teacher request: its body, and what makes two of them the same request.

Paid answers are found by these keys, so a change to any of them would ask, and pay, for everything again.
"""

import json
from collections.abc import Mapping
from typing import Any

from stages.core.hashing import sha256_json
from stages.core.records import Request, RequestContent

FAMILY = "openai/chat.completions"
LIMITS = ("max_tokens", "max_completion_tokens")  # the old and the new name of the same parameter


def key_of(request: RequestContent) -> str:
    """sha256 of everything that can change an answer, and of nothing else.

    The protocol counts, not the host: the same model behind another address is asked only once. How a request
    is sent (concurrency, timeout, retries, online or in a batch) does not count. Models must differ in name
    where they differ in answers.
    """
    return _key(request, request["params"])


def question_key(request: RequestContent) -> str:
    """The request's key without its limit on tokens: an answer that ended before a limit suits any larger."""
    return _key(request, {name: value for name, value in request["params"].items() if name not in LIMITS})


def _key(request: RequestContent, params: dict[str, Any]) -> str:
    return sha256_json(
        {
            "family": FAMILY,
            "model": request["model"],
            "messages": request["messages"],
            "params": params,
            "sample": request.get("sample", 0),
            "tools": request.get("tools"),
            "schema": request.get("response_format"),
        }
    )


def body_of(request: RequestContent) -> dict[str, Any]:
    """The JSON body to send."""
    fields: Mapping[str, Any] = request
    structure = {name: fields[name] for name in ("response_format", "tools") if fields.get(name)}
    return {"model": request["model"], "messages": request["messages"], **request["params"], **structure}


def texts_of(request: RequestContent) -> list[str]:
    """What each message says, parts other than plain text as JSON."""
    contents = (message.get("content") or "" for message in request["messages"])
    return [content if isinstance(content, str) else json.dumps(content) for content in contents]


def choices_of(request: RequestContent) -> int:
    """How many answers one request asks for."""
    return request["params"].get("n", 1)


def limit_of(request: RequestContent) -> int | None:
    """The most tokens of one choice; None where the request sets no limit."""
    return next((request["params"][name] for name in LIMITS if name in request["params"]), None)


def most_output(request: RequestContent) -> int:
    """The most tokens of all choices together; 0 where the request sets no limit."""
    return choices_of(request) * (limit_of(request) or 0)


def with_limit(request: Request, limit: int) -> Request:
    """The same question with another limit on tokens."""
    name = next((name for name in LIMITS if name in request["params"]), LIMITS[0])
    return rekeyed({**request, "params": {**request["params"], name: limit}})


def rekeyed(request: Request) -> Request:
    """A request whose content was changed, under the key that it has now."""
    return {**request, "request_key": key_of(request)}
