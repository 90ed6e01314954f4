"""Answers with structure: how a request asks for one, and whether a message obeys what was asked."""

import json
from functools import lru_cache
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter

from stages.core.hashing import canonical_json

SHOWN = 300  # characters of a problem: it may quote the whole answer


def json_answer(model: type[BaseModel]) -> dict:
    """The `response_format` that asks for JSON in the shape of `model`."""
    function = _strict_function(model)
    schema = {"name": function["name"], "strict": True, "schema": function["parameters"]}
    return {"type": "json_schema", "json_schema": schema}


def tool_answer(model: type[BaseModel]) -> list[dict]:
    """The `tools` that offer one function, whose arguments have the shape of `model`."""
    return [{"type": "function", "function": _strict_function(model)}]


def tool_choice(tools: list[dict]) -> dict:
    """The sampling parameter that makes the model call the first of `tools`."""
    return {"type": "function", "function": {"name": tools[0]["function"]["name"]}}


def _strict_function(model: type[BaseModel]) -> dict:
    """Name, docstring and schema of `model` as OpenAI's strict mode wants them."""
    import openai

    return dict(openai.pydantic_function_tool(model)["function"])


def problem_with(message: dict, text: str, request: dict) -> str | None:
    """Why an answer breaks the structure that its request asks for; None where it does not.

    Never raises, whatever a server may have put into `message`.
    """
    try:
        problem = _problem_with(message, text, request)
    except RecursionError:
        return "nested too deeply"
    return problem and problem[:SHOWN]


def _problem_with(message: dict, text: str, request: dict) -> str | None:
    if request.get("tools"):
        return _problem_with_calls(message.get("tool_calls"), request["tools"])
    if message.get("tool_calls"):
        return "a tool call where none was offered"
    if (request.get("response_format") or {}).get("type") == "json_schema":
        return _problem_with_json(text, request["response_format"]["json_schema"]["schema"])
    return None


def _problem_with_calls(calls, tools: list[dict]) -> str | None:
    if not calls:
        return "no tool call"
    if not isinstance(calls, list):
        return "tool_calls is no list"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    problems = (_problem_with_call(call, schemas) for call in calls)
    return next((problem for problem in problems if problem), None)


def _problem_with_call(call, schemas: dict[str, dict]) -> str | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return "a tool call without a function"
    name = function.get("name")
    if not isinstance(name, str) or name not in schemas:
        return f"no tool is called {name!r}; there are {', '.join(schemas)}"
    problem = _problem_with_json(function.get("arguments"), schemas[name])
    return problem and f"{name}: {problem}"


def _problem_with_json(text, schema: dict) -> str | None:
    try:
        value = json.loads(text)
        canonical_json(value).encode("utf-8")  # JSON can smuggle in half of a surrogate pair
    except (TypeError, ValueError) as error:
        return f"not JSON: {error}"
    error = next(iter(_validator(canonical_json(schema)).iter_errors(value)), None)
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message}" if where else error.message


@lru_cache
def _validator(schema: str):
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


Stated = TypeVar("Stated", bound=BaseModel)


class Call(BaseModel, Generic[Stated]):
    """A tool call: `responses.jsonl` holds a list of them."""

    arguments: Stated


def stated(response: str, form: str, answer: type[Stated]) -> list[Stated]:
    """The structured answers in a response: json is one, tool a list of calls; else ValueError."""
    if form == "json":
        return [answer.model_validate_json(response)]
    return [call.arguments for call in calls_of(answer).validate_json(response)]


@lru_cache
def calls_of(answer: type[Stated]) -> TypeAdapter:
    return TypeAdapter(list[Call[answer]])  # made once: that costs far more than to read an answer
