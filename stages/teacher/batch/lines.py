"""The lines of the files that go to a Batch API and come from it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from stages.core.hashing import canonical_json
from stages.core.records import KeyedRequest
from stages.core.servers import MOST_BYTES
from stages.teacher.endpoint import Endpoint, Failure, error_in, judge_reply, short
from stages.teacher.identity import body_of
from stages.teacher.outcomes import filtered, sound
from stages.teacher.store.costs import MISSING

PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True)
class Result:
    """What a batch brought for one request.

    `status` is that of HTTP, None where the request was not executed; `raw` is the body of a 200,
    `error` is what came instead: {"code", "message"}.
    """

    key: str
    status: int | None = None
    raw: str | None = None
    request_id: str | None = None
    error: dict[str, Any] = field(default_factory=dict)


def input_line(request: KeyedRequest) -> bytes:
    """The line of a batch's input file for a request."""
    line = {"custom_id": request["request_key"], "method": "POST", "url": PATH, "body": body_of(request)}
    return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"


def read_results(paths: Iterable[Path], keys: Iterable[str], odd: Counter[str]) -> Iterator[Result]:
    """One Result for each of `keys`, the missing ones last. A line belongs to the request of its custom_id.

    Lines that are torn, repeated (the first one counts) or of no request among `keys` are counted in `odd`.
    """
    known = set(keys)
    left = set(known)
    for path in paths:
        with open(path, "rb") as stream:
            for line in iter(partial(stream.readline, MOST_BYTES), b""):  # a longer one is torn
                result = _result(line)
                if result is not None and result.key in left:
                    left.discard(result.key)
                    yield result
                elif line.strip():
                    odd["torn" if result is None else "repeated" if result.key in known else "unknown"] += 1
    odd["missing"] += len(left)
    for key in sorted(left):
        yield Result(key, error={"code": MISSING, "message": "the provider returned no line for it"})


def _result(text: bytes) -> Result | None:
    """None for what is no line of a result."""
    line = object_in(text)
    if not isinstance(line.get("custom_id"), str):
        return None
    key, response = line["custom_id"], _dict(line.get("response"))
    status, body, request_id = response.get("status_code"), response.get("body"), response.get("request_id")
    if not isinstance(status, int) or not 100 <= status < 600:
        return Result(key, error=_dict(line.get("error")))
    request_id = sound(request_id) if isinstance(request_id, str) else None
    if status != 200 and filtered(body) is None:
        error = _dict(_dict(body).get("error")) or _dict(line.get("error"))
        return Result(key, status, request_id=request_id, error=error)
    # A lone surrogate has no UTF-8, but its escape is the same JSON.
    raw = sound(canonical_json(body))
    told = error_in(raw)
    if status == 200 and told.status and filtered(body) is None:  # an error in spite of its status
        error = {"code": told.code, "message": told.message}
        return Result(key, told.status, request_id=request_id, error=error)
    return Result(key, status, raw, request_id)


def object_in(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is; {} where it is none."""
    try:
        return _dict(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def judge_result(result: Result, endpoint: Endpoint, model: str) -> Failure:
    """What a result that is no answer means for its request and for the run.

    Where no HTTP status tells, the error's code may: `invalid_api_key` stops a run as 401 does.
    """
    text = json.dumps(
        {"error": {**result.error, "message": result.error.get("message") or "no reason given"}}
    )
    error = error_in(text)
    if status := result.status or error.status:
        return judge_reply(endpoint, model, status=status, text=text)
    code = error.code or "no answer"
    told = f"{endpoint.base_url}, in a batch: {code}: {short(error.message, endpoint)}"
    return Failure(code, told, retry=True)
