"""JSON as its standard has it (RFC 8259): what Python's reader lets through beside it is an error here.

No NaN or infinity, no two fields of one name in an object, no half of a character. Nor what no program would
write: numbers of more digits than Python reads, and values that are nested so deep that no stage could write
them again.
"""

import json
import math
import re
from typing import Any

DEEPEST = 700  # levels, of the 1,000 calls that Python nests: later stages read and write a row, too
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how one of two halves of a character is written, or both
BLANKS = " \t\r\n"


class NotFinite(ValueError):
    """A number that is none."""


def _distinct(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(fields)
    if len(values) < len(fields):
        names = [name for name, _ in fields]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands there twice; rename or delete one")
    return values


def _refuse(constant: str) -> float:
    raise NotFinite(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)
LENIENT = json.JSONDecoder()


def parse_json(text: str) -> Any:
    """The one value of a text. Raises ValueError or RecursionError; `why_no_json` says which in words."""
    value, end = next_value(text, len(text) - len(text.lstrip(BLANKS)))
    if text[end:].strip(BLANKS):
        raise json.JSONDecodeError("text after the value", text, end)
    return value


def next_value(text: str, start: int) -> tuple[Any, int]:
    """(the value that begins at a place of a text, the place after it). Raises as `parse_json` does."""
    try:
        value, end = STRICT.raw_decode(text, start)
    except NotFinite as number:
        value, end = LENIENT.raw_decode(text, start)
        raise ValueError(f"{_where(value)}{number} is no number of JSON; write null instead") from None
    if HALF.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"holds {half!r}, half of a character; remove it") from None
    brackets = text.count("[", start, end) + text.count("{", start, end)
    if brackets > DEEPEST and _depth(value) > DEEPEST:
        raise RecursionError
    return value, end


def _where(value: Any) -> str:
    """The row and the field of a value that hold what is no number, as the beginning of a sentence."""
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1) if type(value) is list else ()
    for name, part in parts:
        try:
            json.dumps(part, allow_nan=False)
        except ValueError:
            return f"field {name!r}: " if isinstance(value, dict) else f"row {name}, {_where(part)}"
    return ""


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def why_no_json(error: ValueError | RecursionError) -> str:
    """What is wrong with a text, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    words = getattr(error, "msg", str(error))
    return "a number with too many digits" if words.startswith("Exceeds the limit") else words
