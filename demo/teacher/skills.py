"""What the stand-in teacher answers about skills: examples for a brief, or the call of one request.

It knows the ten skills of skills.yaml: one set of phrases writes requests for them and reads any request. Of
other skills it has only the examples that it is shown, which it takes as phrases. A pure function of the
messages: random choices are drawn by a generator that their hash seeds.
"""

import functools
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

from demo.teacher.amounts import Amounts
from demo.teacher.phrases import Book, Node, Slot, Words, compiled, parse, text_of
from stages.core.hashing import stable_integer

BRIEF = re.compile(r"^Kind: (positive|multi|near_miss|other)$", re.M)
REQUEST = re.compile(r"<request>\s*(.*?)\s*</request>", re.S)
SIGNATURE = re.compile(r"^- (\w+)\((.*?)\)(?=:|$)", re.M)
SHOWN = re.compile(r"^User: (.+)\nCall: (.+)$", re.M)
PARAMETER = re.compile(r'(\w+)=(?:"([^"\[]*)"|["\[])')  # in a signature; of an enum also its values
ARGUMENT = re.compile(r"""(\w+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,"'()]+)""")
TRIES = 30  # for each example that is still to be written
FREE_TEXT = ("notes", "openai", "story", "other")
SLOT_OF = {"task": "notes", "idea": "story", "question": "openai", "topic": "news", "program": "runapp"}
MEANT = 4  # letters that a part of what is said needs in common with a phrase to be read as a request
PART = 3  # less for a request that is only a part of what is said
STYLES = ("typed", "typed", "careless", "heard", "heard")


class Phrase(NamedTuple):
    """`meaning` has the value with its slots, as in `Do <animals> <ability>?`; "" is the value of the only slot."""

    skill: str
    tree: Node
    meaning: str = ""
    order: bool = False
    slots: tuple[str, ...] = ()


class Teacher:
    """The skills of skills.yaml: writes requests with their values, and reads them."""

    def __init__(self, source: dict):
        lists = {name: _entries(text) for name, text in (source["lists"] | source["words"]).items()}
        slots = {name: _slot(own, source["words"]) for name, own in source["slots"].items()}
        self.doing = dict(pair.split("=") for pair in source["doing"].split())
        slots["doing"] = Slot(slots["doing"].write, pattern="|".join(f"{own} " for own in self.doing), closed=True)
        self.book = Book(lists, slots, frozenset(source["loose"]), frozenset(source["coined"]))
        self.amounts = Amounts(source["arithmetic"], source["durations"], self.book)
        self.skills, self.speech = source["skills"], {
            name: [part.strip() for part in text.split(";")] for name, text in source["speech"].items()
        }
        self.before = list(map(parse, self.speech["before"]))
        self.fillers = frozenset(self.speech["filler"])
        self.near = {
            skill: {kind: _entries(text) for kind, text in kinds.items()} for skill, kinds in source["near_miss"].items()
        }
        self.phrases = {
            skill: [_phrase(skill, text) for text in own["phrases"]] for skill, own in self.skills.items()
        }
        self.listing = [_phrase("notes", text) for text in self.skills["notes"]["list"]]
        self.phrases["other"] = [
            *(Phrase("other", tree) for name in self.skills["other"]["from"] for tree in lists[name]),
            *(Phrase("other", tree) for kinds in self.near.values() for tree in kinds["talk"]),
        ]
        self.starting: dict[str, list[tuple[Phrase, re.Pattern]]] = {}
        for phrase in [*self.listing, *(one for own in self.phrases.values() for one in own)]:
            regex = re.compile(self.book.regex(phrase.tree))
            for word in self.book.first_words(phrase.tree):
                self.starting.setdefault(word, []).append((phrase, regex))
        edge = {name: sorted({Words(said).line(0, 99) for said in self.speech[name]}, key=len)[::-1] for name in self.speech}
        self.opening = compiled(f"(?:{'|'.join(filter(None, edge['call'] + edge['polite'] + edge['aside']))})")
        self.closing = compiled(f"(?:{'|'.join(filter(None, edge['closing']))})$")
        self.repair = compiled(f"(?<= )(?:{'|'.join(edge['repair'])})")

    # Reading

    def read(self, request: str) -> tuple[str, str | None]:
        """(skill, its value or None) of a request; `other` for what no phrase fits.

        A request may stand among sentences that ask for nothing; what the speaker takes back is not read.
        """
        words = Words(" ".join(request.split()), self.fillers)
        cuts = [0] + [
            place
            for place in range(1, len(words.plain))
            if re.search(r"[,.;:!?…][\"'”’)]?$", words.text[slice(*words.outer[place - 1])])
            or words.plain[place - 1] in ("so", "and")
        ]
        ends = [len(words.plain), *(cut for cut in reversed(cuts) if cut and self._ends(words, cut - 1))]
        best: tuple[str, str | None, int] = ("other", None, 0)
        for stop in ends:
            for first in cuts:
                reading = self._read(words, first, stop) if first < stop else None
                whole = first == 0 and stop == ends[0]
                if not reading or not whole and (reading[0] == "other" or reading[2] < MEANT and not self._ends(words, first - 1)):
                    continue
                score = reading[2] if whole else max(0, reading[2] - PART)
                if score > best[2] or score == best[2] and best[0] == "other":
                    best = (*reading[:2], score)
        return best[:2]

    @staticmethod
    def _ends(words: Words, place: int) -> bool:
        """Whether a sentence ends with this word."""
        said = words.text[slice(*words.outer[place])]
        return place < 0 or bool(re.search(r"[.!?…][\"'”’)]?$", said)) and words.plain[place] not in ("dr", "mr", "mrs", "st")

    def _read(self, words: Words, first: int, stop: int) -> tuple[str, str | None, int] | None:
        stop = min(stop, len(words.plain))
        line = words.line(first, stop)
        repair = self.repair.search(line)
        if repair and repair.end() < len(line):
            before, after = line[: repair.start()].count(" "), first + line[: repair.end()].count(" ")
            again = [self._read(self._joined(words, first, first + kept, after, stop), 0, 999) for kept in range(before + 1)]
            best = max((one for one in again if one and one[0] != "other"), key=lambda one: one[2], default=None)
            if best:
                return best
        start, end, moved, best = first, stop, True, None
        while moved and start < end:
            line, moved = words.line(start, end), False
            found = self._best(words, start, end)
            if found and (not best or found[2] >= best[2]):
                best = found
            if opening := self.opening.match(line):
                start += opening[0].count(" ")
                moved = True
            elif again := re.match(r"((?:[^ ]+ ){1,3})\1", line):
                start += again[1].count(" ")
                moved = True
            elif closing := self.closing.search(line):
                end -= closing[0].count(" ")
                moved = True
        return best

    def _joined(self, words: Words, first: int, kept: int, after: int, stop: int) -> Words:
        """What was said up to word `kept`, and from word `after` again."""
        before = words.original(first, kept) if kept > first else ""
        return Words(f"{before} {words.original(after, stop, True)}", self.fillers)

    def _best(self, words: Words, first: int, stop: int) -> tuple[str, str | None, int] | None:
        """(skill, value, score) by the phrase of which most words are its own: it leaves least to its values."""
        line, best = words.line(first, stop), None
        closing = self.closing.search(line)
        if closing and closing.start() > 0:
            stop, line = stop - closing[0].count(" "), line[: closing.start()]
        for phrase, regex in (*self.starting.get(words.plain[first], ()), *self.starting["*"]):
            match = regex.fullmatch(line)
            if not match:
                continue
            own = sum(len(part or "") for name, part in match.groupdict().items() if self.book.slots[name].closed)
            score = len(line) - sum(len(part or "") for part in match.groups()) + own
            if phrase.skill == "other":  # its loose lists take in anything
                score = 2 * score - len(line)
            if score <= (best[2] if best else -1 if phrase.skill != "other" else 0):
                continue
            values = {}
            for name, part in match.groupdict().items():
                if part is not None:
                    begin = first + line[: match.start(name)].count(" ")
                    values[name] = self.value_of(name, words, begin, begin + part.count(" "))
            if None not in values.values():
                best = phrase.skill, _meant(phrase.meaning, values), score
        return best

    def value_of(self, name: str, words: Words, first: int, stop: int) -> str | None:
        """The value of a slot in a stretch of a request, None if it cannot be one."""
        said, slot = words.original(first, stop), self.book.slots[name]
        quoted = words.original(first, stop, True)[0] in "\"'“‘"
        if not quoted and not slot.fits(words.plain[first:stop]):
            return None
        if name in ("duration", "length"):
            return self.amounts.duration(said)
        if name == "question" and re.search(r"[.?!] ", said):
            return None
        if name == "sum":
            return self.amounts.expression(words.original(first, stop, True))
        if name in ("owner", "place"):
            owned = re.search("['’]s$", said)
            return said[:-2] if owned else said if name == "place" else None
        return self.meant(name, said)

    def meant(self, name: str, said: str) -> str:
        """What the words of a slot mean: `buying` is buy, `works` work, and a topic has no article."""
        if name == "topic":
            return re.sub(r"^(?:the|an?) (?=\S)", "", said, flags=re.I)
        if name == "doing":
            return self.doing[said.lower()]
        return said.removesuffix("s") if name == "does" else said

    # Writing

    def example(self, skill: str, variety: str, topics: list[str], chance: random.Random) -> tuple[str, str, str | None]:
        """(what a user says, the skill that it is for, its value): one of a variety of a skill."""
        special: list[Node] = []
        kind = ""
        if variety == "near_miss":
            kind = chance.choice(["talk", *self.near[skill]])
            special = self.near[skill][kind]
            skill = SLOT_OF.get(kind, "other")
        elif variety == "other":
            skill = "other"
        style = chance.choice(STYLES)
        book = self.book._replace(lists=self.book.lists | {"seed": list(map(parse, topics or ["music"]))})
        valued = variety == "multi" or chance.random() < 0.75
        for _ in range(TRIES):
            if kind == "talk":
                phrase = Phrase("other", chance.choice(special))
            elif skill == "notes" and not valued and not kind:
                phrase = chance.choice(self.listing)
            else:
                phrase = chance.choice([own for own in self.phrases[skill] if kind in own.slots or not kind])
            values: dict[str, str] = {}

            def value(name: str, values=values) -> str:
                said, values[name] = self._value(name, book, special if name == kind else [], style, chance)
                return said

            pieces = book.write(phrase.tree, chance, value)
            if skill in ("notes", "other") or kind in values or not kind and bool(values) == valued:
                break
        meant = _meant(phrase.meaning, values)
        return self._spoken(phrase, pieces, meant, book, style, variety, chance)

    def _value(self, name: str, book: Book, special: list[Node], style: str, chance: random.Random) -> tuple[str, str]:
        """(a value as it is said, what it means)."""
        if name == "sum":
            return self.amounts.write_sum(chance, style == "heard")
        if name in ("duration", "length"):
            said_as = "said" if name == "duration" else "length"
            return self.amounts.write_duration(chance, style == "heard", said_as)
        said = text_of(book.write(chance.choice(special or self.book.slots[name].write), chance, str))
        if name == "owner":
            return f"{said}'s", said
        return said, self.meant(name, said)

    def _spoken(self, phrase, pieces, value, book, style, variety, chance) -> tuple[str, str, str | None]:
        """The request in a manner of speech, its skill and its value as it is said then."""
        said = text_of(pieces)
        slots = [name for _, name in pieces if name]
        if style == "heard" and len(slots) == 1 and phrase.skill not in FREE_TEXT and chance.random() < 0.1:
            at = next(place for place, piece in enumerate(pieces) if piece[1])
            wrong = self._value(slots[0], book, [], style, chance)[0]
            said = text_of([*pieces[:at], (f"{wrong} {chance.choice(self.speech['repair'])} ", None), *pieces[at:]])
        if style == "heard" and phrase.skill != "other" and chance.random() < 0.1:
            again = " ".join(said.split()[: chance.randint(1, 2)])
            said = f"{again} {said}" if value is None or again not in value else said
        around = phrase.skill != "other"
        if around and phrase.order and chance.random() < 0.5:
            said = f"{chance.choice(self.speech['polite'])} {said}"
        if chance.random() < 0.5:
            call = chance.choice(self.speech["call"] if around else self.speech["aside"])
            said = f"{call}{',' if style == 'typed' and call else ''} {said}"
        if style == "heard" and chance.random() < 0.3:
            said = f"{chance.choice(self.speech['filler'])} {said}"
        asks = re.match(r"\W*(?:what|how|who|why|when|where|which|is|are|do|does|can|could|will|any)", said, re.I)
        closing = chance.choice(self.speech["closing"])
        if around and closing and chance.random() < 0.5:
            said = f"{said}{', ' if style == 'typed' and chance.random() < 0.5 else ' '}{closing}"
        if around and chance.random() < (0.4 if variety == "multi" else 0.06):
            before = text_of(book.write(chance.choice(self.before), chance, str))
            joint = " so" if style == "heard" else chance.choice([".", ".", ",", ", so"])
            said = f"{before}{joint} {said}"
        said = text_of([(said, None)])
        if style == "typed":
            said = said[:1].upper() + said[1:] + ("?" if asks and around else chance.choice([".", ".", "", "!"]))
            said = re.sub(r"(?<=[.!?] )[a-z]", lambda letter: letter[0].upper(), said)
            said = re.sub(r"[.,]\.$", ".", said)
        else:
            said = said.lower() if style == "heard" or chance.random() < 0.6 else said
            said = re.sub(r"[?.!,](?= |$)" if style == "heard" else "[?.!,]+$", "", said)
            said = re.sub(r"(?<=\w)'(?=\w)", "", said) if style == "careless" and chance.random() < 0.4 else said
        return said, phrase.skill, respelt(value, said) if value and slots[:1] != ["sum"] else value


def respelt(value: str, said: str) -> str:
    """The value as it stands in the request, if it does but for its case, apostrophes and commas."""
    loose = "[',]?".join(re.escape(char) for char in re.sub("[',]", "", value))
    match = re.search(rf"(?<!\w){loose}(?!\w)", said, re.I)
    return match[0] if match else value


def _entries(text: str) -> list[Node]:
    return [parse(entry.strip()) for entry in text.split(";" if ";" in text or "(" in text else ",")]


def _slot(own: dict, words: dict[str, str]) -> Slot:
    def said(name: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda mark: words[mark[1]], own.get(name, ""))

    if "one_of" in own:
        choices = sorted(own["one_of"].split("|" if "|" in own["one_of"] else " "), key=len, reverse=True)
        return Slot(list(map(parse, choices)), 3, pattern="|".join(f"{choice} " for choice in choices), closed=True)
    never, first = (frozenset(said(name).split()) for name in ("never", "first_never"))
    return Slot(list(map(parse, own["write"])), own["most"], never, first, own.get("pattern", ""), but=own.get("but", ""))


def _phrase(skill: str, text: str) -> Phrase:
    said, _, meaning = text.partition(" => ")
    slots = tuple(re.findall(r"<(\w+)>", said))
    return Phrase(skill, parse(said.removeprefix("~")), meaning, said.startswith("~"), slots)


def _meant(meaning: str, values: dict[str, str]) -> str | None:
    """The value of a phrase: that of its only slot, or its meaning with its slots filled in."""
    if not meaning:
        return next(iter(values.values()), None)
    meaning = re.sub(r"\[([^\]]*<(\w+)>[^\]]*)\]", lambda part: part[1] if part[2] in values else "", meaning)
    said = re.sub(r"<(\w+)>", lambda mark: values[mark[1]], meaning)
    return said[:1].upper() + said[1:] if said.endswith("?") else said


@functools.cache
def teacher() -> Teacher:
    from ruamel.yaml import YAML

    return Teacher(YAML(typ="safe").load(Path(__file__).with_name("skills.yaml")))


# What the chat protocol asks


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
    own = teacher().skills.get(skill, {}).get("parameter")
    expected = {own, "action"} if skill == "notes" else {own}
    names = {name for name, _ in PARAMETER.findall(skills.get(skill, ""))}
    return skill == fallback or own is not None and names == expected


def call_of(skill: str, value: str | None, fallback: str = "other") -> str:
    """The call of one of the ten skills with its value, or without one."""
    if skill == "other":
        return f"{fallback}()"
    given = {} if value is None else {teacher().skills[skill]["parameter"]: value}
    if skill == "notes":
        given = {"action": "list" if value is None else "add", **given}
    return call_with(skill, {name: json.dumps(own, ensure_ascii=False) for name, own in given.items()})


def call_with(name: str, given: dict[str, str]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})"


def written(brief: Brief, chance: random.Random) -> list[tuple[str, str]]:
    """(request, call) for a brief, all of them different; fewer than it asks for where there are no more."""
    rows: dict[str, tuple[str, str]] = {}
    known = knows(brief.skill, brief.skills, brief.fallback)
    own = Shown(brief.shown, brief.skills, brief.skill)
    for _ in range(brief.count * TRIES):
        if len(rows) == brief.count:
            break
        if known or brief.variety == "near_miss":
            skill, variety = (brief.skill, brief.variety) if known else ("other", "other")
            skill = "other" if skill == brief.fallback else skill
            user, target, value = teacher().example(skill, variety, brief.topics, chance)
            if target != "other" and not knows(target, brief.skills, brief.fallback):
                continue
            call = call_of(target, value, brief.fallback)
        elif own.phrases:
            user, call = own.example(brief.topics, chance)
        else:
            break
        rows.setdefault(user.casefold(), (user, call))
    return list(rows.values())


def labelled(request: str, skills: dict[str, str], shown: list[tuple[str, str]]) -> str:
    """The call of a request: as one of the ten skills, else in the wording of an example that was shown."""
    skill, value = teacher().read(request)
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
        self.phrases: list[tuple[str, Node, dict[str, str]]] = []
        slots: dict[str, list[str]] = {}
        self.enums: dict[str, list[str]] = {}
        for user, call in shown:
            name, given = call.partition("(")[0], dict(ARGUMENT.findall(call))
            if only and name != only:
                continue
            own = {key: values.split("|") for key, values in PARAMETER.findall(skills.get(name, "")) if values}
            self.enums |= {f"{name}_{key}": values for key, values in own.items()}
            plain = {f"{name}_{key}": meant(value) for key, value in given.items()}
            for key, value in plain.items():
                slots.setdefault(key, []).append(value)
            self.phrases.append((name, self._tree(user.rstrip(".?! "), plain), given))
        self.values = slots | self.enums
        kinds = {key: "|".join(f"{Words(own).line(0, 9)}" for own in values) for key, values in self.enums.items()}
        numbers = {key for key, values in slots.items() if all(re.fullmatch(r"-?\d+(\.\d+)?", one) for one in values)}
        kinds |= {key: r"-?\d+(?:\.\d+)? " for key in numbers}
        self.book = Book({}, {key: Slot(pattern=kinds.get(key, "")) for key in slots})

    @staticmethod
    def _tree(user: str, plain: dict[str, str]) -> Node:
        """The request as a phrase, with a slot for each value that stands in it, each slot once."""
        left = dict(plain)
        names = sorted(left, key=lambda key: len(left[key]), reverse=True)
        parts = re.split("(" + "|".join(rf"(?<!\w){re.escape(left[key])}(?!\w)" for key in names if left[key]) + ")", user)
        nodes: list[Node] = []
        for part in parts if any(left.values()) else [user]:
            key = next((key for key in names if left.get(key) == part), None)
            nodes.append(("slot", key) if key else ("words", part))
            left.pop(key, None)
        return "all", nodes

    def example(self, topics: list[str], chance: random.Random) -> tuple[str, str]:
        """A shown request with its call, with other values of the same parameters."""
        name, tree, given = chance.choice(self.phrases)
        fresh = dict(given)

        def value(slot: str) -> str:
            key = slot.removeprefix(f"{name}_")
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
                    begin = match.string[: match.start(slot)].count(" ")
                    key = slot.removeprefix(f"{name}_")
                    fresh[key] = put(words.original(begin, begin + part.count(" ")), given[key])
                return call_with(name, fresh)
        return None


def is_text(written: str) -> bool:
    return written[0] in "\"'"


def meant(written: str) -> str:
    return re.sub(r"\\(.)", r"\1", written[1:-1]) if is_text(written) else written


def put(value: str, like: str) -> str:
    return json.dumps(value, ensure_ascii=False) if is_text(like) else value
