"""What the embedded teacher answers about skills: examples for a brief, or the call of one request.

It knows ten skills (`skill_rules_write.PARAMETERS`): it writes requests for them from phrases and reads any
request with `skill_rules_label`. Of other skills it only has the examples that it is shown: it writes these
again with their values swapped, and reads what has their wording. A pure function of the messages: random
choices are drawn by a generator that their hash seeds.
"""

import random
import re
from typing import NamedTuple

from stages.support.hashing import stable_integer
from stages.teacher.skill_rules_label import label
from stages.teacher.skill_rules_write import PARAMETERS, call_of, example, written_call

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
VALUE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
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


def asks_for_skills(messages: list[dict]) -> bool:
    """Whether a chat request asks for examples of requests, or for the call of one."""
    prompt = messages[-1]["content"]
    return bool(BRIEF.search(prompt) or REQUEST.search(prompt))


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

    return Brief(
        variety=BRIEF.search(prompt)[1],
        count=int(field("Number") or 10),
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
    """Whether this is one of the ten skills, not only its name."""
    if skill == fallback:
        return True
    parameter = PARAMETERS.get(skill)
    return parameter is not None and f"{parameter}=" in skills.get(skill, "")


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
    usable = [(user, call) for user, call in brief.shown if call.startswith(f"{brief.skill}(")]
    if not usable:
        return "", ""
    user, call = chance.choice(usable)
    for name, value in VALUE.findall(call):
        others = {other for _, text in usable for key, other in VALUE.findall(text) if key == name}
        fresh = chance.choice(sorted(others | set(brief.topics)))
        if value and value in user:
            user = user.replace(value, fresh, 1)
            call = call.replace(f'{name}="{value}"', f'{name}="{fresh}"', 1)
    opening = chance.choice(["", "", "please ", "can you ", "could you please ", "hey, "])
    return (f"{opening}{user[:1].lower()}{user[1:]}" if opening else user), call


def labelled(request: str, skills: dict[str, str], shown: list[tuple[str, str]]) -> str:
    """The call of a request: as one of the ten skills, else in the wording of an example that was shown."""
    skill, value = label(request)
    if skill != "other" and (not skills or knows(skill, skills, "other")):
        return call_of(skill, value)
    return _as_shown(request, shown) or call_of("other", None, _fallback(skills))


def _fallback(skills: dict[str, str]) -> str:
    without = [name for name, parameters in skills.items() if not parameters]
    return without[0] if without and "other" not in skills else "other"


def _as_shown(request: str, shown: list[tuple[str, str]]) -> str | None:
    for user, call in shown:
        values = [(name, value) for name, value in VALUE.findall(call) if value and value in user]
        pattern = re.escape(user.rstrip(".?! "))
        for name, value in values:
            pattern = pattern.replace(re.escape(value), f"(?P<{name}>.+?)", 1)
        found = re.fullmatch(
            rf"(?:(?:please|can you|could you please|hey),? )?{pattern}[.?!]?", request.strip(), re.I
        )
        if found:
            kept = {name: value for name, value in VALUE.findall(call)}
            return written_call(call.partition("(")[0], {**kept, **found.groupdict()})
    return None
