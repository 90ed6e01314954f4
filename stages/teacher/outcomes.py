"""What came of a request: a pure function of the stored body, so that a better reader costs no calls."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from math import isfinite
from typing import Any, Literal, TypeGuard, get_args

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from stages.core.records import RequestContent
from stages.teacher.identity import choices_of
from stages.teacher.structured import held_to
from stages.teacher.thoughts import without_thoughts
from stages.teacher.usage import read_usage

Outcome = Literal["ok", "length", "refusal", "content_filter", "blank", "invalid", "error"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
IMPORTED = "retort.imported"
# Reasons to finish, by the names that servers give them; any other, such as "error" or "abort", is a failure.
ENDED = ("stop", "tool_calls", "function_call", "eos", "eos_token", "stop_sequence", "end_turn")
CUT = ("length", "model_length", "max_tokens")


# Strict: what a server, or a file that is taken over, may hold in place of a text or a number is refused.
@dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Answer:
    """One choice of an answer. Raises ValueError where a field is of another type.

    `response` is the text: the content, or for tool calls the JSON list of {"name", "arguments"}. `problem`
    says why an outcome is `invalid`. `usage` is that of the whole request, all its choices together:
    prompt_tokens, completion_tokens, and cached_tokens and reasoning_tokens where the server tells them.
    `logprob` is the mean over the tokens, where it was asked for. `thoughts_removed`: the model's thoughts
    stood in the text.
    """

    outcome: Outcome
    response: str | None = None
    problem: str | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    logprob: float | None = None
    thoughts_removed: bool | None = None


FIELDS = tuple(field.name for field in fields(Answer))


def read_answers(raw: str, request: RequestContent, taken_over: bool = False) -> list[Answer] | None:
    """One Answer for each choice that `request` asks for; None where the body is no chat completion.

    ok: an answer that ended by itself, and where the request has a schema or tools, that obeys them. length:
    cut at the limit on tokens. refusal: the model declined in the field made for it. content_filter: stopped
    by the provider. blank: only white space, or only thoughts. invalid: a choice that is missing, is no text
    (parts, broken unicode), or breaks its schema. A body that is no completion, such as a proxy's page, is
    not an answer, and the request is sent again. The form of `imported` is believed only where the body was
    `taken_over`. Never raises, whatever a server may have sent: a body is stored for ever before it is read.
    """
    try:
        body = json.loads(raw)
        return _answers(body, request, taken_over) if isinstance(body, dict) else None
    except (ValueError, RecursionError):  # what nests too deeply shows here or there, as the stack allows
        return None


def _answers(body: dict[str, Any], request: RequestContent, taken_over: bool) -> list[Answer] | None:
    wanted = choices_of(request)
    if taken_over and body.get("object") == IMPORTED:
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
    answers = [Answer(**_choice(choice, request), **common) for choice in choices[:wanted]]
    missing = Answer("invalid", problem=f"{len(choices)} of {wanted} choices came", **common)
    return answers + [missing] * (wanted - len(answers))


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
    choices = {str(row.get("choice", 0)): {name: row.get(name) for name in FIELDS} for row in rows}
    return json.dumps({"object": IMPORTED, "choices": choices})


def _imported(body: dict[str, Any], wanted: int) -> list[Answer]:
    choices = body.get("choices") or {"0": body}  # the first stores held one answer without choices
    rows = choices if isinstance(choices, dict) else {}
    missing = {"outcome": "invalid", "problem": f"{len(rows)} of {wanted} choices were imported"}
    return [_believed(rows.get(str(place), missing)) for place in range(wanted)]


def _believed(row: Any) -> Answer:
    try:
        return answer_in(row)
    except (AttributeError, ValueError):
        return Answer("invalid", problem="what was taken over is no row of responses.jsonl")


def answer_in(row: Mapping[str, Any]) -> Answer:
    """The answer in a row of `responses.jsonl`. Raises ValueError where a field is not what it should be."""
    told: dict[str, Any] = {name: row.get(name) for name in FIELDS}
    answer = Answer(**told | {"usage": read_usage(told["usage"])})
    said = without_thoughts(answer.response or "")
    if answer.outcome not in ("ok", "length") or said == (answer.response or ""):
        return answer
    outcome: Outcome = "blank" if answer.outcome == "ok" and not said.strip() else answer.outcome
    return replace(answer, outcome=outcome, response=said, problem=_problem_of(said), thoughts_removed=True)


def _problem_of(said: str) -> str | None:
    """What is wrong with a text that thoughts were taken from."""
    return None if said.strip() else "nothing but thoughts"


def row_of(answer: Answer) -> dict[str, Any]:
    """The answer's fields for a row of `responses.jsonl`; the optional ones only where they are known."""
    optional = ("problem", "system_fingerprint", "logprob", "thoughts_removed")
    return {
        name: value for name, value in asdict(answer).items() if name not in optional or value is not None
    }


def _choice(choice: object, request: RequestContent) -> dict[str, Any]:
    """The fields of an answer that stand in its choice."""
    if not isinstance(choice, dict) or not isinstance(message := choice.get("message"), dict):
        return {"outcome": "invalid", "problem": "a choice without a message"}
    reason, calls, refusal = choice.get("finish_reason"), message.get("tool_calls"), message.get("refusal")
    text: Any = refusal or message.get("content")
    told: dict[str, Any] = {"logprob": _logprob(choice)}
    if calls and not refusal:
        text = _calls(calls)
    elif _is_text(text) and (said := without_thoughts(text)) != text:
        text, told = said, {**told, "problem": _problem_of(said), "thoughts_removed": True}
    if refusal:
        outcome = "refusal"
    elif reason == "content_filter":
        outcome = "content_filter"
    elif reason in CUT:
        outcome = "length"
    elif (text is None and not calls) or (isinstance(text, str) and not text.strip()):
        outcome = "blank"
    elif reason is not None and reason not in ENDED:
        why = f"finish_reason is {sound(reason)[:80]!r}"
        return {**told, "outcome": "invalid", "response": _text_or_none(text), "problem": why}
    else:
        outcome = "ok"
    if not _is_text(text):
        odd = {"outcome": "invalid", "problem": "the content is not text"}
        return {**told, "outcome": outcome} | (odd if outcome == "ok" else {})
    if outcome == "ok":
        text, problem = held_to(message, text, request)
        if problem:
            outcome, told["problem"] = "invalid", problem
    return {**told, "outcome": outcome, "response": text}


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
        mean = round(sum(values) / len(values), 6)
    except (KeyError, TypeError, ZeroDivisionError, OverflowError):
        return None
    return mean if isfinite(mean) else None
