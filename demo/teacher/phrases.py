"""Phrases that write requests at random and read them again: the small language of skills.yaml.

`(a|b)` is one of these, `[a|b]` one or nothing, `{name}` an entry of the list of that name, `<slot>` a value,
and `..` any words, in what is only read. To write, choices are made from the inside out; to read, a
phrase is a regular expression, for which apostrophes, articles and the marks after a word are of no account.
"""

import random
import re
from typing import NamedTuple

LEFT_OUT = 0.6  # share of the optional parts that are
CHOICE = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]|\{(\w+)\}")  # one without others in it, or a list
TOKEN = re.compile(r"\{(\w+)\}|<(\w+)>|(\.\.)|([\[\]()|])|[^\[\](){}<>|.]+")
GROUPS = {"(": "(?:", "[": "(?:", ")": ")", "]": ")?", "|": "|"}
AFTER = r"""[,;:.!?…"”'’]*(?:\s+|-(?=[a-z]))"""  # a word
ARTICLE = f"(?:(?:an?|the|my|our){AFTER})?"
CONTRACTED = {"s": "(?:is|has)", "m": "am", "d": "(?:would|had)", "ll": "will"}
INDIRECT = re.compile(
    "(if|whether|what|who|why|when|where|which|"
    "how(?: (?:far|big|old|hot|cold|deep|tall|high|long|heavy|fast|large|different|often))?) (.+)",
    re.I,
)
AUXILIARY = re.compile(
    r"(?:is|are|was|were|can|could|will|would|should|do|does|did|(?:has|have|had) (?=been|\w+ed\b))\b",
    re.I,
)
PLURAL = re.compile(r"(?:I|you|we|they|people|children|men|women|mice|sheep|fish|.*[^su'’i]s)$", re.I)


class Book(NamedTuple):
    """Lists of phrases by name."""

    lists: dict[str, list[str]]

    def write(self, phrase: str, chance: random.Random) -> str:
        """The phrase with every choice made; its slots are still to be filled."""

        def chosen(match: re.Match) -> str:
            one_of, optional, name = match.groups()
            if optional is not None and chance.random() < LEFT_OUT:
                return ""
            return chance.choice(self.lists[name] if name else (one_of or optional).split("|"))

        while CHOICE.search(phrase):
            phrase = CHOICE.sub(chosen, phrase)
        return tidy(phrase)

    def regex(self, phrase: str) -> str:
        """What matches the phrase in text in lower case that ends with a space; each slot is a group."""

        def pattern(match: re.Match) -> str:
            name, slot, any_words, bracket = match.groups()
            if name:
                choices = map(self.regex, set(self.lists[name]))
                return f"(?:{'|'.join(sorted(choices, key=lambda choice: (-len(choice), choice)))})"
            if slot:
                return rf"(?P<{slot}>\S.*?\s+)"
            return r"(?:\S+\s+)*?" if any_words else GROUPS[bracket] if bracket else words_regex(match[0])

        return TOKEN.sub(pattern, phrase)


def words_regex(text: str) -> str:
    """What matches the words, with an article or none for another, and `what is` for `what's`."""

    def full(match: re.Match) -> str:
        return f"(?:['’]?{match[1]}|\\s+{CONTRACTED[match[1]]})" if match[1] in CONTRACTED else "['’]?"

    words = [re.sub("'(ll|s|m|d|)", full, re.escape(word)) for word in text.lower().replace(",", "").split()]
    return "".join(ARTICLE if word in ("a", "the") else word + AFTER for word in words)


def tidy(text: str) -> str:
    """Single spaces, `an` where it should be, no space before a comma."""
    text = re.sub(r"\s+([,?.!:])(?=\s|$)", r"\1", " ".join(text.split()))
    return re.sub(r"\b([Aa]) (?=[aeio]|8\b|11\b|u(?!ni|se))(?!one\b|eu)", r"\1n ", text)


def entries(text: str) -> list[str]:
    """The phrases of a list, with semicolons between them."""
    return re.split(r"\s*;\s*", text.strip())


def lowered(text: str) -> str:
    """In lower case and as long as the text, so that places are the same."""
    return "".join(char.lower()[:1] for char in text)


def bare(said: str) -> str:
    """Without quotes around it and the marks at its end."""
    said = re.sub(r"^[\s,:;.]+|[\s.,;:!?…]+$", "", said)
    return re.sub(r"""^["“‘'(]+|[\s.,;:!?"”’…]+$|(?<!s)'$""", "", said)


def direct(said: str) -> str:
    """An indirect question as the question itself: if cats can swim → Can cats swim?"""
    asked = INDIRECT.match(said)
    words, rest = (asked[1], asked[2].split()) if asked else ("", ["to"])
    helper = next((place for place in range(len(rest)) if AUXILIARY.match(" ".join(rest[place:]))), None)
    verbs = [place for place, word in enumerate(rest) if place and re.search("[^s'’]s$", word)]
    if helper == 0 or rest[0].lower() in ("to", "many", "much"):
        return said
    if helper:
        rest.insert(0, rest.pop(helper))
    elif words.lower() in ("what", "who", "which") or not (verbs or PLURAL.match(rest[0])):
        return said
    elif PLURAL.match(rest[0]):
        rest.insert(0, "do")
    else:
        verb = re.sub("^has$", "haves", rest[verbs[0]])
        rest[verbs[0]] = re.sub("ie$", "y", re.sub("(?<=ch)es$|(?<=sh)es$|(?<=.o)es$|s$", "", verb))
        rest.insert(0, "does")
    text = " ".join([*([] if words.lower() in ("if", "whether") else [words]), *rest])
    return f"{text[:1].upper()}{text[1:]}?"
