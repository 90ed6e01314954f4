"""The calls of a set of skills as a grammar, in llguidance's dialect of Lark.

A string of it is one call of one skill as `write_call` writes it: arguments in the order of the schema,
required ones there, others there or not, each with a value of its type. What stands between open values
(texts and numbers) is one literal, `notes(action="add"` or `, note="`: that is how a tokenizer has to write
it, and from where an engine can read how it does (stages/engines/grammar.py). A verbatim value is the
terminal PROMPT_WORDS, any text here: an engine that knows the prompt of an answer allows its words alone.
"""

import json

from stages.core.errors import UserError
from stages.kinds.skills.parts.calls import write_value
from stages.kinds.skills.parts.schema import Parameter, Skill, Skills

# One character of a text: JSON's escapes that Python's literals know, too. No surrogates: Python would read
# a lone one. No quote or backslash stands for itself in a class, so that quotes in a grammar are literals'.
CHARACTER = (
    r"[^\x22\x5c\x00-\x1f]|\x5c[\x22\x5cnrtbf]"
    r"|\x5cu[0-9a-ce-fA-CE-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]|\x5cu[dD][0-7][0-9a-fA-F][0-9a-fA-F]"
)
# Finite for Python, whose floats end below 1.8e308, and readable: it takes 4,300 digits at most.
WHOLE, FRACTION, EXPONENT = "0|[1-9][0-9]{0,299}", "[0-9]{1,40}", "[0-9]{1,2}|[12][0-9][0-9]|30[0-7]"

TERMINALS = {
    "TEXT": f"/({CHARACTER})+/",
    "PROMPT_WORDS": f"/({CHARACTER})+/",
    "INTEGER": f"/{WHOLE}/",
    "NUMBER": f'/{WHOLE}/ ("." /{FRACTION}/)? '
    f'| /[1-9]/ ("." /{FRACTION}/)? ("e+" /{EXPONENT}/ | "e-" /[0-9]{{1,3}}/)',
}
OPEN = {"string": "TEXT", "integer": "INTEGER", "number": "NUMBER"}  # of a value that is none of a few
QUOTE = '"'


def lark(skills: Skills) -> str:
    """The grammar: rules for all skills, for each, for each argument after a call's first, and terminals.

    Raises UserError where there are no skills.
    """
    if not skills.skills:
        raise UserError("no skills: a grammar needs at least one; add a skill file")
    numbers = range(1, len(skills.skills) + 1)
    rules = ["%llguidance {}", f"start: {' | '.join(f'skill{number}' for number in numbers)}"]
    for number, skill in zip(numbers, skills.skills, strict=True):
        rules += [f"# {skill.name}", f"skill{number}: {_calls(skill, number)}"]
        for place, (name, parameter) in enumerate(skill.parameters.items()):
            if place:
                rules.append(f"skill{number}-{place}: {_argument(', ', name, parameter)}")
    used = {_terminal(parameter) for skill in skills.skills for parameter in skill.parameters.values()}
    return "\n".join([*rules, *(f"{name}: {rule}" for name, rule in TERMINALS.items() if name in used), ""])


def _calls(skill: Skill, number: int) -> str:
    """One alternative for each argument that may be the first, and one for none."""
    parameters, calls = list(skill.parameters.items()), []
    for first, (name, parameter) in enumerate(parameters):
        rest = [
            f"skill{number}-{place}{'' if later.required else '?'}"
            for place, (_, later) in enumerate(parameters[first + 1 :], start=first + 1)
        ]
        begin = _argument(f"{skill.name}(", name, parameter)
        calls.append(" ".join([f"({begin})", *rest, '")"']))
        if parameter.required:
            return " | ".join(calls)
    return " | ".join([*calls, _quoted(f"{skill.name}()")])


def _argument(before: str, name: str, parameter: Parameter) -> str:
    """Everything that an argument can be, from the text `before` its name to the end of its value."""
    if parameter.type in ("enum", "boolean"):
        closed = parameter.values if parameter.type == "enum" else (True, False)
        return " | ".join(_quoted(f"{before}{name}={write_value(value)}") for value in dict.fromkeys(closed))
    value = _terminal(parameter)
    if parameter.type == "string":
        return f"{_quoted(f'{before}{name}=' + QUOTE)} {value}? {_quoted(QUOTE)}"
    return f"{_quoted(f'{before}{name}=')} {value} | {_quoted(f'{before}{name}=-')} {value}"


def _terminal(parameter: Parameter) -> str | None:
    """The open value that a parameter takes; None for one of a few known values."""
    return "PROMPT_WORDS" if parameter.verbatim else OPEN.get(parameter.type)


def _quoted(literal: str) -> str:
    """A literal."""
    return json.dumps(literal, ensure_ascii=False).replace("\x7f", r"\u007f")  # llguidance wants it so
