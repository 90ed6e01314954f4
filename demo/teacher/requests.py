"""Requests for the ten skills of skills.yaml: written in a manner of speech, and read by the same phrases.

`write` gives a request and its value; `read` finds skill and value of any request. A value is None where
there is none: of `notes`, the notes are to be listed then.
"""

import functools
import random
import re
from itertools import pairwise
from pathlib import Path

from ruamel.yaml import YAML

from demo.teacher.amounts import Amounts
from demo.teacher.phrases import Book, bare, direct, entries, lowered, tidy

PARAMETERS = {
    "weather": "location", "timecheck": "location", "timer": "duration", "news": "topic", "math": "question",
    "notes": "note", "story": "description", "runapp": "program", "openai": "prompt", "other": None,
}  # fmt: skip
WITH_VALUE = 0.7  # share of the requests that have one, of skills that can do without
PAUSE = re.compile(r"[,.;:!?…][\"'”’)]?\s+(?:(?:so|and|but) )?|\s(?:so|then|but) ")
SENTENCE_END = re.compile(r"(?<!\b[dm]r)(?<!\bmrs)(?<!\bst)[.!?…][\"'”’)]?\s+", re.I)
CORRECTED = re.compile(r"(?:^|.*\s)(?:no|wait|sorry|I mean|scratch that)[, ]+(?:sorry|wait|no)?[, ]*", re.I)
CORRECTIONS = "no", "no sorry", "sorry", "I mean", "wait no", "scratch that"
ASKS = re.compile(r"\W*(?:what|how|who|why|when|where|which|is|are|do|does|can|could|will|any)\b", re.I)
MARKER = re.compile(r"(?:^|(?<=\s))(?:in|for|at|near|around|over in|over) (?=\S)")
TIMES = ("timer", "duration", "timed")  # slots


class Reader:
    """Reads a request by the first phrase of skills.yaml that fits."""

    def __init__(self):
        source = YAML(typ="safe").load(Path(__file__).with_name("skills.yaml"))
        self.book = Book({name: entries(text) for name, text in source["words"].items()})
        self.amounts = Amounts(self.book, source["arithmetic"], source["durations"])
        self.barred, self.around = (
            {name: re.compile(words.replace("| ", "|"), re.I) for name, words in source[part].items()}
            for part in ("barred", "around")
        )
        self.written: dict[str, list[str]] = {"other": self.book.lists["talk"]}
        self.reads = []
        for title, lines in source["phrases"].items():
            for line in entries(lines):
                self.reads.append((title, self.regex(line.lstrip("~- "))))
                if not line.startswith("-"):
                    self.written.setdefault(title.split(",")[0], []).append(line)
        self.filler = self.regex("{filler}", r"(?<!\S)%s")
        self.opening, self.clothes = self.regex("({polite}|{call}|{hope})"), self.regex("{clothes}")
        self.closing = self.regex("{closing}", r"(?<=\s)%s$")
        self.early = self.regex("({when}|{late}|{out})")
        self.when = self.regex("({when}|{late}|{out}|{so_that})", r"(?:^|(?<=\s))%s$")

    def regex(self, phrase: str, around: str = "%s") -> re.Pattern:
        return re.compile(around.replace("%s", self.book.regex(phrase)), re.I)

    def read(self, request: str) -> tuple[str, str | None]:
        """(skill, value): of the whole request, or of a part of it among sentences that ask for nothing."""
        text = self.filler.sub("", " ".join(request.split()) + " ")
        stops = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
        wholes = [text, *(text[start:stop] for start, stop in pairwise(stops))]
        pauses = [*PAUSE.finditer(text)]
        wholes += [text[pause.end() :] for pause in pauses if "so" in pause[0]]
        parts = [*wholes, *(text[pause.end() :] for pause in pauses)]
        for part in [part[match.end() :] for part in parts if (match := CORRECTED.match(part))] + parts:
            title, value = self._stretch(part)
            if title and (part in wholes or not title.endswith("asked")):
                return title.split(",")[0], value
        return "other", None

    def _stretch(self, text: str) -> tuple[str, str | None]:
        """Text without the greetings and politeness around it, as little of them as it takes."""
        while text.strip():
            if (reading := self._first(text))[0]:
                return reading
            # a false start is said twice: "set a set a timer"
            before = self.opening.match(lowered(text)) or re.match(r"((?:\S+ ){1,3})(?=\1)", lowered(text))
            after = self.closing.search(lowered(text))
            if not before and not after:
                break
            text = text[: after.start()] if after else text[before.end() :]
        return "", None

    def _first(self, text: str) -> tuple[str, str | None]:
        if after := self.closing.search(lowered(text)):
            text = text[: after.start()]
        for title, regex in self.reads:
            if match := regex.fullmatch(lowered(text)):
                spans = {name: match.span(name) for name, part in match.groupdict().items() if part}
                values = [self.value_of(name, text[slice(*span)]) for name, span in spans.items()]
                if None not in values:
                    return title, next(filter(None, values), None)
        return "", None

    def value_of(self, name: str, said: str) -> str | None:
        """What the words of a slot mean; "" if they mean nothing, None if they cannot be its value."""
        quoted = said[:1] in "\"'“‘"
        said = bare(said) if name != "sum" else said
        said = self.trimmed(said) if name in ("topic", "place", "duration", "where") else said
        said = bare(self.around[name].sub("", said)) if name in self.around else said
        checked = said
        if name in ("question", "indirect", "order"):  # all but the first word of what is allowed
            checked = self.around["allowed"].sub(lambda words: re.sub(r"(?<=\s)\S+", "_", words[0]), said)
        if not quoted and name in self.barred and self.barred[name].search(checked):
            return None
        if name in ("place", "topic") and self.opening.match(lowered(said) + " "):
            return None
        if name in TIMES:
            return self.amounts.duration(said) if name == "duration" else self.amounts.timed(said)
        if name in ("sum", "where"):
            return self.amounts.expression(said) if name == "sum" else self.where(said)
        if name == "mine":
            return ""
        return (direct(said) if name in ("indirect", "prompt") else said) or None

    def where(self, said: str) -> str | None:
        """The place in what is said after "the weather": "" for none, None where there is something else."""
        while match := self.early.match(lowered(said) + " "):
            said = said[match.end() :].strip()
        for match in reversed([*MARKER.finditer(said)]):
            place = bare(said[match.end() :])
            if re.search(r"\b(?:is|was|were|had|did)\b", said[: match.start()]):
                return None
            if self.barred["nowhere"].match(place) or self.clothes.fullmatch(lowered(place) + " "):
                return ""
            if not self.barred["place"].search(place) and len(place.split()) < 6:
                return re.sub("['’]s$", "", place)
        return None if said else ""

    def trimmed(self, said: str) -> str:
        """Without the time at its end: Bath on Sunday → Bath."""
        while said and (match := self.when.search(lowered(said) + " ")):
            said = re.sub(r"\b(?:for|on|in)$", "", said[: match.start()].strip(" ,")).strip()
        return said


class Writer:
    """Writes a request: how it is said is drawn first."""

    def __init__(self, topics: list[str], chance: random.Random):
        self.reader, self.chance = reader(), chance
        self.book = Book(self.reader.book.lists | {"seed": topics or ["music"]})
        self.typed, self.heard = chance.choice(
            [(True, False), (True, False), (False, False), (False, True), (False, True)]
        )
        self.small = not self.typed and chance.random() < 0.8

    def written(self, skill: str) -> tuple[str, str | None]:
        """(what a user says, its value)."""
        valued = self.chance.random() < WITH_VALUE
        while True:
            phrase = self.chance.choice(self.reader.written[skill])
            said = self.book.write(phrase.lstrip("~ "), self.chance)
            slot, text, value = re.search(r"<(\w+)>", said), "", ""
            if slot:
                text = self._value(slot[1])
                value = self.reader.value_of(slot[1], text if slot[1] == "sum" else self._plain(text))
            if skill == "other" or (valued == bool(value) and value is not None):
                if slot:
                    said, unsaid = (said.replace(slot[0], part) for part in (text, self._value(slot[1])))
                    if self.heard and self.chance.random() < 0.06:
                        said = f"{unsaid} {self.chance.choice(CORRECTIONS)} {said}"
                return self._spoken(said, skill, phrase.startswith("~")), value or None
            valued = valued or self.chance.random() < 0.03  # a skill may have no request without a value

    def _value(self, name: str) -> str:
        if name == "sum":
            return self.reader.amounts.write_sum(self.chance, self.heard)
        duration = self.reader.amounts.write_duration(self.chance, self.heard)
        return self.book.write(f"{{{name}}}", self.chance).replace("<duration>", duration)

    def _spoken(self, said: str, skill: str, order: bool) -> str:
        """The request in its style, with what a person says before and after it."""
        chance, comma = self.chance, "," * self.typed

        def some(name: str, share: float) -> str:
            return self.book.write(f"{{{name}}}", chance) if chance.random() < share else ""

        call, closing = some("call", 0.2), some("closing", 0.25 * (skill != "other"))
        polite, call, comma = some("polite", 0.3 * order), call + comma * bool(call), comma * bool(closing)
        said = f"{call} {polite} {said}{comma} {closing}"
        if skill != "other":
            again = said.split()[: chance.randint(1, 2)] if self.heard and chance.random() < 0.08 else []
            before, so = some("before", 0.1), " so" if self.heard else chance.choice([".", ",", ", so"])
            said = f"{before}{so * bool(before)} {' '.join(again)} {said}"
        said = tidy(f"{some('filler', 0.2 * self.heard)} {said}")
        if self.typed:
            mark = "?" if ASKS.match(said) else chance.choice([".", ".", "", "!"])
            return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda letter: letter[0].upper(), said + mark)
        return self._plain(said)

    def _plain(self, text: str) -> str:
        """Without capitals if they are left out, and without the marks that a microphone does not hear."""
        text = text.lower() if self.small else text
        return re.sub(r"[?.!,](?= |$)", "", text) if self.heard else text


reader = functools.cache(Reader)


def read(request: str) -> tuple[str, str | None]:
    """(the skill of a request, its value)."""
    return reader().read(request)


def write(skill: str, topics: list[str], chance: random.Random) -> tuple[str, str | None]:
    """(what a user says, its value): one request for a skill."""
    return Writer(topics, chance).written(skill)
