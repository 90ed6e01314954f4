"""What came of a request: a pure function of the stored body, so that a better reader costs no calls."""

import json
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from stages.core.records import RequestContent
from stages.teacher.identity import choices_of
from stages.teacher.structured import problem_with
from stages.teacher.usage import read_usage

OUTCOMES = ("ok", "length", "refusal", "content_filter", "blank", "invalid", "error")
IMPORTED = "retort.imported"
# Reasons to finish, by the names that servers give them; any other, such as "error" or "abort", is a failure.
ENDED = ("stop", "tool_calls", "function_call", "eos", "eos_token", "stop_sequence", "end_turn")
CUT = ("length", "model_length", "max_tokens")


@dataclass(frozen=True)
class Answer:
    """One choice of an answer.

    `response` is the text: the content, or for tool calls the JSON list of {"name", "arguments"}. `problem`
    says why an outcome is `invalid`. `usage` is that of the whole request, all its choices together:
    prompt_tokens, completion_tokens, and cached_tokens and reasoning_tokens where the server tells them.
    `logprob` is the mean over the tokens, where it was asked for.
    """

    outcome: str
    response: str | None = None
    problem: str | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    logprob: float | None = None


def read_answers(raw: str, request: RequestContent) -> list[Answer] | None:
    """One Answer for each choice that `request` asks for; None where the body is no chat completion.

    ok: an answer that ended by itself, and where the request has a schema or tools, that obeys them. length:
    cut at the limit on tokens. refusal: the model declined in the field made for it. content_filter: stopped
    by the provider. blank: only white space. invalid: a choice that is missing, is no text (parts, broken
    unicode), or breaks its schema. A body that is no completion, such as a proxy's page, is not an answer,
    and the request is sent again.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    wanted = choices_of(request)
    if body.get("object") == IMPORTED:
        return _imported(body, wanted)
    if message := filtered(body):
        return [Answer("content_filter", problem=message)] * wanted
    choices = body.get("choices")
    if not isinstance(choices, list):
        return None
    common: dict[str, Any] = {
        "usage": read_usage(body.get("usage")),
        "model": _text_or_none(body.get("model")),
        "system_fingerprint": _text_or_none(body.get("system_fingerprint")),
    }
    answers = [Answer(*_choice(choice, request), **common, logprob=_logprob(choice)) for choice in choices]
    missing = Answer("invalid", problem=f"{len(choices)} of {wanted} choices came", **common)
    return (answers + [missing] * wanted)[:wanted]


def is_filtered(raw: str) -> bool:
    """Is the body of an HTTP error that answers the request for good: see `filtered`."""
    try:
        return filtered(json.loads(raw)) is not None
    except (ValueError, RecursionError):
        return False


def filtered(body: object) -> str | None:
    """The message of a body by which Azure says, with status 400, that its filter stopped the prompt."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or error.get("code") != "content_filter":
        return None
    return sound(error.get("message"))


def sound(value: object) -> str:
    """Text that UTF-8 can hold: JSON and headers can smuggle in half of a surrogate pair."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def imported(rows: list[dict[str, Any]]) -> str:
    """The stored body for rows of a `responses.jsonl` whose original body is not on this machine.

    `rows` are those of one request, one for each of its choices.
    """
    names = Answer.__dataclass_fields__
    choices = {str(row.get("choice", 0)): {name: row.get(name) for name in names} for row in rows}
    return json.dumps({"object": IMPORTED, "choices": choices})


def _imported(body: dict[str, Any], wanted: int) -> list[Answer]:
    choices = body.get("choices") or {"0": body}  # the first stores held one answer without choices
    names = Answer.__dataclass_fields__
    known = {int(place): Answer(**{n: choice.get(n) for n in names}) for place, choice in choices.items()}
    missing = Answer("invalid", problem=f"{len(known)} of {wanted} choices were imported")
    return [known.get(place, missing) for place in range(wanted)]


def row_of(answer: Answer) -> dict[str, Any]:
    """The answer's fields for a row of `responses.jsonl`; the optional ones only where they are known."""
    fields = asdict(answer)
    optional = ("problem", "system_fingerprint", "logprob")
    return {name: value for name, value in fields.items() if name not in optional or value is not None}


def _choice(choice: object, request: RequestContent) -> tuple[str, str | None, str | None]:
    """(outcome, text, problem) of one choice."""
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        return "invalid", None, "a choice without a message"
    reason, text = choice.get("finish_reason"), message.get("content")
    if message.get("tool_calls"):
        text = _calls(message["tool_calls"])
    if message.get("refusal"):
        text, outcome = message["refusal"], "refusal"
    elif reason == "content_filter":
        outcome = "content_filter"
    elif reason in CUT:
        outcome = "length"
    elif (text is None and not message.get("tool_calls")) or (isinstance(text, str) and not text.strip()):
        outcome = "blank"
    elif reason is not None and reason not in ENDED:
        return "invalid", text if _is_text(text) else None, f"finish_reason is {sound(reason)[:80]!r}"
    else:
        outcome = "ok"
    if not _is_text(text):
        return ("invalid", None, "the content is not text") if outcome == "ok" else (outcome, None, None)
    problem = problem_with(message, text, request) if outcome == "ok" else None
    return ("invalid" if problem else outcome), text, problem


def _calls(calls: object) -> str | None:
    """Tool calls as JSON text: arguments as an object where they are JSON, else as the text that came."""
    calls_as_text = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return None
        try:
            arguments = json.loads(function["arguments"])
        except (KeyError, TypeError, ValueError, RecursionError):
            arguments = function.get("arguments")
        calls_as_text.append({"name": function.get("name"), "arguments": arguments})
    return json.dumps(calls_as_text, ensure_ascii=False)


def _is_text(text: object) -> TypeGuard[str]:
    """A string that UTF-8 can hold."""
    try:
        return isinstance(text, str) and text.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _text_or_none(value: object) -> str | None:
    return value if _is_text(value) else None


def _logprob(choice: Any) -> float | None:
    try:
        values = [token["logprob"] for token in choice["logprobs"]["content"]]
        return round(sum(values) / len(values), 6)
    except (KeyError, TypeError, ZeroDivisionError):
        return None
