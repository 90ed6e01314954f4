"""What the embedded teacher answers about skills: examples for a brief, or the call of one request.

It knows ten skills (`skill_rules_write.PARAMETERS`): it writes requests for them from phrases and reads any
request with `skill_rules_label`. Of other skills it only has the examples that it is shown: it writes these
again with their values swapped, and reads what has their wording. A pure function of the messages: random
choices are drawn by a generator that their hash seeds.
"""

import json
import random
import re
from typing import NamedTuple

from demo.teacher.skills_label import label
from demo.teacher.skills_write import PARAMETERS, call_of, example
from stages.core.hashing import stable_integer

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
PARAMETER = re.compile(r'(\w+)=(?:"([^"\[]*)"|["\[])')  # in a signature; of an enum also its values
ARGUMENT = re.compile(r"""(\w+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,"'()]+)""")
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
    asked = REQUEST.search(prompt)
    if asked:
        around = "\n".join(str(message["content"]) for message in messages).replace(asked[0], "")
        return labelled(asked[1], signatures(around), SHOWN.findall(around))
    brief = read_brief(prompt)
    chance = random.Random(stable_integer("skills", prompt))
    return "\n".join(f"{user}\t{call}" for user, call in written(brief, chance))


def read_brief(prompt: str) -> Brief:
    def field(name: str) -> str:
        found = re.search(rf"^{name}: (.*)$", prompt, re.M)
        return found[1].strip() if found else ""

    number = field("Number")
    return Brief(
        variety=BRIEF.search(prompt)[1],
        count=int(number) if re.fullmatch("[0-9]{1,4}", number) else 10,
        skill=field("Function").partition("(")[0],
        fallback=field("Fallback") or "other",
        topics=[topic.strip() for topic in field("Topics").split(";") if topic.strip()],
        shown=SHOWN.findall(prompt),
        skills=signatures(prompt),
    )


def signatures(text: str) -> dict[str, str]:
    """The functions that a text lists, `- name(parameters): purpose`: their parameters by name."""
    return dict(SIGNATURE.findall(text))


def knows(skill: str, skills: dict[str, str], fallback: str) -> bool:
    """Whether this is one of the ten skills with just their parameters, not only its name."""
    if skill == fallback:
        return True
    own = PARAMETERS.get(skill)
    expected = {own, "action"} if skill == "notes" else {own}
    return own is not None and {name for name, _ in PARAMETER.findall(skills.get(skill, ""))} == expected


def written(brief: Brief, chance: random.Random) -> list[tuple[str, str]]:
    """(request, call) for a brief, all of them different; fewer than it asks for where there are no more."""
    found: dict[str, tuple[str, str]] = {}
    for _ in range(brief.count * TRIES):
        if len(found) == brief.count:
            break
        user, call = _one(brief, chance)
        if user:
            found.setdefault(user.casefold(), (user, call))
    return list(found.values())


def _one(brief: Brief, chance: random.Random) -> tuple[str, str]:
    skill = "other" if brief.skill == brief.fallback or brief.variety == "other" else brief.skill
    if not knows(brief.skill, brief.skills, brief.fallback):
        if brief.variety != "near_miss":
            return recombined(brief, chance)
        skill = "other"
    user, target, value = example(skill, brief.variety, brief.topics, chance)
    if target != "other" and not knows(target, brief.skills, brief.fallback):
        return "", ""
    return user, call_of(target, value, brief.fallback)


def recombined(brief: Brief, chance: random.Random) -> tuple[str, str]:
    """A shown example with other values of the same parameters, or with a topic in their place."""
    usable = [(user, arguments(call)) for user, call in brief.shown if call.startswith(f"{brief.skill}(")]
    if not usable:
        return "", ""
    user, given = chance.choice(usable)
    enums, made, fresh = enums_of(brief.skills.get(brief.skill, "")), "", dict(given)
    for part, name in pieces(user, given):
        if name in enums:
            part = chance.choice(enums[name])
        elif name:
            topics = brief.topics if is_text(given[name]) else []
            part = chance.choice(sorted({meant(own[name]) for _, own in usable if name in own} | set(topics)))
        if name:
            fresh[name] = put(part, given[name])
        made += part
    opening = chance.choice(["", "", "please ", "can you ", "could you please ", "hey, "])
    return (f"{opening}{made[:1].lower()}{made[1:]}" if opening else made), call_with(brief.skill, fresh)


def labelled(request: str, skills: dict[str, str], shown: list[tuple[str, str]]) -> str:
    """The call of a request: as one of the ten skills, else in the wording of an example that was shown."""
    skill, value = label(request)
    if skill != "other" and (not skills or knows(skill, skills, "other")):
        return call_of(skill, value)
    # "open the window" is no program, whatever example there is for the ten skills
    foreign = [(user, call) for user, call in shown if not knows(call.partition("(")[0], skills, "other")]
    return _as_shown(request, skills, foreign) or call_of("other", None, _fallback(skills))


def _fallback(skills: dict[str, str]) -> str:
    without = [name for name, parameters in skills.items() if not parameters]
    return without[0] if without and "other" not in skills else "other"


def _as_shown(request: str, skills: dict[str, str], shown: list[tuple[str, str]]) -> str | None:
    for user, call in shown:
        name, given = call.partition("(")[0], arguments(call)
        parts, enums = pieces(user.rstrip(".?! "), given), enums_of(skills.get(name, ""))
        wording = "".join(
            f"({_pattern(given[key], enums.get(key))})" if key else re.escape(part) for part, key in parts
        )
        found = re.fullmatch(
            rf"(?:(?:please|can you|could you please|hey),? )?{wording}[.?!]?", request.strip(), re.I
        )
        if found:
            values = zip([key for _, key in parts if key], found.groups(), strict=True)
            return call_with(name, given | {key: put(value, given[key]) for key, value in values})
    return None


def _pattern(shown: str, values: list[str] | None) -> str:
    """What a value may be in place of the one shown."""
    if values:
        return "|".join(map(re.escape, values))
    return ".+?" if is_text(shown) else r"-?\d+(?:\.\d+)?"


# The arguments of a shown call, each as it is written there: a text in its quotes.


def arguments(call: str) -> dict[str, str]:
    return dict(ARGUMENT.findall(call))


def call_with(name: str, given: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"


def is_text(written: str) -> bool:
    return written[0] in "\"'"


def meant(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1]) if is_text(written) else written


def put(value: str, like: str) -> str:
    return json.dumps(value, ensure_ascii=False) if is_text(like) else value


def enums_of(parameters: str) -> dict[str, list[str]]:
    """The values of those parameters of a signature that have only some, `state="on|off"`."""
    return {name: values.split("|") for name, values in PARAMETER.findall(parameters) if values}


def pieces(user: str, given: dict[str, str]) -> list[tuple[str, str | None]]:
    """A request in parts, each with the argument that it is the value of, or None; each argument once."""
    names: dict[str, list[str]] = {}
    for name, written in given.items():
        names.setdefault(meant(written), []).append(name)
    values = "|".join(re.escape(value) for value in sorted(names, key=len, reverse=True) if value)
    parts = re.split(rf"(?<!\w)({values})(?!\w)", user) if values else [user]
    return [
        (part, names[part].pop(0) if place % 2 and names[part] else None) for place, part in enumerate(parts)
    ]
