"""What the stand-in teacher answers about skills: examples for a brief, or the call of one request.

It knows the ten skills of skills.yaml (`requests`). Of other skills it has only the examples that it is
shown, which it takes as phrases (`Shown`). A pure function of the messages: random choices are drawn by a
generator that their hash seeds.
"""

import json
import random
import re
from typing import NamedTuple

from demo.teacher.phrases import Book, Node, Slot, Words, text_of
from demo.teacher.requests import PARAMETERS, read, write
from stages.core.hashing import stable_integer

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
PARAMETER = re.compile(r'(\w+)=(?:"([^"\[]*)"|["\[])')  # in a signature; of an enum also its values
ARGUMENT = re.compile(r"""(\w+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,"'()]+)""")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
TRIES = 30  # for each example that is still to be written


class Brief(NamedTuple):
    """What is to be written. `skills` has the parameters of each function by its name."""

    variety: str
    count: int
    skill: str
    fallback: str
    topics: list[str]
    shown: list[tuple[str, str]]
    skills: dict[str, str]


def asks_for_skills(texts: list[str]) -> bool:
    """Whether a chat request lists functions and asks for examples of requests, or for the call of one."""
    asked = BRIEF.search(texts[-1]) or REQUEST.search(texts[-1])
    return bool(asked and SIGNATURE.search("\n".join(texts)))


def skill_answer(messages: list[dict]) -> str:
    """The answer: lines `request TAB call` for a brief, or the one call of a request."""
    prompt = messages[-1]["content"]
    if asked := REQUEST.search(prompt):
        around = "\n".join(str(message["content"]) for message in messages).replace(asked[0], "")
        return labelled(asked[1], dict(SIGNATURE.findall(around)), SHOWN.findall(around))
    chance = random.Random(stable_integer("skills", prompt))
    return "\n".join(f"{user}\t{call}" for user, call in written(read_brief(prompt), chance))


def read_brief(prompt: str) -> Brief:
    def field(name: str) -> str:
        line = re.search(rf"^{name}: (.*)$", prompt, re.M)
        return line[1].strip() if line else ""

    number = field("Number")
    return Brief(
        variety=BRIEF.search(prompt)[1],
        count=int(number) if re.fullmatch("[0-9]{1,4}", number) else 10,
        skill=field("Function").partition("(")[0],
        fallback=field("Fallback") or "other",
        topics=[topic.strip() for topic in field("Topics").split(";") if topic.strip()],
        shown=SHOWN.findall(prompt),
        skills=dict(SIGNATURE.findall(prompt)),
    )


def knows(skill: str, skills: dict[str, str], fallback: str) -> bool:
    """Whether this is one of the ten skills with just their parameters, not only its name."""
    parameter = PARAMETERS.get(skill)
    expected = {parameter, "action"} if skill == "notes" else {parameter}
    names = {name for name, _ in PARAMETER.findall(skills.get(skill, ""))}
    return skill == fallback or parameter is not None and names == expected


def call_of(skill: str, value: str | None, fallback: str = "other") -> str:
    """The call of one of the ten skills with its value, or without one."""
    if skill == "other":
        return f"{fallback}()"
    given = {} if value is None else {PARAMETERS[skill]: value}
    if skill == "notes":
        given = {"action": "list" if value is None else "add", **given}
    return call_with(skill, {name: json.dumps(said, ensure_ascii=False) for name, said in given.items()})


def call_with(name: str, given: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"


def written(brief: Brief, chance: random.Random) -> list[tuple[str, str]]:
    """(request, call) for a brief, all of them different; fewer than it asks for where there are no more."""
    rows: dict[str, tuple[str, str]] = {}
    known = knows(brief.skill, brief.skills, brief.fallback)
    shown = Shown(brief.shown, brief.skills, brief.skill)
    for _ in range(brief.count * TRIES):
        if len(rows) == brief.count:
            break
        if known or brief.variety == "near_miss":
            skill, variety = (brief.skill, brief.variety) if known else ("other", "other")
            skill = "other" if skill == brief.fallback else skill
            user, target, value = write(skill, variety, brief.topics, chance)
            if target != "other" and not knows(target, brief.skills, brief.fallback):
                continue
            call = call_of(target, value, brief.fallback)
        elif shown.phrases:
            user, call = shown.example(brief.topics, chance)
        else:
            break
        rows.setdefault(user.casefold(), (user, call))
    return list(rows.values())


def labelled(request: str, skills: dict[str, str], shown: list[tuple[str, str]]) -> str:
    """The call of a request: as one of the ten skills, else in the wording of an example that was shown."""
    skill, value = read(request)
    if skill != "other" and (not skills or knows(skill, skills, "other")):
        return call_of(skill, value)
    foreign = [(user, call) for user, call in shown if not knows(call.partition("(")[0], skills, "other")]
    if call := Shown(foreign, skills).read(request):
        return call
    without = [name for name, parameters in skills.items() if not parameters]
    return call_of("other", None, without[0] if without and "other" not in skills else "other")


class Shown:
    """Skills of which there are only the examples shown: each is a phrase whose values are its slots.

    A slot has the name of its skill and its parameter: `lights__room`.
    """

    def __init__(self, shown: list[tuple[str, str]], skills: dict[str, str], only: str = ""):
        self.phrases: list[tuple[str, Node, dict[str, str]]] = []
        self.values: dict[str, list[str]] = {}
        patterns: dict[str, str] = {}
        for user, call in shown:
            name, given = call.partition("(")[0], dict(ARGUMENT.findall(call))
            if only and name != only:
                continue
            enums = {
                key: values.split("|") for key, values in PARAMETER.findall(skills.get(name, "")) if values
            }
            plain = {f"{name}__{key}": meant(value) for key, value in given.items()}
            for slot, value in plain.items():
                self.values.setdefault(slot, []).append(value)
            self.values |= {f"{name}__{key}": values for key, values in enums.items()}
            self.phrases.append((name, as_phrase(user.rstrip(".?! "), plain), given))
            patterns |= {f"{name}__{key}": _any_of(values) for key, values in enums.items()}
        self.enums = set(patterns)
        for slot, values in self.values.items():
            if all(NUMBER.fullmatch(value) for value in values):
                patterns[slot] = f"{NUMBER.pattern} "
        self.book = Book({}, {slot: Slot(pattern=patterns.get(slot, "")) for slot in self.values})

    def example(self, topics: list[str], chance: random.Random) -> tuple[str, str]:
        """A shown request with its call, with other values of the same parameters, or topics for them."""
        name, tree, given = chance.choice(self.phrases)
        fresh = dict(given)

        def value(slot: str) -> str:
            key = slot.removeprefix(f"{name}__")
            more = topics if is_text(given[key]) and slot not in self.enums else []
            said = chance.choice(sorted({*self.values[slot], *more}))
            fresh[key] = put(said, given[key])
            return said

        said = text_of(self.book.write(tree, chance, value))
        opening = chance.choice(["", "", "please ", "can you ", "could you please ", "hey, "])
        return (f"{opening}{said[:1].lower()}{said[1:]}" if opening else said), call_with(name, fresh)

    def read(self, request: str) -> str | None:
        """The call of a request in the wording of one that is shown; None where it has another one."""
        words = Words(request)
        for name, tree, given in self.phrases:
            wording = f"(?:(?:please|can you|could you please|hey) )?{self.book.regex(tree)}"
            if match := re.fullmatch(wording, words.line(0, len(words.plain))):
                fresh = dict(given)
                for slot, part in match.groupdict().items():
                    first, key = match.string.count(" ", 0, match.start(slot)), slot.removeprefix(f"{name}__")
                    fresh[key] = put(words.original(first, first + part.count(" ")), given[key])
                return call_with(name, fresh)
        return None


def _any_of(values: list[str]) -> str:
    return f"(?:{'|'.join(Words(value).line(0, 9) for value in values)})"


def as_phrase(user: str, values: dict[str, str]) -> Node:
    """A request as a phrase with a slot in place of each value that stands in it, each of them once."""
    left = {slot: value for slot, value in values.items() if value}
    longest = sorted(left.values(), key=len, reverse=True)
    wanted = "|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in longest)
    nodes: list[Node] = []
    for part in re.split(f"({wanted})", user) if wanted else [user]:
        slot = next((slot for slot, value in left.items() if value == part), None)
        nodes.append(("slot", slot) if slot else ("words", part))
        left.pop(slot, None)
    return "all", nodes


# The arguments of a shown call, each as it is written there: a text in its quotes.


def is_text(written: str) -> bool:
    return written[0] in "\"'"


def meant(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1]) if is_text(written) else written


def put(value: str, like: str) -> str:
    return json.dumps(value, ensure_ascii=False) if is_text(like) else value
