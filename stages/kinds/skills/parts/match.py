"""When an answered call is the right one: as the reference compares, exactly, or by normalised values.

docs/kinds/skills/calls.md has every rule with examples.
"""

import ast
import re

from text_to_num import alpha2digit

from stages.core.text import comparable
from stages.kinds.skills.parts.calls import Call, Value
from stages.kinds.skills.parts.schema import Skills

STRAIGHT = str.maketrans("“”„«»‘’‚`", '"""""\'\'\'\'')
# text2num would make 22nd of "twenty second", and 51000000 of "5 million".
KEPT = re.compile(r"(\bsecond\b|(?<=\d )(?:hundred|thousand|million|billion)\b)")
FACTORIAL = re.compile(r"[\d)]!$")


def ast_compat(gold: str, answer: str) -> bool:
    """The reference's match: one function, as many arguments, and equal syntax trees, pairwise and in order.

    The style of quotes is of no meaning; case, spacing inside values and the order of arguments are. What
    cannot be read is no match.
    """
    try:
        left, right = (ast.parse(text.strip(), mode="eval").body for text in (gold, answer))
        sides = [(call.func.id, call.args, call.keywords) for call in (left, right)]
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        return False
    (name, args, keywords), (other, other_args, other_keywords) = sides
    if name != other or len(args) != len(other_args) or len(keywords) != len(other_keywords):
        return False
    pairs = zip([*args, *keywords], [*other_args, *other_keywords], strict=True)
    return all(ast.dump(one) == ast.dump(two) for one, two in pairs)


def same(gold: Call, answer: Call) -> bool:
    """Equal names and exactly equal values, types included, in whatever order the arguments are."""
    return gold.name == answer.name and _typed(gold) == _typed(answer)


def normalised_match(gold: Call, answer: Call, skills: Skills) -> bool:
    """Equal names and normalised values, after `Skills.canonical`, which takes out what says nothing.

    A text never equals a number or a truth value; 3 equals 3.0.
    """
    left, right = (skills.canonical(call) for call in (gold, answer))
    return left.name == right.name and _normal(left) == _normal(right)


def normal_value(value: Value) -> str:
    """A value as it is compared: NFKC, one case, no white space, digits for number words.

    Off too: quotes around it, and a final full stop, question or exclamation mark. Articles stay, and so do
    `second` (a unit of time more often than an ordinal) and the sign of a factorial.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(int(value)) if value == int(value) else repr(value)
    text = comparable(value).translate(STRAIGHT)
    return "".join(_digits(_bare(" ".join(text.split()))).split())


def _bare(text: str) -> str:
    """Without quotes around it and the mark at its end, however many there are."""
    before = None
    while text != before:
        before = text
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1].strip()
        if not FACTORIAL.search(text):
            text = text.rstrip(".?!").rstrip() or text
    return text


def _digits(text: str) -> str:
    """The text with digits for its number words, except in what KEPT matches."""
    parts = KEPT.split(text)  # every second part is one that is kept
    parts[::2] = [alpha2digit(part, "en", 0) for part in parts[::2]]
    return "".join(parts)


def _typed(call: Call) -> dict[str, tuple[type, Value]]:
    return {name: (type(value), value) for name, value in call.arguments.items()}


def _normal(call: Call) -> dict[str, tuple[type, str]]:
    """The normalised values, each with its type, integers being floats."""
    return {
        name: (float if type(value) is int else type(value), normal_value(value))
        for name, value in call.arguments.items()
    }
