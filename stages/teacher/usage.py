"""How many tokens an answer took, by what its server says; servers differ in what they count as what."""

import json

PROMPT, COMPLETION, TOTAL = "prompt_tokens", "completion_tokens", "total_tokens"
CACHED, REASONING = "cached_tokens", "reasoning_tokens"  # parts of the first two
TOKENS = (PROMPT, COMPLETION, CACHED, REASONING)
DETAILS = {CACHED: "prompt_tokens_details", REASONING: "completion_tokens_details"}
MOST_TOKENS = 10**9  # of one request: a larger number is no count


def read_usage(usage: object) -> dict[str, int] | None:
    """The token counts of a body's `usage`; None where it has none, or where one of them cannot be.

    prompt_tokens includes cached_tokens, and completion_tokens reasoning_tokens, also where the server counts
    them beside each other. The parts are there only where the server tells them. Counts that this function
    returned stay as they are when it reads them again.
    """
    if not isinstance(usage, dict):
        return None
    told = {name: usage.get(name) for name in (*TOKENS, TOTAL)}
    for name, place in DETAILS.items():
        if isinstance(details := usage.get(place), dict):
            told[name] = details.get(name, told[name])
    try:
        counts = {name: _count(value) for name, value in told.items() if value is not None}
        prompt = _including(counts.get(CACHED, 0), counts[PROMPT])
        completion = _including(counts.get(REASONING, 0), counts[COMPLETION])
    except (KeyError, ValueError):
        return None
    completion = max(completion, counts.pop(TOTAL, 0) - prompt)  # reasoning may stand in the total only
    # No request is without tokens: zeros come from servers that count nothing.
    return {**counts, PROMPT: prompt, COMPLETION: completion} if prompt else None


def _count(value: object) -> int:
    """A whole number of tokens, such as 100 or 100.0. Raises ValueError for what is no count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        raise ValueError
    if value != int(value):
        raise ValueError
    return int(value)


def _including(part: int, whole: int) -> int:
    """The whole with its part: where that is the larger one, the server counts it beside the other."""
    return whole if part <= whole else whole + part


def usage_in(raw: str | bytes | None) -> dict[str, int] | None:
    """`read_usage` of a whole body as it came. Never raises."""
    try:
        body = json.loads(raw or "")
        return read_usage(body["usage"])
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
