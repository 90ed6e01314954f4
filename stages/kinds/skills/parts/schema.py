"""Skills: the functions that a student may call, with typed parameters and examples; calls held to them."""

import keyword
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from stages.kinds.skills.parts.calls import (
    Call,
    Value,
    is_verbatim,
    parse_call,
    same_as_left_out,
    sound,
)


def _no_keyword(name: str) -> str:
    if keyword.iskeyword(name):
        raise ValueError(f"'{name}' is a word of Python, so calls could not be read; try '{name}_'")
    return name


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_no_keyword)]
PYTHON_TYPES = {
    "string": (str,),
    "enum": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parameter(Part):
    """What one argument may be. One with a default may be left out, too."""

    type: Literal["string", "enum", "integer", "number", "boolean"] = "string"
    description: str = ""
    values: tuple[str, ...] = Field((), description="those of an enum")
    verbatim: bool = Field(False, description="a value is words of the request, as they stand there")
    optional: bool = False
    default: Value | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.type == "enum") != bool(self.values):
            raise ValueError("`values` belong to the type enum, which needs some")
        if self.verbatim and self.type != "string":
            raise ValueError("only the words of a string can be `verbatim`")
        if self.default is not None and (problem := self.problem_with(self.default)):
            raise ValueError(f"default: {problem}")
        return self

    @property
    def required(self) -> bool:
        return not self.optional and self.default is None

    def problem_with(self, value: Value, request: str | None = None) -> str | None:
        """Why this cannot be the argument, or None. With the request, a verbatim value is held to it."""
        is_of_type = isinstance(value, PYTHON_TYPES[self.type])
        if not is_of_type or isinstance(value, bool) != (self.type == "boolean"):
            return f"expected a value of type {self.type}, found {value!r}"
        if not sound(value):
            return f"expected a finite number or Unicode text, found {value!r}"
        if self.type == "enum" and value not in self.values:
            return f"expected one of {', '.join(self.values)}, found {value!r}"
        if self.verbatim and request is not None and not is_verbatim(str(value), request):
            return f"expected words of the request (verbatim), found {value!r}"
        return None


class Example(Part):
    """What a user says, and the call that it stands for."""

    user: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    call: str


class Skill(Part):
    """One function. `prompt_examples` are shown to a teacher, and are examples as the others are."""

    name: Name
    description: str
    parameters: dict[Name, Parameter] = {}
    fallback: bool = Field(False, description="the skill for what no other one is for")
    prompt_examples: tuple[Example, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def defaults(self) -> dict[str, Value]:
        """The values of the parameters that have a default."""
        return {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not None
        }

    def problem_with(self, call: Call, request: str | None = None) -> str | None:
        """Why a call breaks this skill's schema (its arguments' names, types, what is required), or None."""
        for name, value in call.arguments.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                return f"{self.name} has no parameter '{name}' (it has {known})"
            if problem := self.parameters[name].problem_with(value, request):
                return f"{self.name}, {name}: {problem}"
        for name, parameter in self.parameters.items():
            if parameter.required and name not in call.arguments:
                return f"{self.name} needs its parameter '{name}'"
        return None


class Skills(Part):
    """All skills of a dataset, in the order of their names."""

    skills: tuple[Skill, ...]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [skill.name for skill in self.skills]
        if names != sorted(set(names)):
            raise ValueError("two skills of one name, or not in the order of their names")
        if sum(skill.fallback for skill in self.skills) > 1:
            raise ValueError("only one skill can be the fallback")
        return self

    @property
    def by_name(self) -> dict[str, Skill]:
        return {skill.name: skill for skill in self.skills}

    @property
    def fallback(self) -> str | None:
        """The name of the skill for what no other one is for."""
        return next((skill.name for skill in self.skills if skill.fallback), None)

    def problem_with(self, call: Call, request: str | None = None) -> str | None:
        """Why a call, or one for this request, breaks the schema of its skill, or None."""
        skill = self.by_name.get(call.name)
        if skill is None:
            return f"no skill is called '{call.name}' (there are {', '.join(self.by_name)})"
        return skill.problem_with(call, request)

    def checked(self, text: str, request: str | None = None) -> Call:
        """The call in a text, which may be for a known request.

        Raises ValueError for what is no call or breaks the schema.
        """
        call = parse_call(text)
        if problem := self.problem_with(call, request):
            raise ValueError(problem)
        return call

    def canonical(self, call: Call) -> Call:
        """The call with its arguments in the order of the schema, and without those that say nothing.

        An empty text for an optional parameter, or a parameter's default, means the same as leaving it out.
        """
        parameters = self.by_name[call.name].parameters if call.name in self.by_name else {}

        def says_something(name: str, value: Value) -> bool:
            parameter = parameters.get(name)
            if parameter is None or parameter.required:
                return True
            return not same_as_left_out(value, parameter.default)

        order = {name: place for place, name in enumerate(parameters)}
        arguments = sorted(call.arguments.items(), key=lambda item: order.get(item[0], len(order)))
        return Call(call.name, {name: value for name, value in arguments if says_something(name, value)})


def together(skills: Iterable[Skill]) -> Skills:
    """The skills in the order of their names. Raises pydantic's ValidationError for two of one name."""
    return Skills(skills=tuple(sorted(skills, key=lambda skill: skill.name)))
