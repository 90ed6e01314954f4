"""What the stand-in teacher answers about skills: examples for a brief, or the call of one request.

It knows the ten skills of skills.yaml (`requests`). Of other skills it has only the examples that it is
shown, which it takes as phrases (`Shown`). A pure function of the messages: random choices are drawn by a
generator that their hash seeds.
"""

import json
import random
import re

from demo.teacher.phrases import Book, any_words
from demo.teacher.requests import PARAMETERS, read, write
from stages.core.hashing import stable_integer

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
FIELD = re.compile(r"^(Number|Function|Fallback|Topics): *(.*?) *$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
PARAMETER = re.compile(r'(\w+)=(?:"([^"\[]*)"|["\[])')  # in a signature; of an enum also its values
ARGUMENT = re.compile(r"""(\w+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,"'()]+)""")
NUMBER = r"-?\d+(?:\.\d+)?\s+"
OPENINGS = ("", "", "please ", "can you ", "could you please ")
TRIES = 30  # for each example that is still to be written


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
    return "\n".join(f"{user}\t{call}" for user, call in written(prompt, chance))


def knows(skill: str, skills: dict[str, str], fallback: str) -> bool:
    """Whether this is one of the ten skills with just their parameters, not only its name."""
    expected = {PARAMETERS.get(skill)} | ({"action"} if skill == "notes" else set())
    names = {name for name, _ in PARAMETER.findall(skills.get(skill, ""))}
    return skill == fallback or skill in PARAMETERS and names == expected


def call_of(skill: str, value: str | None, fallback: str = "other") -> str:
    """The call of one of the ten skills with its value, or without one."""
    if skill == "other":
        return f"{fallback}()"
    given = {"action": "list" if value is None else "add"} if skill == "notes" else {}
    given |= {} if value is None else {PARAMETERS[skill]: value}
    return call_with(skill, {name: json.dumps(said, ensure_ascii=False) for name, said in given.items()})


def call_with(name: str, given: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"


def written(brief: str, chance: random.Random) -> list[tuple[str, str]]:
    """(request, call) for a brief, all of them different; fewer than it asks for where there are no more."""
    fields, skills, variety = dict(FIELD.findall(brief)), dict(SIGNATURE.findall(brief)), BRIEF.search(brief)[1]
    count = int(fields["Number"]) if re.fullmatch("[0-9]{1,4}", fields.get("Number", "")) else 10
    topics = [topic for topic in re.split(r"\s*;\s*", fields.get("Topics", "")) if topic]
    asked, fallback = fields.get("Function", "").partition("(")[0], fields.get("Fallback") or "other"
    known, shown = knows(asked, skills, fallback), Shown(SHOWN.findall(brief), skills, asked)
    if not known and variety == "near_miss":
        known, asked, variety = True, fallback, "other"
    rows: dict[str, tuple[str, str]] = {}
    for _ in range(count * TRIES * (known or bool(shown.phrases))):
        if len(rows) == count:
            break
        if known:
            user, target, value = write("other" if asked == fallback else asked, variety, topics, chance)
            if target != "other" and not knows(target, skills, fallback):
                continue
            call = call_of(target, value, fallback)
        else:
            user, call = shown.example(topics, chance)
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
    """Skills of which there are only the examples shown: each is a phrase whose values are its slots."""

    def __init__(self, shown: list[tuple[str, str]], skills: dict[str, str], only: str = ""):
        self.phrases: list[tuple[str, str, dict[str, str]]] = []
        self.values: dict[tuple[str, str], list[str]] = {}  # by skill and parameter
        self.enums = {
            (name, key): values.split("|")
            for name, parameters in skills.items()
            for key, values in PARAMETER.findall(parameters)
            if values
        }
        for user, call in shown:
            name, given = call.partition("(")[0], dict(ARGUMENT.findall(call))
            if only in ("", name):
                self.phrases.append((name, as_phrase(user, given), given))
                for key, value in given.items():
                    self.values.setdefault((name, key), []).append(meant(value))

    def example(self, topics: list[str], chance: random.Random) -> tuple[str, str]:
        """A shown request with its call, with other values of the same parameters, or topics for them."""
        name, phrase, given = chance.choice(self.phrases)
        fresh = dict(given)
        for key in re.findall(r"<(\w+)>", phrase):
            more = topics if is_text(given[key]) else []
            said = chance.choice(self.enums.get((name, key)) or sorted({*self.values[name, key], *more}))
            fresh[key] = json.dumps(said, ensure_ascii=False) if is_text(given[key]) else said
            phrase = phrase.replace(f"<{key}>", said)
        opening = chance.choice(OPENINGS)
        return (opening + phrase[:1].lower() + phrase[1:] if opening else phrase), call_with(name, fresh)

    def read(self, request: str) -> str | None:
        """The call of a request in the wording of one that is shown; None where it has another one."""
        text = " ".join(request.split()).rstrip(".?!") + " "
        for name, phrase, given in self.phrases:
            slots = {key: self._slot(name, key) for key in given}
            wording = f"(?:(?:{'|'.join(OPENINGS[2:])}))?{Book({}, slots).regex(phrase)}"
            if match := re.fullmatch(wording, text, re.I):
                found = {key: said.strip(" .,;:!?\"'") for key, said in match.groupdict().items()}
                said = {key: json.dumps(one, ensure_ascii=False) if is_text(given[key]) else one for key, one in found.items()}
                return call_with(name, given | said)
        return None

    def _slot(self, name: str, key: str) -> str:
        values = self.enums.get((name, key)) or []
        if values or not all(re.fullmatch(NUMBER, f"{value} ") for value in self.values[name, key]):
            return rf"(?:{'|'.join(map(re.escape, values))})\W+" if values else any_words(8)
        return NUMBER


def as_phrase(user: str, given: dict[str, str]) -> str:
    """A request as a phrase with a slot in place of each value that stands in it."""
    phrase = re.sub(r"[\[\](){}<>|]", " ", user.rstrip(".?! "))
    for key, value in sorted(given.items(), key=lambda item: -len(item[1])):
        if said := meant(value):
            phrase = re.sub(rf"(?<![\w<]){re.escape(said)}(?![\w>])", f"<{key}>", phrase, count=1)
    return phrase


# The arguments of a shown call, each as it is written there: a text in its quotes.


def is_text(written: str) -> bool:
    return written[0] in "\"'"


def meant(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1]) if is_text(written) else written
