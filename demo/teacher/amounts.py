"""Numbers, durations and arithmetic as people say them, and what they mean: `twelve` is 12."""

import functools
import random
import re

from text_to_num import alpha2digit

from demo.teacher.phrases import Book, any_words, tidy

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {"two": "second", "three": "third", "five": "fifth", "2": "2nd", "3": "3rd"}
UNITS = {"week": 7, "day": 24, "hour": 60, "minute": 60, "second": 1}  # each with what it has of the next
UNIT = r"(-?\d+)(\.\d+)?\s*(weeks?|days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LETTERS = "abcfnpret"  # of slots for numbers
NESTED = 0.12  # share of the numbers that are arithmetic themselves: the root of the sum of


def spell(number: str, chance: random.Random) -> str:
    """The words of a number below a million, such as 2506 or 12.5, in one of the ways to say it."""
    whole, _, places = number.partition(".")
    if places:
        return f"{spell(whole, chance)} point {' '.join(ONES[int(digit)] for digit in places)}"
    n = int(whole)
    if n < 20:
        return ONES[n]
    if n < 100:
        return " ".join([TENS[n // 10], *([ONES[n % 10]] if n % 10 else [])])
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    head = "a" if n // size == 1 and chance.random() < 0.3 else spell(str(n // size), chance)
    joint = " and " if n % size < 100 and chance.random() < 0.6 else " "
    return f"{head} {name}" + (f"{joint}{spell(str(n % size), chance)}" if n % size else "")


def digits(text: str) -> str:
    """The text with its spelled numbers in digits and no commas in them: four thousand, 4,000 → 4000."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text))
    text = re.sub(r"\ba (?=(?:hundred|thousand|million|dozen)\b)", "one ", text)
    # "twelve hundred and forty" is no number to text2num
    teens = rf"\b({'|'.join(ONES[11:])}) hundred\b"
    text = re.sub(teens, lambda said: f"one thousand {ONES[ONES.index(said[1]) - 10]} hundred", text)
    return alpha2digit(re.sub(r"\b(?:one )?dozen\b", "12", text), "en", -1)


class Amounts:
    """Reads and writes arithmetic and durations by the phrases of skills.yaml."""

    def __init__(self, arithmetic: dict[str, dict[str, str]], durations: dict):
        self.book = Book({}, dict.fromkeys(LETTERS, any_words(20)))
        self.reads = [(re.compile(said), plain) for said, plain in durations["reads"].items()]
        self.said = {name: durations[name].split("; ") for name in ("duration", "length")}
        self.sums = {
            kind: [(said, re.compile(self.book.regex(said)), python) for said, python in rows.items()]
            for kind, rows in arithmetic.items()
        }
        self.computed = functools.cache(self._computed)

    def duration(self, text: str) -> str | None:
        """A duration as `1 hour 10 minutes`; None for what is none, or not only one."""
        said = digits(re.sub(r"\bsecond\b", "seconds", re.sub(r"[,.-](?!\d)", " ", text.lower()).strip()))
        for words, plain in self.reads:
            said = words.sub(plain, said)
        if not re.search(UNIT, said) or re.sub(rf"{UNIT}|\b(?:and|exactly|about|just)\b|\s", "", said):
            return None
        parts = []
        for whole, places, short in re.findall(UNIT, said):
            unit, smaller = next(pair for pair in zip(UNITS, [*UNITS][1:] + [""], strict=True) if pair[0][0] == short[0])
            parts += [(whole, unit)] if int(whole) or not places else []
            parts += [(f"{float(places) * UNITS[unit]:g}", smaller or unit)] if places else []
        return " ".join(f"{amount} {unit}{'' if amount == '1' else 's'}" for amount, unit in parts)

    def expression(self, text: str) -> str | None:
        """The Python of spoken arithmetic: five percent of forty → 0.05 * 40; None for what is none."""
        said = digits(text.lower().strip(" .?!"))
        said = re.sub(r"([()])", r" \1 ", re.sub(r"(?:^minus|\bnegative) (?=\d)", "-", said))
        said = re.sub(r"(?<=[\d)])\s*(\*\*|[-+*/^%x×÷!]|(?<=\d)(?:st|nd|rd|th))(?=[-\d( ]|$)", r" \1 ", said)
        said = re.sub(r"(?<![\d.])[.,]|[,.](?!\d)|[?=:]|\b(?:the|a|an)\b|\bexactly\b", " ", said)
        python = self.computed(" ".join(re.sub(r"\b(?:st|nd|rd)\b", "th", said).split()))
        return None if python is None or NUMBER.fullmatch(python) else python

    def _computed(self, said: str) -> str | None:
        """The Python of cleaned words: a number, or a phrase, in which others may stand for its numbers."""
        if NUMBER.fullmatch(said) or not re.search(r"\d", said):
            return said if said[-1:].isdigit() else None
        if (inside := re.fullmatch(r"\( ([^()]+) \)", said)) and (python := self.computed(inside[1])):
            return f"({python})"
        for kind, rows in self.sums.items():
            for _, regex, python in rows:
                if match := regex.fullmatch(f"{said} "):
                    parts = {name: self.computed(part.strip()) for name, part in match.groupdict().items()}
                    if None not in parts.values():
                        return filled(python, parts, kind == "functions")
        return None

    def write_sum(self, chance: random.Random, spoken: bool) -> tuple[str, str]:
        """(arithmetic as it is said, its Python); numbers in words if `spoken`."""
        kind = chance.choice(list(self.sums))
        phrase, _, python = chance.choice(self.sums[kind])
        said, parts = self.book.write(phrase, chance), {}
        for letter in dict.fromkeys(re.findall(r"<(\w)>", python)):
            nested = letter in "abr" and chance.random() < NESTED
            number = drawn(letter, chance)
            words, parts[letter] = self.write_sum(chance, spoken) if nested else (as_said(number, chance, spoken), number)
            said = said.replace(f"<{letter}>", words)
        said = re.sub(r"(\w+) th\b", lambda mark: ORDINALS.get(mark[1], f"{mark[1]}th"), said)
        python = filled(python, parts, kind == "functions")
        # What can be heard in two ways is left out, and signs where numbers are spoken.
        fits = self.expression(said) == python and not (spoken and re.search(r"[-+*/^%×÷!(]| x ", said))
        return (tidy(said), python) if fits else self.write_sum(chance, spoken)

    def write_duration(self, chance: random.Random, spoken: bool, name: str) -> tuple[str, str]:
        """(a duration as it is said, as it is written out); a `length` stands before a noun."""
        said = self.book.write(chance.choice(self.said[name]), chance)
        said = re.sub(r"<(\w)>", lambda mark: as_said(drawn(mark[1], chance), chance, spoken), said)
        meant = self.duration(said)
        return (said, meant) if meant else self.write_duration(chance, spoken, name)


def filled(python: str, parts: dict[str, str], apart: bool) -> str:
    """A phrase's Python with its numbers; what is no number stands in brackets if it is to be kept apart."""
    given = {name: f"({part})" if apart and " " in part else part for name, part in parts.items()}
    if "p" in parts:
        plain = NUMBER.fullmatch(parts["p"])
        given["p"] = f"{float(parts['p']) / 100:.10g}" if plain else f"{given['p']} / 100"
    python = re.sub(r"<(\w)>", lambda mark: given[mark[1]], python)
    return re.sub(r"\b(sqrt|factorial)\(\((.*)\)\)$", r"\1(\2)", python)


def drawn(letter: str, chance: random.Random) -> str:
    """A number for a slot: p percent, r a square, t of time, e small, f a little larger, others any."""
    if letter == "r":
        return str(chance.randint(2, 30) ** 2)
    if letter == "p":
        return chance.choice([str(5 * chance.randint(1, 19)), str(chance.randint(1, 99)), "2.5", "7.5"])
    if letter == "t":
        return str(chance.choice([chance.randint(2, 12), 5 * chance.randint(2, 18), chance.randint(11, 90)]))
    if letter in "ef":
        return str(chance.randint(2, 6 if letter == "e" else 12))
    high = chance.choice([10, 20, 100, 100, 1000, 10000])
    number = str(chance.randint(2, high) * chance.choice([1, 1, 1, 10 if high > 50 else 1]))
    return f"{number}.{chance.choice(['5', '25', '75', '99', '9'])}" if chance.random() < 0.08 else number


def as_said(number: str, chance: random.Random, spoken: bool) -> str:
    """A number in words if it is spoken; else in digits, of which thousands may have a comma, or in words."""
    if spoken or (len(number) < 3 and chance.random() < 0.3):
        return spell(number, chance)
    whole, point, places = number.partition(".")
    return f"{int(whole):,}{point}{places}" if chance.random() < 0.5 else number
