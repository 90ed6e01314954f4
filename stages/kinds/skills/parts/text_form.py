"""Skills as text files: a signature with its description, and examples of what users say.

    #### Prompt:
    timer(duration="[duration]", volume=[integer]?=5) sets a timer.
    #### Prompt Examples:
    ### User: Alert me in thirty seconds
    ### Assistant: timer(duration="30 seconds")
    #### Examples:

A parameter is `name="[what it is]"` or `name="[text: what it is]"` (a text), `name="[verbatim: what it is]"`
(words of the request), `name="add|list"` (one of these) or `name=[integer]`, likewise number and boolean,
each with `: what it is` after the type; `?` after it makes it optional, `=value` gives its default. Files
without any text, verbatim, `?` or default are older: there, a parameter is optional if some example leaves it
out, and verbatim if it is so in all its examples, of which there are ENOUGH.
"""

import re
from typing import NamedTuple

from pydantic import ValidationError

from stages.kinds.skills.parts.calls import (
    Value,
    call_or_none,
    is_verbatim,
    read_value,
    write_value,
)
from stages.kinds.skills.parts.schema import Parameter, Skill

SECTIONS = {
    "prompt": "Prompt",
    "prompt_examples": "Prompt Examples",
    "examples": "Examples",
    "fallback": "Fallback",
}
EXAMPLES = ("prompt_examples", "examples")
HEADING = re.compile(r"^#### (.*?):\s*$")
SPOKEN = re.compile(r"^(### )?(User|Assistant):(.*)$")
QUOTED = r'"(?:[^"\\]|\\.)*"'
SIGNATURE = re.compile(rf"^([A-Za-z_]\w*)\(((?:{QUOTED}|\[[^\]]*\]|[^\"\[\]()])*)\)(?:\s+(.*))?$")
PARAMETER = re.compile(
    r"""\s*([A-Za-z_]\w*)=(?:"\[([^"\]]*)\]"|"([^"]*)"(?:\[([^\]]*)\])?|\[([^\]]*)\])(\?)?"""
    rf"""(?:=({QUOTED}|[^\s,"]+))?\s*(?:,|$)"""
)
TYPES = ("integer", "number", "boolean")
TEXTS = ("text", "verbatim")
ENOUGH = 5


class Problem(NamedTuple):
    """What is wrong in a line, which counts from 1; a fixed one could be read all the same."""

    line: int
    what: str
    fixed: bool = False


class PlacedExample(NamedTuple):
    """An example, the line where it begins, and its section, one of SECTIONS."""

    line: int
    section: str
    user: str
    call: str


class Parsed(NamedTuple):
    """A skill file as it was read: the skill, None where it has no signature that can be read."""

    skill: Skill | None
    examples: list[PlacedExample]
    problems: list[Problem]


def parse(text: str) -> Parsed:
    """Read one file. Nothing is left out silently: what cannot be read is among the problems."""
    sections: dict[str, list[tuple[int, str]]] = {}
    examples: list[PlacedExample] = []
    problems: list[Problem] = []
    section: str | None = None
    waiting: tuple[int, str] | None = None  # a request, with its line, whose call has yet to come

    def drop_waiting() -> None:
        """Let no later call be taken for that of the request which still waits for one."""
        nonlocal waiting
        if waiting:
            problems.append(Problem(waiting[0], "a request without a call"))
        waiting = None

    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        if heading := HEADING.match(line):
            drop_waiting()
            section = next((key for key, name in SECTIONS.items() if name == heading[1]), None)
            if section is None:
                problems.append(Problem(number, f"no section is called '{heading[1]}'"))
            elif section in sections:
                problems.append(Problem(number, f"a second section '{heading[1]}': one skill a file"))
                section = None
            else:
                sections[section] = []
        elif section == "prompt" and not line.startswith("#"):
            sections["prompt"].append((number, line))
        elif section in EXAMPLES and (spoken := SPOKEN.match(line)):
            marks, speaker, words = spoken.groups()
            words = words.strip()
            if not marks:
                problems.append(Problem(number, f"'{speaker}:' without '### ' before it", fixed=True))
            if not words:
                drop_waiting()
                problems.append(Problem(number, f"nothing after '{speaker}:'"))
            elif speaker == "User":
                drop_waiting()
                waiting = (number, words)
            elif waiting is None:
                problems.append(Problem(number, "a call without a request"))
            else:
                examples.append(PlacedExample(waiting[0], section, waiting[1], words))
                waiting = None
        else:
            drop_waiting()
            problems.append(Problem(number, f"expected a section or an example, found '{line[:60]}'"))
    drop_waiting()
    skill, problem = _skill(sections, examples)
    return Parsed(skill, examples, [*problems, problem] if problem else problems)


def _skill(
    sections: dict[str, list[tuple[int, str]]], examples: list[PlacedExample]
) -> tuple[Skill | None, Problem | None]:
    """(the skill without its examples, None), or (None, why the section Prompt does not give one)."""
    lines = sections.get("prompt")
    if not lines:
        return None, Problem(1, "no section '#### Prompt:' with a signature")
    number, first = lines[0]
    match = SIGNATURE.match(first)
    if not match:
        what = f"expected a signature such as name(key=\"[what it is]\"), found '{first}'"
        return None, Problem(number, what)
    name, arguments, rest = match.groups()
    try:
        parameters, marked = _parameters(arguments)
        if not marked:
            parameters = _as_its_examples_are(name, parameters, examples)
        skill = Skill(
            name=name,
            description=" ".join([rest or "", *(line for _, line in lines[1:])]).strip(),
            fallback=name == "other" or "fallback" in sections,
            parameters=parameters,
        )
    except ValidationError as error:
        return None, Problem(number, f"{name}: {error.errors()[0]['msg']}")
    except ValueError as error:
        return None, Problem(number, f"{name}: {error}")
    return skill, None


def _parameters(text: str) -> tuple[dict[str, Parameter], bool]:
    """(the parameters, does one of them have a mark that older files have not?). Raises ValueError."""
    parameters: dict[str, Parameter] = {}
    at, marked = 0, False
    while at < len(text.rstrip()):
        match = PARAMETER.match(text, at)
        if not match:
            raise ValueError(f"cannot read the parameters from '{text[at:].strip()}'")
        name, quoted, choice, choice_about, bare, optional, default = match.groups()
        if name in parameters:
            raise ValueError(f"two parameters are called '{name}'")
        if choice is not None:
            values = tuple(part.strip() for part in choice.split("|"))
            fields = {"type": "enum", "values": values, "description": choice_about or ""}
        else:
            whole = bare if quoted is None else quoted
            kind, _, about = (part.strip() for part in whole.partition(":"))
            is_typed = bare is not None and kind in TYPES
            is_marked_text = quoted is not None and kind in TEXTS
            about = about if is_typed or is_marked_text else whole.strip()
            fields = {
                "type": kind if is_typed else "string",
                "description": about if about != name else "",
                "verbatim": is_marked_text and kind == "verbatim",
            }
            marked = marked or is_marked_text
        value = None if default is None else read_value(default)
        parameters[name] = Parameter(**fields, optional=bool(optional), default=value)
        marked, at = marked or bool(optional) or default is not None, match.end()
    return parameters, marked


def _as_its_examples_are(
    name: str, parameters: dict[str, Parameter], examples: list[PlacedExample]
) -> dict[str, Parameter]:
    """The parameters of an older file, optional and verbatim as its examples show them to be."""
    known: list[tuple[str, dict[str, Value]]] = []  # (request, arguments) of the calls of this skill
    for example in examples:
        call = call_or_none(example.call)
        if call and call.name == name and call.arguments.keys() <= parameters.keys():
            known.append((example.user, call.arguments))

    def refined(key: str, parameter: Parameter) -> Parameter:
        given = [(arguments[key], user) for user, arguments in known if key in arguments]
        verbatim = (
            parameter.type == "string"
            and len(given) >= ENOUGH
            and all(isinstance(value, str) and is_verbatim(value, user) for value, user in given)
        )
        optional = parameter.optional or len(given) < len(known)
        return parameter.model_copy(update={"optional": optional, "verbatim": verbatim})

    return {key: refined(key, parameter) for key, parameter in parameters.items()}


def signature(skill: Skill) -> str:
    """The signature of a skill, as prompts show it: `notes(action="add|list", note="[note]"?)`."""
    return f"{skill.name}({', '.join(_parameter(*item) for item in skill.parameters.items())})"


def _parameter(name: str, parameter: Parameter) -> str:
    about = parameter.description
    if parameter.type == "string":
        value = f'"[{"verbatim: " if parameter.verbatim else ""}{about or name}]"'
    elif parameter.type == "enum":
        value = f'"{"|".join(parameter.values)}"' + (f"[{about}]" if about else "")
    else:
        value = f"[{parameter.type}: {about}]" if about else f"[{parameter.type}]"
    default = "" if parameter.default is None else f"={write_value(parameter.default)}"
    return f"{name}={value}{'?' if parameter.optional else ''}{default}"
