"""Phrases that write requests at random and read them again: the small language of skills.yaml.

`(a|b)` is one of these, `[a|b]` is one of these or nothing, `{name}` an entry of the list of that name, and
`<slot>` a value. To write, the choices are made from the inside out; to read, a phrase is a regular
expression, for which apostrophes and the marks after a word are of no account.
"""

import random
import re
from typing import NamedTuple

LEFT_OUT = 0.6  # share of the optional parts that are
COINED = 0.15  # share of the words of open lists that are in no list
SYLLABLES = "b br ch d dr f fl g gr h j k l m n p pl qu r s sh sl st t th tr v w z", "a e i o u ai ee oo ou"
ENDINGS = "l m n r s t x ck ld nd ng rt sh"
CHOICE = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]|\{(\w+)\}")  # one without others in it, or a list
TOKEN = re.compile(r"\{(\w+)\}|<(\w+)>|([\[\]()|])|[^\[\](){}<>|]+")
GROUPS = {"(": "(?:", "[": "(?:", ")": ")", "]": ")?", "|": "|"}
AFTER = r"""[,;:.!?…"”'’]*(?:\s+|-(?=[a-z]))"""  # a word
ARTICLE = f"(?:(?:an?|the|my|our){AFTER})?"
CONTRACTED = {"s": "is", "m": "am", "d": "would", "ll": "will"}
QUOTED = r"""["'“‘][^"“”]+["'”’][.,!?]*\s+"""


class Book(NamedTuple):
    """Lists of phrases by name, and the regular expressions of slots.

    Of the words of lists in `coined`, some are new: a student that has seen only the same names would learn
    them by heart, and not to copy one that it has never seen.
    """

    lists: dict[str, list[str]]
    slots: dict[str, str]
    coined: frozenset[str] = frozenset()

    def write(self, phrase: str, chance: random.Random) -> str:
        """The phrase with every choice made; its slots are still to be filled."""

        def chosen(match: re.Match) -> str:
            one_of, optional, name = match.groups()
            if name in self.coined and chance.random() < COINED:
                parts = [*SYLLABLES * chance.randint(1, 2), ENDINGS]
                return "".join(chance.choice(part.split()) for part in parts).capitalize()
            if optional is not None and chance.random() < LEFT_OUT:
                return ""
            return chance.choice(self.lists[name] if name else (one_of or optional).split("|"))

        while CHOICE.search(phrase):
            phrase = CHOICE.sub(chosen, phrase)
        return tidy(phrase)

    def regex(self, phrase: str) -> str:
        """What matches the phrase in text in lower case, each slot a group of its name."""

        def pattern(match: re.Match) -> str:
            name, slot, bracket = match.groups()
            if name:
                choices = map(self.regex, set(self.lists[name]))
                return f"(?:{'|'.join(sorted(choices, key=len, reverse=True))})"
            if slot:
                return f"(?P<{slot}>{self.slots[slot]})"
            return GROUPS[bracket] if bracket else words_regex(match[0])

        return TOKEN.sub(pattern, phrase.replace(">'s", ">"))


def words_regex(text: str) -> str:
    """What matches the words, with an article or none for another, and `what is` for `what's`."""

    def full(match: re.Match) -> str:
        return f"(?:['’]?{match[1]}|\\s+{CONTRACTED[match[1]]})" if match[1] in CONTRACTED else "['’]?"

    words = [re.sub("'(ll|s|m|d|)", full, re.escape(word)) for word in text.lower().replace(",", "").split()]
    return "".join(ARTICLE if word in ("a", "the", "my") else word + AFTER for word in words)


def any_words(most: int, never: str = "", first_never: str = "", but: str = "", like: str = "") -> str:
    """A slot of up to `most` words, in quotes or not one of `never`, and at its head not of `first_never`.

    `but` matches what may be there with words of `never` in it, and `like` its beginning, in one sentence.
    """
    barred = rf"(?!(?:{'|'.join(never.split())})\b)" if never else ""
    head = f"(?!(?:{'|'.join(first_never.split())}) )" if first_never else ""
    word = r"\S+(?:(?<![.!?…])\s+|\s+$)" if like else r"\S+\s+"
    return f"(?:{QUOTED}|(?={like}){head}(?:{f'(?:{but}){AFTER}|' * bool(but)}{barred}{word}){{1,{most}}}?)"


def tidy(text: str) -> str:
    """Single spaces, `an` where it should be, no space before a comma."""
    text = re.sub(r"\s+([,?.!:])(?=\s|$)", r"\1", " ".join(text.split()))
    return re.sub(r"\b([Aa]) (?=[aeio]|8\b|11\b|u(?!ni|se))(?!one\b|eu)", r"\1n ", text)


def entries(text: str) -> list[str]:
    """The phrases of a list, with semicolons between them; single words may have commas."""
    return re.split(r"\s*;\s*" if ";" in text or "(" in text else r"\s*,\s*", text.strip())
