"""Function calls as text, such as `weather(location="Berlin")`: keyword arguments only."""

import ast
import json
import math
import re
from typing import NamedTuple

from stages.core.text import in_word

Value = str | int | float | bool
BOUND = 10**300  # of integers: much larger ones are no floats, and Python does not write them
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair: a text with one cannot be encoded


class Call(NamedTuple):
    """A call; its arguments are in the order in which they were written."""

    name: str
    arguments: dict[str, Value]


def parse_call(text: str) -> Call:
    """The one call in a text. Raises ValueError, which says what is wrong, for anything else.

    Python's literals and JSON's `true` and `false` are values; positional arguments, names, lists and
    expressions are not.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ValueError(f"not a call: {getattr(error, 'msg', None) or error}") from None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError('not a call such as name(key="value")')
    if node.args:
        raise ValueError("an argument without its name")
    arguments: dict[str, Value] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** is no argument")
        if keyword.arg in arguments:
            raise ValueError(f"{keyword.arg} is given twice")
        arguments[keyword.arg] = _value(keyword.value, keyword.arg)
    return Call(node.func.id, arguments)


def call_or_none(text: str) -> Call | None:
    """The one call in a text; None for anything else."""
    try:
        return parse_call(text)
    except ValueError:
        return None


def write_call(call: Call) -> str:
    """The text of a call: what `parse_call` reads back."""
    arguments = ", ".join(f"{name}={write_value(value)}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def write_value(value: Value) -> str:
    """JSON's string or number, Python's True or False."""
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def read_value(text: str) -> Value:
    """What `write_value` wrote. Raises ValueError."""
    return parse_call(f"value(value={text})").arguments["value"]


def _value(node: ast.expr, name: str) -> Value:
    """The value of the argument `name`. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, Value):
        raise ValueError(f"{name} is no value in quotes, number, True or False")
    if not sound(value):
        raise ValueError(f"{name} is a number too large or a text that is not Unicode")
    return value


def sound(value: Value) -> bool:
    """Can it be written, whatever it is for: a finite number, an integer below BOUND, or a Unicode text?"""
    if isinstance(value, str):
        return not SURROGATE.search(value)
    return math.isfinite(value) if isinstance(value, float) else abs(value) < BOUND


def same_as_left_out(value: Value, default: Value | None) -> bool:
    """Does an optional argument say nothing: an empty text, or its default in value and type?"""
    return value == "" or (value == default and type(value) is type(default))


# Where the words of a value stand in a request


def span(value: str, text: str) -> tuple[int, int] | None:
    """(start, end) of a value in a text in whole words, whatever its case and spacing; None where it is not.

    Case-folded letters are compared one by one and without spaces, because folding may change the length of
    a text (ß becomes ss): each remembers the place in `text` that it comes from.
    """
    folded = [
        (place, letter) for place, char in enumerate(text) if not char.isspace() for letter in char.casefold()
    ]
    wanted = "".join(value.casefold().split())
    joined = "".join(letter for _, letter in folded)
    start = joined.find(wanted) if wanted else -1
    while start >= 0:
        first, last = folded[start][0], folded[start + len(wanted) - 1][0]
        if not (_in_one_word(text, first - 1, first) or _in_one_word(text, last, last + 1)):
            return first, last + 1
        start = joined.find(wanted, start + 1)
    return None


def is_verbatim(value: str, text: str) -> bool:
    """Is a value empty, or words of the text, whatever their case?"""
    place = span(value, text)
    words = text[slice(*place)] if place else ""
    return words.casefold().split() == value.casefold().split()


def _in_one_word(text: str, left: int, right: int) -> bool:
    """Do these neighbouring places belong to one word?"""
    return left >= 0 and right < len(text) and in_word(text[left]) and in_word(text[right])
