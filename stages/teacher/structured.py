"""Answers with structure: how a request asks for one, and whether a message obeys what was asked."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from stages.core.hashing import canonical_json
from stages.core.records import RequestContent

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

SHOWN = 300  # characters of a problem: it may quote the whole answer


def json_answer(model: type[BaseModel]) -> dict[str, Any]:
    """The `response_format` that asks for JSON in the shape of `model`."""
    function = _strict_function(model)
    schema = {"name": function["name"], "strict": True, "schema": function["parameters"]}
    return {"type": "json_schema", "json_schema": schema}


def tool_answer(model: type[BaseModel]) -> list[dict[str, Any]]:
    """The `tools` that offer one function, whose arguments have the shape of `model`."""
    return [{"type": "function", "function": _strict_function(model)}]


def tool_choice(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The sampling parameter that makes the model call the first of `tools`."""
    return {"type": "function", "function": {"name": tools[0]["function"]["name"]}}


def _strict_function(model: type[BaseModel]) -> dict[str, Any]:
    """Name, docstring and schema of `model` as OpenAI's strict mode wants them."""
    import openai

    return dict(openai.pydantic_function_tool(model)["function"])


def problem_with(message: dict[str, Any], text: str, request: RequestContent) -> str | None:
    """Why an answer breaks the structure that its request asks for; None where it does not.

    Never raises, whatever a server may have put into `message`.
    """
    try:
        problem = _problem_with(message, text, request)
    except RecursionError:
        return "nested too deeply"
    return problem and problem[:SHOWN]


def held_to(message: dict[str, Any], text: str, request: RequestContent) -> tuple[str, str | None]:
    """The answer in a text, and why it breaks the structure that its request asks for, or None.

    An answer of JSON may stand in a Markdown fence or among words of the model: its object is the answer.
    """
    problem = problem_with(message, text, request)
    if problem and not request.get("tools"):
        inner = text[text.find("{") : text.rfind("}") + 1]
        if inner and problem_with(message, inner, request) is None:
            return inner, None
    return text, problem


def _problem_with(message: dict[str, Any], text: str, request: RequestContent) -> str | None:
    if tools := request.get("tools"):
        return _problem_with_calls(message.get("tool_calls"), tools)
    if message.get("tool_calls"):
        return "a tool call where none was offered"
    form = request.get("response_format")
    if form and form.get("type") == "json_schema":
        return _problem_with_json(text, form["json_schema"]["schema"])
    return None


def _problem_with_calls(calls: object, tools: list[dict[str, Any]]) -> str | None:
    if not calls:
        return "no tool call"
    if not isinstance(calls, list):
        return "tool_calls is no list"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    problems = (_problem_with_call(call, schemas) for call in calls)
    return next((problem for problem in problems if problem), None)


def _problem_with_call(call: object, schemas: dict[str, dict[str, Any]]) -> str | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return "a tool call without a function"
    name = function.get("name")
    if not isinstance(name, str) or name not in schemas:
        return f"no tool is called {name!r}; there are {', '.join(schemas)}"
    problem = _problem_with_json(function.get("arguments"), schemas[name])
    return problem and f"{name}: {problem}"


def _problem_with_json(text: Any, schema: dict[str, Any]) -> str | None:
    try:
        value = json.loads(text)
        canonical_json(value).encode("utf-8")  # JSON can smuggle in half of a surrogate pair
    except (TypeError, ValueError) as error:
        return f"not JSON: {error}"
    violation = next(iter(_validator(canonical_json(schema)).iter_errors(value)), None)
    if violation is None:
        return None
    where = ".".join(str(part) for part in violation.absolute_path)
    return f"{where}: {violation.message}" if where else violation.message


@lru_cache
def _validator(schema: str) -> "Draft202012Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


Stated = TypeVar("Stated", bound=BaseModel)


class ToolCall(BaseModel, Generic[Stated]):
    """A tool call: `responses.jsonl` holds a list of them."""

    arguments: Stated


def stated(response: str, form: str, answer: type[Stated]) -> list[Stated]:
    """The structured answers in the `response` of a row: one for the form json, one a call for tool.

    Raises ValueError where the response does not have the form, or an answer not its schema.
    """
    if form == "json":
        return [answer.model_validate_json(response)]
    return [call.arguments for call in calls_of(answer).validate_json(response)]


@lru_cache
def calls_of(answer: type[BaseModel]) -> TypeAdapter[list[ToolCall]]:
    """What reads a list of calls with `answer` as arguments; cached, for it is costly to build."""
    return TypeAdapter(list[ToolCall[answer]])  # type: ignore[valid-type]
