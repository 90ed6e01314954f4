"""Requests for the ten skills of skills.yaml: written in a manner of speech, and read by the same phrases.

`write` gives a request with the skill and the value that it is for; `read` finds these for any request. A
value is None where there is none: of `notes`, the notes are to be listed then.
"""

import functools
import random
import re
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from demo.teacher.amounts import Amounts
from demo.teacher.phrases import AFTER, Book, any_words, entries, tidy, word_regex

PARAMETERS = {
    "weather": "location", "timecheck": "location", "timer": "duration", "news": "topic", "math": "question",
    "notes": "note", "story": "description", "runapp": "program", "openai": "prompt", "other": None,
}  # fmt: skip
# The slots that may hold what sounds like a skill, and whose they are.
NEAR_MISS = {"event": "notes", "idea": "story", "subject": "openai", "topic": "news", "program": "runapp"}
FREE_TEXT = ("notes", "openai", "story", "other")  # too long to take back
STYLES = ("typed", "typed", "careless", "heard", "heard")
TRIES = 30  # phrases, until one has a value, or none
WITH_VALUE = 0.75  # share of the requests that have one, of skills that can do without
LEAST = 4  # letters that a part of a text shares with a phrase if it is a request
PART = 3  # letters less that a part counts than all of the text
ASKS = re.compile(r"\W*(?:what|how|who|why|when|where|which|is|are|do|does|can|could|will|any)\b", re.I)
PAUSE = re.compile(r"[,.;:!?…][\"'”’)]?\s+|\b(?:so|and)\s+")
SENTENCE_END = re.compile(r"(?<!\bdr)(?<!\bmr)(?<!\bmrs)[.!?…][\"'”’)]?\s+$")


class Phrase(NamedTuple):
    """`meaning` has the value with its slots, `Do <animals> <ability>?`; "" means that of the only slot."""

    skill: str
    text: str
    meaning: str
    regex: re.Pattern


class Reading(NamedTuple):
    """`score`: the letters that the phrase has in common with the request."""

    skill: str = "other"
    value: str | None = None
    score: int = 0


class Requests:
    """skills.yaml, which reads requests and has what `Request` writes."""

    def __init__(self, source: dict):
        lists = {name: entries(text) for name, text in (source["words"] | source["values"]).items()}
        self.slots, slots = {}, {}
        for name, fields in source["slots"].items():
            fields = {key: self._with_words(text, source["words"]) for key, text in fields.items()}
            self.slots[name] = entries(fields.pop("write", fields.get("only", "")))
            only = "|".join("".join(map(word_regex, one.split())) for one in entries(fields.get("only", "")))
            slots[name] = only or any_words(**fields)
        self.closed = {name for name, fields in source["slots"].items() if "only" in fields}
        coined = frozenset(source["coined"].split())
        self.book = Book(lists, slots, frozenset(source["values"]), coined)
        self.amounts = Amounts(source["arithmetic"], source["durations"])
        self.speech = {name: entries(text) for name, text in source["speech"].items()}
        self.near_misses = {
            skill: {kind: entries(text) for kind, text in kinds.items()}
            for skill, kinds in source["near_miss"].items()
        }
        self.phrases = [
            self._phrase(skill, line.strip())
            for skill, text in source["skills"].items()
            for line in text.splitlines()
        ]
        talk = [*lists["talk"], *(each for near in self.near_misses.values() for each in near["talk"])]
        self.phrases += [self._phrase("other", text) for text in talk]
        self.filler = re.compile(rf"\b(?:{'|'.join(self.speech['filler'])})\b[,.]? ", re.I)
        self.opening, closing, self.repair = (
            re.compile(f"(?:{'|'.join(sorted(map(self.book.regex, filter(None, texts)), key=len, reverse=True))})")
            for texts in (
                self.speech["call"] + self.speech["polite"] + self.speech["aside"],
                self.speech["closing"],
                self.speech["repair"],
            )
        )
        self.closing = re.compile(rf"(?<=\s){closing.pattern}$")

    @staticmethod
    def _with_words(text, words: dict[str, str]):
        return re.sub(r"\{(\w+)\}", lambda mark: words.get(mark[1], mark[0]), text) if isinstance(text, str) and "write" not in text else text

    def _phrase(self, skill: str, text: str) -> Phrase:
        said, _, meaning = text.partition(" => ")
        return Phrase(skill, said, meaning, re.compile(self.book.regex(said.removeprefix("~"))))

    def read(self, request: str) -> Reading:
        """By the phrase of which most words are its own, which leaves least to its values.

        A request may stand among sentences that ask for nothing; `other` where no phrase fits.
        """
        text = self.filler.sub("", " ".join(request.split()).strip("\"'“”") + " ")
        starts = [0, *(match.end() for match in PAUSE.finditer(text) if match.end() < len(text))]
        ends = {place for place in starts if SENTENCE_END.search(text.lower(), 0, place)}
        best = Reading()
        for stop in [len(text), *sorted(ends, reverse=True)]:
            for start in starts:
                reading = self._stretch(text[start:stop]) if start < stop else None
                if reading and (start, stop) != (0, len(text)):
                    begins = start == 0 or start in ends
                    fits = reading.skill != "other" and (reading.score >= LEAST or begins)
                    reading = reading._replace(score=max(0, reading.score - PART)) if fits else None
                if reading and (reading.score, reading.skill != "other") > (best.score, best.skill != "other"):
                    best = reading
        return best

    def _stretch(self, text: str) -> Reading | None:
        """Text without the greetings and politeness around it, and without what is taken back."""
        best = None
        repair = re.search(rf"(?<= ){self.repair.pattern}(?=.)", text.lower())
        if repair:
            before = [match.end() for match in re.finditer(r"^|\s+", text[: repair.start()])]
            readings = [self._stretch(text[:kept] + text[repair.end() :]) or Reading() for kept in before]
            best = max(readings, key=lambda reading: reading.score)
            if best.skill != "other":
                return best
        while text:
            reading = self._best(text)
            if reading and (not best or reading.score >= best.score):
                best = reading
            # a false start is said twice: "set a set a timer"
            if before := self.opening.match(text.lower()) or re.match(r"((?:\S+ ){1,3})(?=\1)", text.lower()):
                text = text[before.end() :]
            elif after := self.closing.search(text.lower()):
                text = text[: after.start()]
            else:
                break
        return best

    def _best(self, text: str) -> Reading | None:
        plain = "".join(char.lower()[:1] for char in text)  # as long as the text: places are the same
        best, score_of_best = None, 0
        for phrase in self.phrases:
            if match := phrase.regex.fullmatch(plain):
                slots = {name: match.span(name) for name, part in match.groupdict().items() if part}
                free = sum(len(part) for part in match.groups() if part)
                free -= sum(stop - start for name, (start, stop) in slots.items() if name in self.closed)
                # talk has loose lists, which take in anything
                score = len(text) - free * (1 + (phrase.skill == "other"))
                if score > (score_of_best if best else -(phrase.skill != "other")):
                    values = {name: self.value_of(name, text[start:stop]) for name, (start, stop) in slots.items()}
                    if None not in values.values():
                        best, score_of_best = Reading(phrase.skill, value_of(phrase, values), score), score
        return best

    def value_of(self, name: str, said: str) -> str | None:
        """What the words of a slot mean; None if they cannot be its value."""
        if name in ("duration", "length"):
            return self.amounts.duration(said)
        if name == "sum":
            return self.amounts.expression(said)
        said = re.sub(r"""^["“‘'(]+|[\s.,;:!?"”’…]+$|(?<!s)'\s*$""", "", said)
        if name == "topic":
            return re.sub(r"^(?:the|an?) (?=\S)", "", said, flags=re.I)
        if name == "place":
            return re.sub("['’]s$", "", said) or None
        return (said.removesuffix("s") if name == "does" else said) or None


def value_of(phrase: Phrase, values: dict[str, str]) -> str | None:
    """The value of a request, from those of its slots."""
    if not phrase.meaning:
        return next(iter(values.values()), None)
    said = re.sub(r"<(\w+)>", lambda mark: values[mark[1]], phrase.meaning)
    return said[:1].upper() + said[1:] if said.endswith("?") else said


class Request:
    """A request that is being written: how it is said is drawn first."""

    def __init__(self, grammar: Requests, topics: list[str], variety: str, chance: random.Random):
        self.grammar, self.variety, self.chance = grammar, variety, chance
        self.book = grammar.book._replace(lists=grammar.book.lists | {"seed": topics or ["music"]})
        self.style = chance.choice(STYLES)
        self.near: dict[str, list[str]] = {}  # of a near miss: the slot that holds what sounds like the skill

    def written(self, skill: str) -> tuple[str, str, str | None]:
        """(what a user says, the skill that it is for, its value)."""
        phrases, valued = self.grammar.phrases, self.variety == "multi" or self.chance.random() < WITH_VALUE
        if self.variety == "near_miss":
            kinds = self.grammar.near_misses[skill if skill != "other" else "story"]
            kind = self.chance.choice([*kinds, "talk"])
            slots = [name for name in ("event", "idea", "subject", "topic") if NEAR_MISS[name] != skill]
            slot = self.chance.choice(slots) if kind == "subject" else kind
            self.near = {slot: kinds[kind]}
            skill = NEAR_MISS.get(slot, "other")
            if kind == "talk":
                phrases = [Phrase("other", text, "", PAUSE) for text in kinds["talk"]]
            else:
                phrases = [each for each in phrases if f"<{slot}>" in each.text]
        elif self.variety == "other":
            skill = "other"
        phrases = [each for each in phrases if each.skill == skill]
        for _ in range(TRIES):
            phrase = self.chance.choice(phrases)
            said = self.book.write(phrase.text.removeprefix("~"), self.chance)
            slots = re.findall(r"<(\w+)>", said)
            if skill == "other" or (set(self.near) & set(slots) if self.near else bool(slots) == valued):
                break
        heard = {name: self._value(name) for name in slots}
        wrong = self.style == "heard" and len(slots) == 1 and skill not in FREE_TEXT and self.chance.random() < 0.1
        said = re.sub(r"<(\w+)>", lambda mark: heard[mark[1]][0], said)
        if wrong:
            text = heard[slots[0]][0]
            said = said.replace(text, f"{self._value(slots[0])[0]} {self._draw('repair')} {text}")
        said = self._spoken(said, phrase, [text for text, _ in heard.values()])
        value = value_of(phrase, {name: meant for name, (_, meant) in heard.items()})
        return said, skill, respelt(value, said) if value and "sum" not in heard else value

    def _value(self, name: str) -> tuple[str, str]:
        """(a value of a slot as it is said, what it means)."""
        heard, amounts = self.style == "heard", self.grammar.amounts
        if name == "sum":
            return amounts.write_sum(self.chance, heard)
        if name in ("duration", "length"):
            return amounts.write_duration(self.chance, heard, name)
        said = self.book.write(self.chance.choice(self.near.get(name) or self.grammar.slots[name]), self.chance)
        return said, self.grammar.value_of(name, said)

    def _draw(self, name: str, share: float = 1) -> str:
        """One of the words of `speech` in this share of the cases, else nothing."""
        return self.book.write(self.chance.choice(self.grammar.speech[name]), self.chance) if self.chance.random() < share else ""

    def _spoken(self, said: str, phrase: Phrase, values: list[str]) -> str:
        """The request in its style, with what a person says before and after it."""
        chance, heard, typed = self.chance, self.style == "heard", self.style == "typed"
        if phrase.skill == "other":
            said = f"{self._draw('filler', 0.3 * heard)} {self._draw('aside', 0.5)} {said}"
        else:
            again = " ".join(said.split()[: chance.randint(1, 2)])  # a false start
            if heard and not any(again in value for value in values) and chance.random() < 0.1:
                said = f"{again} {said}"
            said = f"{self._draw('polite', 0.5 * phrase.text.startswith('~'))} {said}"
            call, closing = self._draw("call", 0.5), self._draw("closing", 0.5)
            said = f"{call}{',' * bool(typed and call)} {said}{',' * bool(typed and closing)} {closing}"
            said = f"{self._draw('filler', 0.3 * heard)} {said}"
            if chance.random() < (0.4 if self.variety == "multi" else 0.06):
                said = f"{self._draw('before')}{' so' if heard else chance.choice(['.', ',', ', so'])} {said}"
        said = tidy(said)
        if typed:
            mark = "?" if ASKS.match(said) and phrase.skill != "other" else chance.choice([".", ".", "", "!"])
            said = re.sub(r"[.,]\.$", ".", f"{said[:1].upper()}{said[1:]}{mark}")
            return re.sub(r"(?<=[.!?] )[a-z]", lambda letter: letter[0].upper(), said)
        said = said.lower() if heard or chance.random() < 0.6 else said
        if not heard and "'s " not in phrase.text and chance.random() < 0.4:
            said = re.sub(r"(?<=\w)'(?=\w)", "", said)
        return re.sub(r"[?.!,](?= |$)" if heard else "[?.!,]+$", "", said)


def respelt(value: str, said: str) -> str:
    """The value as it stands in the request, if it does but for its case, apostrophes and commas."""
    loose = "[',]?".join(re.escape(char) for char in re.sub("[',]", "", value))
    match = re.search(rf"(?<!\w){loose}(?!\w)", said, re.I)
    return match[0] if match else value


@functools.cache
def grammar() -> Requests:
    return Requests(YAML(typ="safe").load(Path(__file__).with_name("skills.yaml")))


def read(request: str) -> tuple[str, str | None]:
    """(the skill of a request, its value)."""
    reading = grammar().read(request)
    return reading.skill, reading.value


def write(skill: str, variety: str, topics: list[str], chance: random.Random) -> tuple[str, str, str | None]:
    """(what a user says, the skill that it is for, its value): one request of a variety of a skill."""
    return Request(grammar(), topics, variety, chance).written(skill)
