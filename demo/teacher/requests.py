"""Requests for the ten skills of skills.yaml: written in a manner of speech, and read by the same phrases.

`write` gives a request with the skill and the value that it is for; `read` finds these for any request. A
value is None where there is none: of `notes`, the notes are to be listed then.
"""

import functools
import random
import re
from pathlib import Path
from typing import NamedTuple

from demo.teacher.amounts import Amounts
from demo.teacher.phrases import Book, Node, Pieces, Slot, Words, parse, text_of

PARAMETERS = {
    "weather": "location", "timecheck": "location", "timer": "duration", "news": "topic", "math": "question",
    "notes": "note", "story": "description", "runapp": "program", "openai": "prompt", "other": None,
}  # fmt: skip
NEAR_MISS = {"task": "notes", "idea": "story", "question": "openai", "topic": "news", "program": "runapp"}
FREE_TEXT = ("notes", "openai", "story", "other")  # too long to take back
STYLES = ("typed", "typed", "careless", "heard", "heard")
TRIES = 30  # phrases, until one has a value, or none
WITH_VALUE = 0.75  # share of the requests that have one, of skills that can do without
LEAST = 4  # letters that a part of a text shares with a phrase if it is a request
PART = 3  # letters less that a part counts than all of the text
ASKS = re.compile(r"\W*(?:what|how|who|why|when|where|which|is|are|do|does|can|could|will|any)\b", re.I)
SENTENCE_END = re.compile(r"[.!?…][\"'”’)]?$")
PAUSE = re.compile(r"[,.;:!?…][\"'”’)]?$")
TITLES = ("dr", "mr", "mrs", "st")  # no sentence ends with these


class Phrase(NamedTuple):
    """`meaning` has the value with its slots, `Do <animals> <ability>?`; "" means that of the only slot."""

    skill: str
    tree: Node
    meaning: str = ""
    order: bool = False
    slots: tuple[str, ...] = ()

    def value(self, values: dict[str, str]) -> str | None:
        """The value of the request, from those of its slots."""
        if not self.meaning:
            return next(iter(values.values()), None)
        given = re.sub(r"\[([^\]]*<(\w+)>)\]", lambda part: part[1] * (part[2] in values), self.meaning)
        said = re.sub(r"<(\w+)>", lambda mark: values[mark[1]], given)
        return said[:1].upper() + said[1:] if said.endswith("?") else said


class Reading(NamedTuple):
    """`score`: the letters that the phrase has in common with the request."""

    skill: str
    value: str | None
    score: int


NOTHING = Reading("other", None, 0)


class Grammar:
    """skills.yaml, parsed."""

    def __init__(self, source: dict):
        lists = {name: entries(text) for name, text in (source["lists"] | source["words"]).items()}
        self.gerunds = dict(pair.split("=") for pair in source["doing"].split())
        slots = {name: slot(fields, source["words"]) for name, fields in source["slots"].items()}
        slots["doing"] = slots["doing"]._replace(pattern=one_of(self.gerunds), closed=True)
        self.book = Book(lists, slots, frozenset(source["loose"]), frozenset(source["coined"]))
        self.amounts = Amounts(source["arithmetic"], source["durations"], self.book)
        self.speech = {name: re.split(r" *; *", text) for name, text in source["speech"].items()}
        self.before = entries(source["speech"]["before"])
        self.near_misses = {
            skill: {kind: entries(text) for kind, text in kinds.items()}
            for skill, kinds in source["near_miss"].items()
        }
        self.listing = [phrase("notes", text) for text in source["skills"]["notes"].pop("list")]
        self.phrases = {
            skill: [phrase(skill, text) for text in texts["phrases"]]
            for skill, texts in source["skills"].items()
        }
        talk = [lists[name] for name in source["skills"]["other"]["from"]]
        talk += [kinds["talk"] for kinds in self.near_misses.values()]
        self.phrases["other"] = [Phrase("other", tree) for trees in talk for tree in trees]

    def meant(self, name: str, said: str) -> str:
        """What the words of a slot mean: `buying` is buy, `works` work, and a topic has no article."""
        if name == "topic":
            return re.sub(r"^(?:the|an?) (?=\S)", "", said, flags=re.I)
        if name == "doing":
            return self.gerunds[said.lower()]
        return said.removesuffix("s") if name == "does" else said


class Reader:
    """Reads a request by the phrase of which most words are its own, which leaves least to its values."""

    def __init__(self, grammar: Grammar):
        self.grammar, self.speech = grammar, grammar.speech
        self.fillers = frozenset(grammar.speech["filler"])
        self.starting: dict[str, list[tuple[Phrase, re.Pattern]]] = {}
        for phrases in (grammar.listing, *grammar.phrases.values()):
            for each in phrases:
                regex = re.compile(grammar.book.regex(each.tree))
                for word in grammar.book.first_words(each.tree):
                    self.starting.setdefault(word, []).append((each, regex))
        self.opening = re.compile(self._any("call", "polite", "aside"))
        self.closing = re.compile(f"{self._any('closing')}$")
        self.repair = re.compile(f"(?<= ){self._any('repair')}")

    def _any(self, *names: str) -> str:
        return f"(?:{one_of({said.casefold() for name in names for said in self.speech[name] if said})})"

    def read(self, request: str) -> Reading:
        """A request may stand among sentences that ask for nothing; `other` where no phrase fits."""
        words = Words(" ".join(request.split()), self.fillers)
        length = len(words.plain)
        starts = [0] + [
            place + 1
            for place in range(length - 1)
            if PAUSE.search(words.said(place)) or words.plain[place] in ("so", "and")
        ]
        stops = [length, *(place for place in starts[:0:-1] if self._sentence_ends(words, place))]
        best = NOTHING
        for stop in stops:
            for start in starts:
                reading = self._stretch(words, start, stop) if start < stop else None
                if reading and (start, stop) != (0, length):
                    begins = start == 0 or self._sentence_ends(words, start)
                    fits = reading.skill != "other" and (reading.score >= LEAST or begins)
                    reading = reading._replace(score=max(0, reading.score - PART)) if fits else None
                if reading and (reading.score, reading.skill != "other") > (
                    best.score,
                    best.skill != "other",
                ):
                    best = reading
        return best

    @staticmethod
    def _sentence_ends(words: Words, place: int) -> bool:
        """Whether a sentence ends before this word."""
        return bool(SENTENCE_END.search(words.said(place - 1))) and words.plain[place - 1] not in TITLES

    def _stretch(self, words: Words, start: int, stop: int) -> Reading | None:
        """Words without the greetings and politeness around them, and without what is taken back."""
        line, best = words.line(start, stop), None
        repair = self.repair.search(line)
        if repair and repair.end() < len(line):
            best = self._repaired(
                words, start, line.count(" ", 0, repair.start()), line.count(" ", 0, repair.end()), stop
            )
        if best:
            return best
        moved = 1
        while moved and start < stop:
            reading, line = self._best(words, start, stop), words.line(start, stop)
            if reading and (not best or reading.score >= best.score):
                best = reading
            # a false start is said twice: "set a set a timer"
            before = self.opening.match(line) or re.match(r"((?:[^ ]+ ){1,3})(?=\1)", line)
            after = None if before else self.closing.search(line)
            start += before[0].count(" ") if before else 0
            stop -= after[0].count(" ") if after else 0
            moved = before or after
        return best

    def _repaired(self, words: Words, start: int, before: int, after: int, stop: int) -> Reading | None:
        """The best reading of what was said up to a word before "no wait", and of what was said after it."""
        readings = []
        for kept in range(before + 1):
            said = words.original(start, start + kept) if kept else ""
            again = Words(f"{said} {words.original(start + after, stop, outer=True)}", self.fillers)
            readings.append(self._stretch(again, 0, len(again.plain)) or NOTHING)
        best = max(readings, key=lambda reading: reading.score)
        return None if best.skill == "other" else best

    def _best(self, words: Words, start: int, stop: int) -> Reading | None:
        line, best = words.line(start, stop), None
        closing = self.closing.search(line)
        if closing and closing.start():
            line = line[: closing.start()]
        for each, regex in (*self.starting.get(words.plain[start], ()), *self.starting["*"]):
            match = regex.fullmatch(line)
            if not match:
                continue
            slots = {name: part for name, part in match.groupdict().items() if part is not None}
            free = [part for part in match.groups() if part]
            score = len(line) - sum(map(len, free))
            score += sum(len(part) for name, part in slots.items() if self.grammar.book.slots[name].closed)
            if each.skill == "other":  # its loose lists take in anything
                score = 2 * score - len(line)
            if score <= (best.score if best else -(each.skill != "other")):
                continue
            values = {}
            for name, part in slots.items():
                first = start + line.count(" ", 0, match.start(name))
                values[name] = self.value_of(name, words, first, first + part.count(" "))
            if None not in values.values():
                best = Reading(each.skill, each.value(values), score)
        return best

    def value_of(self, name: str, words: Words, first: int, stop: int) -> str | None:
        """The value of a slot in a stretch of a request, None if it cannot be one."""
        said, outer = words.original(first, stop), words.original(first, stop, outer=True)
        if name in ("duration", "length"):
            return self.grammar.amounts.duration(" ".join(words.plain[first:stop]))
        if name == "sum":  # signs may stand beside its words, and fillers between them
            return self.grammar.amounts.expression(" ".join(map(words.said, range(first, stop))))
        if outer[0] not in "\"'“‘" and not self.grammar.book.slots[name].fits(words.plain[first:stop]):
            return None
        if name == "question" and re.search(r"[.?!] ", said):
            return None
        owned = re.search("['’]s$", said)
        if name == "owner" or name == "place" and owned:
            return said[:-2] if owned else None
        return self.grammar.meant(name, said)


class Request:
    """A request that is being written: how it is said is drawn first."""

    def __init__(self, grammar: Grammar, topics: list[str], variety: str, chance: random.Random):
        seeds = {"seed": [parse(topic) for topic in topics or ["music"]]}
        self.grammar, self.book = grammar, grammar.book._replace(lists=grammar.book.lists | seeds)
        self.variety, self.chance = variety, chance
        self.style = chance.choice(STYLES)
        self.kind = ""  # of a near miss: the slot that holds what sounds like the skill, or `talk`
        self.alike: list[Node] = []

    def written(self, skill: str) -> tuple[str, str, str | None]:
        """(what a user says, the skill that it is for, its value)."""
        if self.variety == "near_miss":
            near = self.grammar.near_misses[skill if skill != "other" else "story"]
            self.kind = self.chance.choice(["talk", *near])
            self.alike, skill = near[self.kind], NEAR_MISS.get(self.kind, "other")
        elif self.variety == "other":
            skill = "other"
        valued = self.variety == "multi" or self.chance.random() < WITH_VALUE
        for _ in range(TRIES):
            chosen = self._phrase(skill, valued)
            values: dict[str, str] = {}
            pieces = self.book.write(chosen.tree, self.chance, functools.partial(self._noted, values))
            if skill in ("notes", "other") or self.kind in values or not self.kind and bool(values) == valued:
                break
        said, value = self._spoken(chosen, pieces), chosen.value(values)
        return said, chosen.skill, respelt(value, said) if value and "sum" not in values else value

    def _phrase(self, skill: str, valued: bool) -> Phrase:
        if self.kind == "talk":
            return Phrase("other", self.chance.choice(self.alike))
        if skill == "notes" and not valued and not self.kind:
            return self.chance.choice(self.grammar.listing)
        phrases = self.grammar.phrases[skill]
        return self.chance.choice([each for each in phrases if not self.kind or self.kind in each.slots])

    def _noted(self, values: dict[str, str], name: str) -> str:
        said, values[name] = self._value(name, self.alike if name == self.kind else [])
        return said

    def _value(self, name: str, alike: list[Node]) -> tuple[str, str]:
        """(a value of a slot as it is said, what it means)."""
        heard, amounts = self.style == "heard", self.grammar.amounts
        if name == "sum":
            return amounts.write_sum(self.chance, heard)
        if name in ("duration", "length"):
            return amounts.write_duration(self.chance, heard, "said" if name == "duration" else "length")
        said = text_of(
            self.book.write(self.chance.choice(alike or self.book.slots[name].write), self.chance, str)
        )
        return (f"{said}'s", said) if name == "owner" else (said, self.grammar.meant(name, said))

    def _draw(self, name: str, share: float = 1) -> str:
        """One of the words of `speech` in this share of the cases, else nothing."""
        return self.chance.choice(self.grammar.speech[name]) if self.chance.random() < share else ""

    def _spoken(self, chosen: Phrase, pieces: Pieces) -> str:
        """The request in its style, with what a person says before and after it."""
        chance, heard, typed = self.chance, self.style == "heard", self.style == "typed"
        slots = [name for _, name in pieces if name]
        if heard and len(slots) == 1 and chosen.skill not in FREE_TEXT and chance.random() < 0.1:
            at = next(place for place, (_, name) in enumerate(pieces) if name)
            wrong = f"{self._value(slots[0], [])[0]} {self._draw('repair')} "
            pieces = [*pieces[:at], (wrong, None), *pieces[at:]]
        said = text_of(pieces)
        if chosen.skill == "other":
            said = f"{self._draw('filler', 0.3 * heard)} {self._draw('aside', 0.5)} {said}"
        else:
            said = self._addressed(said, chosen, [text for text, name in pieces if name])
        said = text_of([(said, None)])
        if typed:
            mark = "?" if ASKS.match(said) and chosen.skill != "other" else chance.choice([".", ".", "", "!"])
            said = re.sub(r"[.,]\.$", ".", f"{said[:1].upper()}{said[1:]}{mark}")
            return re.sub(r"(?<=[.!?] )[a-z]", lambda letter: letter[0].upper(), said)
        said = said.lower() if heard or chance.random() < 0.6 else said
        if not heard and "owner" not in slots and chance.random() < 0.4:
            said = re.sub(r"(?<=\w)'(?=\w)", "", said)
        return re.sub(r"[?.!,](?= |$)" if heard else "[?.!,]+$", "", said)

    def _addressed(self, said: str, chosen: Phrase, values: list[str]) -> str:
        """The request with greetings, politeness, and a false start."""
        chance, heard, typed = self.chance, self.style == "heard", self.style == "typed"
        again = " ".join(said.split()[: chance.randint(1, 2)])
        if heard and not any(again in value for value in values) and chance.random() < 0.1:
            said = f"{again} {said}"
        said = f"{self._draw('polite', 0.5 * chosen.order)} {said}"
        if call := self._draw("call", 0.5):
            said = f"{call}{',' if typed else ''} {said}"
        said = f"{self._draw('filler', 0.3 * heard)} {said}"
        if closing := self._draw("closing", 0.5):
            said = f"{said}{',' if typed and chance.random() < 0.5 else ''} {closing}"
        if chance.random() < (0.4 if self.variety == "multi" else 0.06):
            before = text_of(self.book.write(chance.choice(self.grammar.before), chance, str))
            said = f"{before}{' so' if heard else chance.choice(['.', '.', ',', ', so'])} {said}"
        return said


def respelt(value: str, said: str) -> str:
    """The value as it stands in the request, if it does but for its case, apostrophes and commas."""
    loose = "[',]?".join(re.escape(char) for char in re.sub("[',]", "", value))
    match = re.search(rf"(?<!\w){loose}(?!\w)", said, re.I)
    return match[0] if match else value


def entries(text: str) -> list[Node]:
    """The phrases of a list; words have commas between them."""
    return [parse(entry.strip()) for entry in text.split(";" if ";" in text or "(" in text else ",")]


def phrase(skill: str, text: str) -> Phrase:
    said, _, meaning = text.partition(" => ")
    slots = tuple(re.findall(r"<(\w+)>", said))
    return Phrase(skill, parse(said.removeprefix("~")), meaning, said.startswith("~"), slots)


def one_of(choices) -> str:
    """The regular expression for one of these, with a space after each of its words."""
    return "|".join(
        Words(choice).line(0, 99) for choice in sorted(choices, key=lambda choice: (-len(choice), choice))
    )


def slot(fields: dict, words: dict[str, str]) -> Slot:
    """A slot of skills.yaml; its words to leave out may be in a list of `words`."""
    if "one_of" in fields:
        choices = re.split(r" *; *", fields["one_of"])
        return Slot([parse(choice) for choice in choices], 3, pattern=one_of(choices), closed=True)
    never, first_never = (
        frozenset(re.sub(r"\{(\w+)\}", lambda mark: words[mark[1]], fields.get(name, "")).split())
        for name in ("never", "first_never")
    )
    trees = [parse(text) for text in fields["write"]]
    return Slot(
        trees, fields["most"], never, first_never, fields.get("pattern", ""), but=fields.get("but", "")
    )


@functools.cache
def grammar() -> Grammar:
    from ruamel.yaml import YAML

    return Grammar(YAML(typ="safe").load(Path(__file__).with_name("skills.yaml")))


@functools.cache
def reader() -> Reader:
    return Reader(grammar())


def read(request: str) -> tuple[str, str | None]:
    """(the skill of a request, its value)."""
    reading = reader().read(request)
    return reading.skill, reading.value


def write(skill: str, variety: str, topics: list[str], chance: random.Random) -> tuple[str, str, str | None]:
    """(what a user says, the skill that it is for, its value): one request of a variety of a skill."""
    return Request(grammar(), topics, variety, chance).written(skill)
