"""Function calls as text, such as `weather(location="Berlin")`: keyword arguments only."""

import ast
import json
import math
import re
from typing import NamedTuple

Value = str | int | float | bool
BOUND = 10**300  # of integers: much larger ones are no floats, and Python does not write them
HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: a text with one cannot be encoded


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
    if isinstance(node, ast.Name) and node.id in ("true", "false"):
        return node.id == "true"
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{name} is no value in quotes, number, True or False") from None
    if not isinstance(value, Value):
        raise ValueError(f"{name} is no value in quotes, number, True or False")
    if not sound(value):
        raise ValueError(f"{name} is a number too large or a text that is not Unicode")
    return value


def sound(value: Value) -> bool:
    """Can it be written, whatever it is for: a finite number, an integer below BOUND, or a Unicode text?"""
    if isinstance(value, str):
        return not HALF.search(value)
    return math.isfinite(value) if isinstance(value, float) else abs(value) < BOUND
