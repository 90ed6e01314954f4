"""What came of a request: a pure function of the stored body, so that a better reader costs no calls."""

import json
from dataclasses import dataclass

OUTCOMES = ("ok", "length", "refusal", "content_filter", "blank", "invalid", "error")
ACCEPTED = ("ok",)
IMPORTED = "retort.imported"


@dataclass(frozen=True)
class Answer:
    """`response` is the raw text or None; `usage` is {prompt_tokens, completion_tokens} or None."""

    outcome: str
    response: str | None = None
    usage: dict | None = None
    model: str | None = None


def read_answer(raw: str) -> Answer:
    """Classify the body of an answer.

    ok: text that ended by itself. length: cut at max_tokens. refusal: the model declined in the field made
    for it. content_filter: stopped by the provider. blank: only white space. invalid: a completion without
    usable text (no choice, parts instead of text, a tool call, broken unicode). error: not a chat completion
    at all, such as a proxy's page; this one is not an answer, and the request is sent again.
    """
    try:
        body = json.loads(raw)
    except ValueError:
        return Answer("error")
    if not isinstance(body, dict):
        return Answer("error")
    if body.get("object") == IMPORTED:
        return Answer(body["outcome"], body["response"], body["usage"], body["model"])
    choices = body.get("choices")
    if not isinstance(choices, list):
        return Answer("error")
    model = body["model"] if isinstance(body.get("model"), str) else None
    return Answer(*_choice(choices[0] if choices else None), _usage(body.get("usage")), model)


def imported(row: dict) -> str:
    """The stored body for a row of a `responses.jsonl` whose original body is not on this machine."""
    return json.dumps({"object": IMPORTED, **{k: row[k] for k in ("outcome", "response", "usage", "model")}})


def _choice(choice) -> tuple[str, str | None]:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return "invalid", None
    text, reason = message.get("content"), choice.get("finish_reason")
    if message.get("refusal"):
        text, outcome = message["refusal"], "refusal"
    elif reason == "content_filter":
        outcome = "content_filter"
    elif reason == "length":
        outcome = "length"
    elif text is None and not message.get("tool_calls") or isinstance(text, str) and not text.strip():
        outcome = "blank"
    else:
        outcome = "ok"
    if not _is_text(text):
        return ("invalid" if outcome == "ok" else outcome), None
    return outcome, text


def _is_text(text) -> bool:
    """A string that UTF-8 can hold: JSON can smuggle in half of a surrogate pair."""
    try:
        return isinstance(text, str) and text.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _usage(usage) -> dict | None:
    names = ("prompt_tokens", "completion_tokens")
    if not isinstance(usage, dict) or not all(isinstance(usage.get(name), int) for name in names):
        return None
    return {name: usage[name] for name in names}
