"""What the stand-in teacher answers about skills: examples for a brief, or the call of one request.

It knows the ten skills of skills.yaml (`requests`). Of other skills it has only the examples that it is
shown, which it takes as phrases. A pure function of the messages: a generator that their hash seeds draws.
"""

import random
import re

from demo.teacher.phrases import Book
from demo.teacher.requests import PARAMETERS, read, write
from stages.core.hashing import stable_integer
from stages.kinds.skills.parts.calls import Call, call_or_none, write_call

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
FIELD = re.compile(r"^(Number|Function|Fallback|Topics): *(.*?) *$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
PARAMETER = re.compile(r'(\w+)=(?:"([^"\[]*)"|["\[])')  # in a signature; of an enum also its values
OPENINGS = "please ", "can you ", "could you please ", ""
TRIES = 30  # for each example that is to be written
Shown = list[tuple[str, Call]]  # examples: each a request with slots for its values, and its call


def asks_for_skills(texts: list[str]) -> bool:
    """Whether a chat request lists functions and asks for examples of requests, or for the call of one."""
    asked = BRIEF.search(texts[-1]) or REQUEST.search(texts[-1])
    return bool(asked and SIGNATURE.search("\n".join(texts)))


def skill_answer(messages: list[dict]) -> str:
    """The answer: lines `request TAB call` for a brief, or the one call of a request."""
    prompt = messages[-1]["content"]
    if asked := REQUEST.search(prompt):
        around = "\n".join(str(message["content"]) for message in messages).replace(asked[0], "")
        return labelled(asked[1], dict(SIGNATURE.findall(around)), as_phrases(around))
    chance = random.Random(stable_integer("skills", prompt))
    return "\n".join(f"{user}\t{call}" for user, call in written(prompt, chance))


def knows(skill: str, skills: dict[str, str]) -> bool:
    """Whether this is one of the ten skills with just their parameters, not only its name."""
    expected = {PARAMETERS.get(skill)} | ({"action"} if skill == "notes" else set())
    return skill in PARAMETERS and {name for name, _ in PARAMETER.findall(skills.get(skill, ""))} == expected


def call_of(skill: str, value: str | None, fallback: str = "other") -> str:
    """The call of one of the ten skills with its value, or without one."""
    given = {"action": "list" if value is None else "add"} if skill == "notes" else {}
    given |= {} if value is None else {PARAMETERS[skill]: value}
    return write_call(Call(fallback, {}) if skill == "other" else Call(skill, given))


def written(brief: str, chance: random.Random) -> list[tuple[str, str]]:
    """(request, call) for a brief, all of them different; fewer than it asks for where there are no more."""
    fields, skills = dict(FIELD.findall(brief)), dict(SIGNATURE.findall(brief))
    count = int(fields["Number"]) if re.fullmatch("[0-9]{1,4}", fields.get("Number", "")) else 10
    topics = [topic for topic in re.split(r"\s*;\s*", fields.get("Topics", "")) if topic]
    asked, fallback = fields.get("Function", "").partition("(")[0], fields.get("Fallback") or "other"
    # what is nearly for one of the skills is talk about it
    target = "other" if asked == fallback or BRIEF.search(brief)[1] == "near_miss" else asked
    known = target == "other" or knows(target, skills)
    shown = [each for each in as_phrases(brief) if each[1].name == asked]
    rows: dict[str, tuple[str, str]] = {}
    for _ in range(count * TRIES * (known or bool(shown))):
        if len(rows) == count:
            break
        if known:
            user, value = write(target, topics, chance)
            call = call_of(target, value, fallback)
        else:
            user, call = recombined(shown, skills[asked], topics, chance)
        rows.setdefault(user.casefold(), (user, call))
    return list(rows.values())


def labelled(request: str, skills: dict[str, str], shown: Shown) -> str:
    """The call of a request: as one of the ten skills, else in the wording of an example that was shown."""
    skill, value = read(request)
    if skill != "other" and (not skills or knows(skill, skills)):
        return call_of(skill, value)
    for phrase, call in shown:
        wording = rf"(?:{'|'.join(OPENINGS)}){Book({}).regex(phrase)}"
        match = not knows(call.name, skills) and re.fullmatch(wording, f"{request} ", re.I)
        said = {key: text.strip(" .,;:!?\"'") for key, text in match.groupdict().items()} if match else {}
        if match and all(
            isinstance(call.arguments[key], str) or text.isdigit() for key, text in said.items()
        ):
            return with_values(call, said)
    without = [name for name, parameters in skills.items() if not parameters]
    return call_of("other", None, without[0] if without and "other" not in skills else "other")


def as_phrases(prompt: str) -> Shown:
    """The examples of a prompt, which stand for skills of which nothing else is known."""
    shown = []
    for user, text in SHOWN.findall(prompt):
        if call := call_or_none(text):
            phrase = re.sub(r"[\[\](){}<>|]|\.\.", " ", user.rstrip(".?! "))
            for key, value in sorted(call.arguments.items(), key=lambda item: -len(str(item[1]))):
                found = rf"(?<![\w<]){re.escape(str(value))}(?![\w>])"
                phrase = re.sub(found, f"<{key}>", phrase, count=1) if str(value) else phrase
            shown.append((phrase, call))
    return shown


def recombined(shown: Shown, parameters: str, topics: list[str], chance: random.Random) -> tuple[str, str]:
    """(a shown request with other values of the same parameters, or topics for them; its call)."""
    phrase, call = chance.choice(shown)
    said = {}
    for key in re.findall(r"<(\w+)>", phrase):
        enum = dict(PARAMETER.findall(parameters)).get(key)
        known = {str(other.arguments[key]) for _, other in shown if key in other.arguments}
        known |= set(topics if isinstance(call.arguments[key], str) else ())
        said[key] = chance.choice(enum.split("|") if enum else sorted(known))
        phrase = phrase.replace(f"<{key}>", said[key])
    return chance.choice(OPENINGS) + phrase, with_values(call, said)


def with_values(call: Call, said: dict[str, str]) -> str:
    given = {key: type(call.arguments[key])(text) for key, text in said.items()}
    return write_call(Call(call.name, call.arguments | given))
