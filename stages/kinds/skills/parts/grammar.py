"""The calls of a set of skills as a grammar: Lark for llguidance, GBNF for llama.cpp; one language in both.

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

TERMINAL = {"string": "text", "integer": "integer", "number": "number"}  # of an open value
VERBATIM = "prompt_words"
QUOTE = '"'


def lark(skills: Skills) -> str:
    """The grammar in llguidance's dialect of Lark. Raises UserError where there are no skills."""
    text = f"/({CHARACTER})+/"
    terminals = {
        "TEXT": text,
        "PROMPT_WORDS": text,
        "INTEGER": f"/{WHOLE}/",
        "NUMBER": f'/{WHOLE}/ ("." /{FRACTION}/)? '
        f'| /[1-9]/ ("." /{FRACTION}/)? ("e+" /{EXPONENT}/ | "e-" /[0-9]{{1,3}}/)',
    }
    return "\n".join(["%llguidance {}", *_rules(skills, "start", ": ", terminals), ""])


def gbnf(skills: Skills) -> str:
    """The same for llama.cpp. Raises UserError where there are no skills."""
    character = CHARACTER.replace(r"\x5c[", r'"\\" [').replace(r"\x5cu", r'"\\u" ')
    terminals = {
        "text": f"({character})+",
        "integer": _spelt(WHOLE),
        "number": f'({_spelt(WHOLE)}) ("." {FRACTION})? '
        f'| [1-9] ("." {FRACTION})? ("e+" ({_spelt(EXPONENT)}) | "e-" [0-9]{{1,3}})',
    }
    return "\n".join([*_rules(skills, "root", " ::= ", terminals), ""])


def _spelt(digits: str) -> str:
    """A regular expression of digits in GBNF, where a plain digit needs quotes."""
    quoted = {"0": '"0"', "30[0-7]": '"30" [0-7]'}
    return " | ".join(quoted.get(part, part.replace("][", "] [")) for part in digits.split("|"))


def _rules(skills: Skills, start: str, sets: str, terminals: dict[str, str]) -> list[str]:
    """A rule for all skills, one for each, for each argument after a call's first, and for each terminal.

    `start` is the name of the first rule, `sets` what stands between a name and its rule, `terminals` the
    rules of the open values. Raises UserError where there are no skills.
    """
    if not skills.skills:
        raise UserError("no skills: a grammar needs at least one; add a skill file")
    values = {name.lower(): name for name in terminals}
    values.setdefault(VERBATIM, values["text"])  # GBNF knows no prompt
    rules = [f"{start}{sets}{' | '.join(f'skill{number + 1}' for number in range(len(skills.skills)))}"]
    for number, skill in enumerate(skills.skills, start=1):
        rules += [f"# {skill.name}", f"skill{number}{sets}{_calls(skill, number, values)}"]
        for place, (name, parameter) in enumerate(skill.parameters.items()):
            if place:
                rules.append(f"skill{number}-{place}{sets}{_argument(', ', name, parameter, values)}")
    parameters = (parameter for skill in skills.skills for parameter in skill.parameters.values())
    used = {values.get(_terminal(parameter)) for parameter in parameters}
    return rules + [f"{name}{sets}{rule}" for name, rule in terminals.items() if name in used]


def _calls(skill: Skill, number: int, values: dict[str, str]) -> str:
    """One alternative for each argument that may be the first, and one for none."""
    parameters, calls = list(skill.parameters.items()), []
    for first, (name, parameter) in enumerate(parameters):
        rest = [
            f"skill{number}-{place}{'' if later.required else '?'}"
            for place, (_, later) in enumerate(parameters[first + 1 :], start=first + 1)
        ]
        begin = _argument(f"{skill.name}(", name, parameter, values)
        calls.append(" ".join([f"({begin})", *rest, '")"']))
        if parameter.required:
            return " | ".join(calls)
    return " | ".join([*calls, _quoted(f"{skill.name}()")])


def _argument(before: str, name: str, parameter: Parameter, values: dict[str, str]) -> str:
    """Everything that an argument can be, from the text `before` its name to the end of its value."""
    if parameter.type in ("enum", "boolean"):
        closed = parameter.values if parameter.type == "enum" else (True, False)
        return " | ".join(_quoted(f"{before}{name}={write_value(value)}") for value in dict.fromkeys(closed))
    value = values[_terminal(parameter)]
    if parameter.type == "string":
        return f"{_quoted(f'{before}{name}=' + QUOTE)} {value}? {_quoted(QUOTE)}"
    return f"{_quoted(f'{before}{name}=')} {value} | {_quoted(f'{before}{name}=-')} {value}"


def _terminal(parameter: Parameter) -> str | None:
    """The open value that a parameter takes; None for one of a few known values."""
    return VERBATIM if parameter.verbatim else TERMINAL.get(parameter.type)


def _quoted(literal: str) -> str:
    """A literal of either dialect."""
    return json.dumps(literal, ensure_ascii=False).replace("\x7f", r"\u007f")  # llguidance wants it so
