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
from demo.teacher.phrases import Book, any_words, entries, tidy, words_regex

PARAMETERS = {
    "weather": "location", "timecheck": "location", "timer": "duration", "news": "topic", "math": "question",
    "notes": "note", "story": "description", "runapp": "program", "openai": "prompt", "other": None,
}  # fmt: skip
NEAR_MISS = {
    "event": "notes",
    "idea": "story",
    "subject": "openai",
    "topic": "news",
}  # slots for its subjects
STYLES = ("typed", "typed", "careless", "heard", "heard")
WITH_VALUE = 0.75  # share of the requests that have one, of skills that can do without
LEAST = 4  # letters that a part of a text shares with a phrase if it is a request
PART = 3  # letters less that a part counts than all of the text
PAUSE = re.compile(r"[,.;:!?…][\"'”’)]?\s+|\b(?:so|and)\s+")
SENTENCE_END = re.compile(r"(?<!\b[dm]r)(?<!\bmrs)[.!?…][\"'”’)]?\s+$", re.I)
ASKS = re.compile(r"\W*(?:what|how|who|why|when|where|which|is|are|do|does|can|could|will|any)\b", re.I)


class Phrase(NamedTuple):
    """`meaning` has the value with its slots, `Do <animals> <ability>?`; "" means that of the only slot."""

    skill: str
    text: str
    meaning: str = ""
    regex: re.Pattern | None = None  # of talk, which is what no phrase fits

    def value(self, values: dict[str, str]) -> str | None:
        """The value of a request, from those of its slots."""
        if not self.meaning:
            return next(iter(values.values()), None)
        said = re.sub(r"<(\w+)>", lambda mark: values[mark[1]], self.meaning)
        return said[:1].upper() + said[1:] if said.endswith("?") else said


class Reading(NamedTuple):
    """`score`: the letters that the phrase has in common with the request."""

    score: int
    skill: str
    value: str | None


class Reader:
    """Reads a request by the phrase of which most words are its own, which leaves least to its values."""

    def __init__(self):
        source = YAML(typ="safe").load(Path(__file__).with_name("skills.yaml"))
        words, self.slots, slots = source["words"], {}, {}
        # what such a slot matches is no other words
        self.closed = {"sum", "duration"} | {name for name, slot in source["slots"].items() if "only" in slot}
        for name, fields in source["slots"].items():
            self.slots[name] = entries(fields.pop("write", "") or fields.get("only", ""))
            for key in fields.keys() & {"never", "first_never"}:
                fields[key] = re.sub(r"\{(\w+)\}", lambda mark: words[mark[1]], fields[key])
            only = "|".join(map(words_regex, self.slots[name])) if "only" in fields else ""
            slots[name] = only or any_words(**fields)
        lists = {name: entries(text) for name, text in words.items()}
        self.book = Book(lists, slots, frozenset(source["coined"].split()))
        self.amounts = Amounts(source["arithmetic"], source["durations"])
        self.near_misses = source["near_miss"]
        self.phrases = [Phrase("other", text) for text in lists["talk"]]
        for skill, lines in source["skills"].items():
            for said, _, meaning in (line.partition(" => ") for line in lines.splitlines()):
                regex = re.compile(self.book.regex(said.removeprefix("~")))
                self.phrases.append(Phrase(skill, said, meaning, regex))
        self.filler = re.compile(rf"\b(?:{'|'.join(lists['filler'])})\b[,.]? ", re.I)
        self.opening = re.compile("|".join(map(self.book.regex, ("{polite}", "{call}", "{aside}"))))
        self.closing = re.compile(rf"(?<=\s){self.book.regex('{closing}')}$")

    def read(self, request: str) -> Reading | None:
        """A request may stand among sentences that ask for nothing; None where no phrase fits."""
        text = self.filler.sub("", " ".join(request.split()) + " ")
        starts = [0, *(match.end() for match in PAUSE.finditer(text) if match.end() < len(text))]
        ends = [start for start in starts if SENTENCE_END.search(text, 0, start)]
        best = self._stretch(text)
        for start in starts:
            for stop in (stop for stop in (len(text), *ends) if 0 < stop - start < len(text)):
                reading = self._stretch(text[start:stop])
                if reading and (reading.score >= LEAST or start in (0, *ends)):
                    reading = reading._replace(score=reading.score - PART)
                    best = reading if not best or reading.score > best.score else best
        return best

    def _stretch(self, text: str) -> Reading | None:
        """Text without the greetings and politeness around it."""
        best = None
        while text:
            reading = self._best(text)
            best = reading if reading and (not best or reading.score >= best.score) else best
            plain = text.lower()
            # a false start is said twice: "set a set a timer"
            before = self.opening.match(plain) or re.match(r"((?:\S+ ){1,3})(?=\1)", plain)
            after = self.closing.search(plain)
            if not before and not after:
                break
            text = text[: after.start()] if after else text[before.end() :]
        return best

    def _best(self, text: str) -> Reading | None:
        plain = "".join(char.lower()[:1] for char in text)  # as long as the text: places are the same
        best = None
        for phrase in self.phrases:
            if match := phrase.regex and phrase.regex.fullmatch(plain):
                slots = {name: match.span(name) for name, part in match.groupdict().items() if part}
                free = sum(stop - start for name, (start, stop) in slots.items() if name not in self.closed)
                if not best or len(text) - free > best.score:
                    values = {name: self.value_of(name, text[slice(*span)]) for name, span in slots.items()}
                    if None not in values.values():
                        best = Reading(len(text) - free, phrase.skill, phrase.value(values))
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
        said = re.sub("['’]s$", "", said) if name == "place" else said
        return (said.removesuffix("s") if name == "does" else said) or None


class Writer:
    """Writes a request: how it is said is drawn first."""

    def __init__(self, topics: list[str], variety: str, chance: random.Random):
        self.reader, self.variety, self.chance = reader(), variety, chance
        self.book = self.reader.book._replace(lists=self.reader.book.lists | {"seed": topics or ["music"]})
        self.style = chance.choice(STYLES)
        self.small = self.style == "heard" or (self.style == "careless" and chance.random() < 0.6)
        self.near: dict[str, list[str]] = {}  # of a near miss: the slot that holds what sounds like the skill

    def written(self, skill: str) -> tuple[str, str, str | None]:
        """(what a user says, the skill that it is for, its value)."""
        phrases, valued = self.reader.phrases, self.variety == "multi" or self.chance.random() < WITH_VALUE
        if self.variety == "near_miss":
            kinds = self.reader.near_misses[skill if skill != "other" else "story"]
            slot = self.chance.choice([*(slot for slot in NEAR_MISS if NEAR_MISS[slot] != skill), "talk"])
            self.near, skill = {slot: entries(kinds["subject"])}, NEAR_MISS.get(slot, "other")
            phrases = (
                phrases if slot != "talk" else [Phrase("other", text) for text in entries(kinds["talk"])]
            )
        skill = "other" if self.variety == "other" else skill
        phrases = [each for each in phrases if each.skill == skill]
        while True:
            phrase = self.chance.choice(phrases)
            said = self.book.write(phrase.text.removeprefix("~"), self.chance)
            slots = re.findall(r"<(\w+)>", said)
            if skill == "other" or (self.near.keys() & slots if self.near else valued == bool(slots)):
                break
            valued = valued or self.chance.random() < 0.03  # a skill may have no request without a value
        values = {name: self._value(name) for name in slots}
        said = re.sub(r"<(\w+)>", lambda mark: values[mark[1]][0], said)
        meant = {name: value if name == "sum" else self._plain(value) for name, (_, value) in values.items()}
        return self._spoken(said, phrase), skill, phrase.value(meant)

    def _value(self, name: str) -> tuple[str, str]:
        """(a value of a slot as it is said, what it means)."""
        heard, amounts = self.style == "heard", self.reader.amounts
        if name == "sum":
            return amounts.write_sum(self.chance, heard)
        if name in ("duration", "length"):
            return amounts.write_duration(self.chance, heard, name)
        said = self.book.write(
            self.chance.choice(self.near.get(name) or self.reader.slots[name]), self.chance
        )
        return said, self.reader.value_of(name, said)

    def _spoken(self, said: str, phrase: Phrase) -> str:
        """The request in its style, with what a person says before and after it."""
        chance, heard, typed = self.chance, self.style == "heard", self.style == "typed"

        def some(name: str, share: float) -> str:
            return self.book.write(f"{{{name}}}", chance) if chance.random() < share else ""

        if phrase.skill == "other":
            said = f"{some('aside', 0.5)} {said}"
        else:
            again = (
                said.split()[: chance.randint(1, 2)] if heard and chance.random() < 0.1 else []
            )  # a false start
            said = f"{some('polite', 0.3 * phrase.text.startswith('~'))} {' '.join(again)} {said}"
            call, closing, comma = some("call", 0.3), some("closing", 0.3), "," * typed
            said = f"{call}{comma if call else ''} {said}{comma if closing else ''} {closing}"
            if chance.random() < (0.4 if self.variety == "multi" else 0.06):
                said = f"{some('before', 1)}{' so' if heard else chance.choice(['.', ',', ', so'])} {said}"
        said = tidy(f"{some('filler', 0.3 * heard)} {said}")
        mark = "?" if ASKS.match(said) and phrase.skill != "other" else chance.choice([".", ".", "", "!"])
        return self._styled(said + mark * typed)

    def _styled(self, text: str) -> str:
        """In the manner of speech: typed, with capitals where sentences begin."""
        if self.style == "typed":
            return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda letter: letter[0].upper(), text)
        return self._plain(text)

    def _plain(self, text: str) -> str:
        """Without capitals if they are left out, and without the marks that a microphone does not hear."""
        text = text.lower() if self.small else text
        return re.sub(r"[?.!,](?= |$)", "", text) if self.style == "heard" else text


reader = functools.cache(Reader)


def read(request: str) -> tuple[str, str | None]:
    """(the skill of a request, its value)."""
    reading = reader().read(request)
    return (reading.skill, reading.value) if reading else ("other", None)


def write(skill: str, variety: str, topics: list[str], chance: random.Random) -> tuple[str, str, str | None]:
    """(what a user says, the skill that it is for, its value): one request of a variety of a skill."""
    return Writer(topics, variety, chance).written(skill)
