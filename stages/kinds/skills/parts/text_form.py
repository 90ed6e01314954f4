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

from stages.kinds.skills.parts.calls import parse_call, read_value, write_value
from stages.kinds.skills.parts.schema import Example, Parameter, Skill
from stages.kinds.skills.parts.verbatim import is_verbatim

SECTIONS = {
    "prompt": "Prompt",
    "prompt_examples": "Prompt Examples",
    "examples": "Examples",
    "fallback": "Fallback",
}
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
    """What is wrong in a line; a mended one could be read all the same."""

    line: int
    what: str
    mended: bool = False


class Said(NamedTuple):
    """An example, where it stands, and in which section."""

    line: int
    section: str
    user: str
    call: str


class Parsed(NamedTuple):
    skill: Skill | None
    said: list[Said]
    problems: list[Problem]


def parse(text: str) -> Parsed:
    """Read one file. Nothing is left out silently: what cannot be read is among the problems."""
    sections, said, problems = {}, [], []
    section, user = None, None

    def forget() -> None:
        """Let no later call be taken for that of the request which still waits for one."""
        nonlocal user
        if user:
            problems.append(Problem(user[0], "a request without a call"))
        user = None

    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        heading = HEADING.match(line)
        if not line:
            continue
        if heading:
            forget()
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
        elif section in ("prompt_examples", "examples") and (spoken := SPOKEN.match(line)):
            marks, who, words = spoken.groups()
            if not marks:
                problems.append(Problem(number, f"'{who}:' without '### ' before it", mended=True))
            if not words.strip():
                forget()
                problems.append(Problem(number, f"nothing after '{who}:'"))
            elif who == "User":
                forget()
                user = (number, words.strip())
            elif user is None:
                problems.append(Problem(number, "a call without a request"))
            else:
                said.append(Said(user[0], section, user[1], words.strip()))
                user = None
        else:
            forget()
            problems.append(Problem(number, f"expected a section or an example, found '{line[:60]}'"))
    forget()
    skill, wrong = _skill(sections, said)
    return Parsed(skill, said, [*problems, *wrong])


def _skill(sections: dict, said: list[Said]) -> tuple[Skill | None, list[Problem]]:
    lines = sections.get("prompt")
    if not lines:
        return None, [Problem(1, "no section '#### Prompt:' with a signature")]
    number, first = lines[0]
    found = SIGNATURE.match(first)
    if not found:
        return None, [
            Problem(number, f"expected a signature such as name(key=\"[what it is]\"), found '{first}'")
        ]
    name, arguments, rest = found.groups()
    own = {
        "name": name,
        "description": " ".join([rest or "", *(line for _, line in lines[1:])]).strip(),
        "fallback": name == "other" or "fallback" in sections,
    }
    try:
        parameters, marked = _parameters(arguments)
        if not marked:
            parameters = _as_its_examples_are(name, parameters, said)
        return Skill(**own, parameters=parameters), []
    except ValidationError as error:
        return None, [Problem(number, f"{name}: {error.errors()[0]['msg']}")]
    except ValueError as error:
        return None, [Problem(number, f"{name}: {error}")]


def _parameters(text: str) -> tuple[dict[str, Parameter], bool]:
    """(the parameters, does one of them have a mark that older files have not?)"""
    found, at, marked = {}, 0, False
    while at < len(text.rstrip()):
        match = PARAMETER.match(text, at)
        if not match:
            raise ValueError(f"cannot read the parameters from '{text[at:].strip()}'")
        name, quoted, choice, choice_about, bare, optional, default = match.groups()
        if name in found:
            raise ValueError(f"two parameters are called '{name}'")
        if choice is not None:
            values = tuple(part.strip() for part in choice.split("|"))
            own = {"type": "enum", "values": values, "description": choice_about or ""}
        else:
            whole = bare if quoted is None else quoted
            kind, _, about = (part.strip() for part in whole.partition(":"))
            typed, told = bare is not None and kind in TYPES, quoted is not None and kind in TEXTS
            about = about if typed or told else whole.strip()
            own = {"type": kind if typed else "string", "description": about if about != name else ""}
            own["verbatim"], marked = told and kind == "verbatim", marked or told
        known = None if default is None else read_value(default)
        found[name] = Parameter(**own, optional=bool(optional), default=known)
        marked, at = marked or bool(optional) or default is not None, match.end()
    return found, marked


def _as_its_examples_are(name: str, parameters: dict, said: list[Said]) -> dict[str, Parameter]:
    given: list[tuple[str, dict]] = []
    for one in said:
        try:
            call = parse_call(one.call)
        except ValueError:
            continue
        if call.name == name and call.arguments.keys() <= parameters.keys():
            given.append((one.user, call.arguments))

    def found(key: str, own: Parameter) -> Parameter:
        there = [(arguments[key], user) for user, arguments in given if key in arguments]
        verbatim = own.type == "string" and all(
            isinstance(value, str) and is_verbatim(value, user) for value, user in there
        )
        optional = own.optional or len(there) < len(given)
        return own.model_copy(update={"optional": optional, "verbatim": verbatim and len(there) >= ENOUGH})

    return {key: found(key, own) for key, own in parameters.items()}


def one_line(skill: Skill) -> Skill:
    """The skill as this form holds it: no description, request or call goes over several lines."""

    def flat(text: str) -> str:
        return " ".join(text.split())

    own = {
        section: tuple(
            Example(user=flat(example.user), call=example.call.strip()) for example in getattr(skill, section)
        )
        for section in ("prompt_examples", "examples")
    }
    own["description"] = flat(skill.description)
    own["parameters"] = {
        name: parameter.model_copy(update={"description": flat(parameter.description)})
        for name, parameter in skill.parameters.items()
    }
    return skill.model_copy(update=own)


def write(skill: Skill) -> str:
    """The text of a skill of one line each (`one_line`). `parse` reads back what this form can say."""
    marked = any(own.verbatim or not own.required for own in skill.parameters.values())
    lines = ["#### Prompt:", f"{signature(skill, '' if marked else 'text: ')} {skill.description}".rstrip()]
    if skill.fallback and skill.name != "other":
        lines += ["", "#### Fallback:"]
    for section in ("prompt_examples", "examples"):
        lines += ["", f"#### {SECTIONS[section]}:"]
        for example in getattr(skill, section):
            lines += ["", f"### User: {example.user}", f"### Assistant: {example.call}"]
    return "\n".join(lines) + "\n"


def signature(skill: Skill, text: str = "") -> str:
    """`notes(action="add|list", note="[note]"?)`; `text` marks a text that is not verbatim."""
    return f"{skill.name}({', '.join(_shown(name, own, text) for name, own in skill.parameters.items())})"


def _shown(name: str, parameter: Parameter, text: str) -> str:
    about = parameter.description
    if parameter.type == "string":
        value = f'"[{"verbatim: " if parameter.verbatim else text}{about or name}]"'
    elif parameter.type == "enum":
        value = f'"{"|".join(parameter.values)}"' + (f"[{about}]" if about else "")
    else:
        value = f"[{parameter.type}: {about}]" if about else f"[{parameter.type}]"
    default = "" if parameter.default is None else f"={write_value(parameter.default)}"
    return f"{name}={value}{'?' if parameter.optional else ''}{default}"


def example(said: Said) -> Example:
    return Example(user=said.user, call=said.call)
