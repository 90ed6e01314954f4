"""Numbers, durations and arithmetic as people say them, and what they mean: `twelve` is 12."""

import functools
import random
import re

from text_to_num import alpha2digit

from demo.teacher.phrases import Book, any_words

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {"two": "second", "three": "third", "five": "fifth", "2": "2nd", "3": "3rd"}
UNITS = "week", "day", "hour", "minute", "second"
OF_THE_NEXT = {"week": 7, "day": 24, "hour": 60, "minute": 60}
UNIT = r"(-?\d+)(\.\d+)?\s*(weeks?|days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NUMBERS = {"p": 99, "t": 90, "f": 12, "e": 6, "r": 900}  # the largest in a slot; in others up to HIGH
HIGH = 10, 20, 100, 100, 1000, 10000
NESTED = 0.12  # share of the numbers that are arithmetic themselves: the root of the sum of


def spell(number: str) -> str:
    """The words of a number below a million, such as 2506 or 12.5."""
    whole, _, places = number.partition(".")
    if places:
        return f"{spell(whole)} point {' '.join(ONES[int(digit)] for digit in places)}"
    n = int(whole)
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f"{' and' * (n % size < 100)} {spell(str(n % size))}" if n % size else ""
            return f"{spell(str(n // size))} {name}{rest}"
    return ONES[n] if n < 20 else f"{TENS[n // 10 - 2]} {ONES[n % 10] if n % 10 else ''}".strip()


def digits(text: str) -> str:
    """The text with its spelled numbers in digits and no commas in them: four thousand, 4,000 → 4000."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text))
    text = re.sub(r"\ba (?=(?:hundred|thousand|million|dozen)\b)", "one ", text)
    # "twelve hundred and forty" is no number to text2num
    teens = rf"\b({'|'.join(ONES[11:])}) hundred\b"
    text = re.sub(teens, lambda said: f"one thousand {ONES[ONES.index(said[1]) - 10]} hundred", text)
    return alpha2digit(text, "en", -1)


class Amounts:
    """Reads and writes arithmetic and durations by the phrases of skills.yaml."""

    def __init__(self, arithmetic: dict[str, dict[str, str]], durations: dict):
        self.book = Book({}, dict.fromkeys("abcfnpret", any_words(20)))
        self.reads = [(re.compile(said), plain) for said, plain in durations["reads"].items()]
        self.said = {name: durations[name].split("; ") for name in ("duration", "length")}
        self.sums = {
            kind: [(said, re.compile(self.book.regex(said)), python) for said, python in rows.items()]
            for kind, rows in arithmetic.items()
        }
        self.computed = functools.lru_cache(10_000)(self._computed)

    def duration(self, text: str) -> str | None:
        """A duration as `1 hour 10 minutes`; None for what is none, or not only one."""
        said = digits(re.sub(r"\bsecond\b", "seconds", re.sub(r"[,.?!-](?!\d)", " ", text.lower()).strip()))
        for words, plain in self.reads:
            said = words.sub(plain, said)
        if re.sub(rf"{UNIT}|\b(?:and|exactly|about|just)\b|\s", "", said):
            return None
        parts = []
        for whole, places, short in re.findall(UNIT, said):
            unit = next(unit for unit in UNITS if unit[0] == short[0])
            parts += [(whole, unit)] if int(whole) or not places else []
            if places and unit in OF_THE_NEXT:
                parts.append((f"{float(places) * OF_THE_NEXT[unit]:g}", UNITS[UNITS.index(unit) + 1]))
        return " ".join(f"{amount} {unit}{'' if amount == '1' else 's'}" for amount, unit in parts) or None

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
            words, parts[letter] = (self.write_sum if nested else number(letter))(chance, spoken)
            said = said.replace(f"<{letter}>", words)
        said = re.sub(r"(\w+) th\b", lambda mark: ORDINALS.get(mark[1], f"{mark[1]}th"), said)
        python = filled(python, parts, kind == "functions")
        # What can be heard in two ways is left out, and signs where numbers are spoken.
        fits = self.expression(said) == python and not (spoken and re.search(r"[-+*/^%×÷!(]| x ", said))
        return (said, python) if fits else self.write_sum(chance, spoken)

    def write_duration(self, chance: random.Random, spoken: bool, name: str) -> tuple[str, str]:
        """(a duration as it is said, as it is written out); a `length` stands before a noun."""
        said = self.book.write(chance.choice(self.said[name]), chance)
        said = re.sub(r"<(\w)>", lambda mark: number(mark[1])(chance, spoken)[0], said)
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


def number(letter: str):
    """Draws (a number for a slot as it is said, in digits)."""

    def drawn(chance: random.Random, spoken: bool) -> tuple[str, str]:
        plain = str(chance.randint(2, NUMBERS.get(letter) or chance.choice(HIGH)))
        if letter not in "efrt" and chance.random() < 0.08:
            plain += chance.choice((".5", ".25", ".99"))
        return (spell(plain) if spoken or (len(plain) < 3 and chance.random() < 0.3) else plain), plain

    return drawn
