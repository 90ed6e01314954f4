"""Phrases that write requests at random and read them again: the small language of skills.yaml.

`(a|b)` is one of these, `[a]` may be left out, `{name}` is a phrase of the list of that name, `<slot>` is a
value. A phrase is a tree that `Book.write` walks; `Book.regex` makes a regular expression of it, which reads
a request without its case, punctuation and apostrophes (`Words`).
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

MARKS = re.compile(r"[\[\](){}<>|]|[^\[\](){}<>|]+")
LEFT_OUT = 0.6  # share of the optional parts that are
COINED = 0.15  # share of the words of open lists that are in no list
SYLLABLES = "b br ch d dr f fl g gr h j k l m n p pl qu r s sh sl st t th tr v w z", "a e i o u ai ee oo ou"
ENDINGS = "l m n r s t x ck ld nd ng rt sh"
BESIDE = ".,;:!?\"'“”‘’()[]{}…-_–"  # what may stand beside a word
SIGNS = set("+-*/^%=×÷()")

# ("words", text), ("one", nodes), ("all", nodes), ("maybe", node), ("list", name) or ("slot", name)
Node = tuple[str, object]
Pieces = list[tuple[str, str | None]]  # texts, each with the slot whose value it is


def parse(text: str) -> Node:
    """The tree of a phrase. Raises ValueError for brackets that do not match."""
    marks = [*MARKS.findall(text), ""]
    node, place = _choices(marks, 0, "")
    if place != len(marks) - 1:
        raise ValueError(f"brackets do not match: {text}")
    return node


def _choices(marks: list[str], place: int, closing: str) -> tuple[Node, int]:
    choices: list[Node] = []
    parts: list[Node] = []
    while marks[place] != closing:
        mark = marks[place]
        if mark == "|":
            choices.append(("all", parts))
            parts = []
        elif mark in ("(", "["):
            node, place = _choices(marks, place + 1, ")" if mark == "(" else "]")
            parts.append(node if mark == "(" else ("maybe", node))
        elif mark in ("{", "<"):
            if marks[place + 2 : place + 3] != [{"{": "}", "<": ">"}[mark]]:
                raise ValueError(f"brackets do not match: {''.join(marks)}")
            parts.append(("list" if mark == "{" else "slot", marks[place + 1]))
            place += 2
        elif mark and mark not in ")]}>":
            parts.append(("words", mark))
        else:
            raise ValueError(f"brackets do not match: {''.join(marks)}")
        place += 1
    choices.append(("all", parts))
    return (choices[0] if len(choices) == 1 else ("one", choices)), place


class Slot(NamedTuple):
    """A kind of value: phrases that write it; and what it may be when it is read."""

    write: list[Node] = []
    most: int = 8  # words
    never: frozenset[str] = frozenset()
    first_never: frozenset[str] = frozenset()
    pattern: str = ""
    closed: bool = False  # only what the pattern says
    but: str = ""  # what may be there with words of `never` in it

    def fits(self, words: list[str]) -> bool:
        rest = re.sub(rf"\b(?:{self.but})\b", " ", " ".join(words)).split() if self.but else words
        return not self.never.intersection(rest) and words[0] not in self.first_never


class Book(NamedTuple):
    """Lists of phrases by name, and slots. `loose` lists are read as any words; of `coined` some are new."""

    lists: dict[str, list[Node]]
    slots: dict[str, Slot]
    loose: frozenset[str] = frozenset()
    coined: frozenset[str] = frozenset()

    def write(self, node: Node, chance: random.Random, value: Callable[[str], str]) -> Pieces:
        """The phrase with every choice made; `value` gives the text of a slot."""
        kind, inner = node
        if kind == "words":
            return [(inner, None)]
        if kind == "slot":
            return [(value(inner), inner)]
        if kind == "maybe":
            return [] if chance.random() < LEFT_OUT else self.write(inner, chance, value)
        if kind == "list" and inner in self.coined and chance.random() < COINED:
            return [(coined(chance), None)]
        if kind in ("one", "list"):
            return self.write(chance.choice(self.lists[inner] if kind == "list" else inner), chance, value)
        return [piece for part in inner for piece in self.write(part, chance, value)]

    def regex(self, node: Node) -> str:
        """The regular expression of a phrase, for `Words.line`: each word has one space after it."""
        kind, inner = node
        if kind == "words":
            return "".join("an? " if word == "a" else f"{re.escape(word)} " for word in Words(inner).plain)
        if kind == "maybe":
            return f"(?:{self.regex(inner)})?"
        if kind == "all":
            return "".join(map(self.regex, inner))
        if kind == "slot":
            slot = self.slots[inner]
            return f"(?P<{inner}>{slot.pattern or rf'(?:[^ ]+ ){{1,{slot.most}}}?'})"
        if kind == "list" and inner in self.loose:
            return "((?:[^ ]+ ){1,8}?)"  # a group, so that it counts as read but loosely
        choices = {self.regex(choice) for choice in (self.lists[inner] if kind == "list" else inner)}
        return (
            f"(?:{'|'.join(sorted(choices, key=lambda choice: (-len(choice), choice)))})"  # the longest first
        )

    def first_words(self, node: Node) -> set[str]:
        """The words that a phrase may begin with: "*" for any, "" if it may be empty."""
        kind, inner = node
        if kind == "words":
            first = Words(inner).plain[:1]
            return {"a", "an"} if first == ["a"] else set(first) or {""}
        if kind == "slot" or kind == "list" and inner in self.loose:
            return {"*"}
        if kind == "maybe":
            return self.first_words(inner) | {""}
        if kind != "all":
            return set().union(*map(self.first_words, self.lists[inner] if kind == "list" else inner))
        words = {""}
        for part in inner:
            if "" in words:
                words = (words - {""}) | self.first_words(part)
        return words


def coined(chance: random.Random) -> str:
    """A word that is in no list, such as `Tromeel`."""
    parts = [*SYLLABLES * chance.randint(1, 2), ENDINGS]
    return "".join(chance.choice(part.split(" ")) for part in parts).capitalize()


def text_of(pieces: Pieces) -> str:
    """The text of pieces: single spaces, `an` where it should be, no space before a comma."""
    text = re.sub(r"\s+([,?.!:])(?=\s|$)", r"\1", " ".join("".join(text for text, _ in pieces).split()))
    return re.sub(r"\b([Aa]) (?=[aeio]|8\b|11\b|u(?!ni|se))(?!one\b|eu)", r"\1n ", text)


class Words:
    """The words of a text as they are compared, in `plain`, and where each of them stands in the text."""

    def __init__(self, text: str, ignored: frozenset[str] = frozenset()):
        self.text = text
        self.plain: list[str] = []
        self.inner: list[tuple[int, int]] = []  # without the marks beside a word
        self.outer: list[tuple[int, int]] = []
        sums = any(char.isdigit() for char in text)
        for match in re.finditer(r"\S+", text):
            bare = match[0] if sums and match[0] in SIGNS else match[0].strip(BESIDE)
            plain = re.sub("['’]", "", bare.casefold())
            if plain and plain not in ignored:
                start = match.start() + match[0].find(bare)
                self.plain.append(plain)
                self.inner.append((start, start + len(bare)))
                self.outer.append(match.span())

    def line(self, first: int, stop: int) -> str:
        return "".join(f"{word} " for word in self.plain[first:stop])

    def said(self, place: int) -> str:
        """A word as it was written, with the marks beside it."""
        return self.text[slice(*self.outer[place])]

    def original(self, first: int, stop: int, outer: bool = False) -> str:
        """The text from a word to before another as it was written; `outer`: with the marks at its ends."""
        places = self.outer if outer else self.inner
        return self.text[places[first][0] : places[stop - 1][1]]
