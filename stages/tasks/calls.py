"""Function calls as text, such as `weather(location="Berlin")`: keyword arguments only."""

import ast
import json
from typing import NamedTuple

Value = str | int | float | bool


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
    if not isinstance(value, Value) or isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"{name} is no value in quotes, number, True or False")
    return value
