"""Numbers, durations and arithmetic as people say them, and what they mean: `twelve` is 12."""

import functools
import random
import re

from demo.teacher.phrases import Book, entries
from stages.core.numerals import numerals

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
UNITS = {"week": 7, "day": 24, "hour": 60, "minute": 60, "second": 0}  # how many of the next
UNIT = r"(\d+)(\.\d+)?\s*(weeks?|days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"
NOUN = re.compile(
    r"(?=\b(?:sum of|total of|difference|product|square root|average|mean|remainder|factorial)\b)"
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LARGEST = {"p": 99, "f": 12, "e": 16, "r": 900, "t": 59}  # in slots of these letters; in others one of HIGH
HIGH = 20, 100, 100, 1000, 10000


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


class Amounts:
    """Reads and writes arithmetic and durations by the phrases of skills.yaml."""

    def __init__(self, book: Book, arithmetic: dict[str, str], durations: dict):
        self.book, self.said = book, entries(durations["said"])
        self.reads = [(re.compile(said), plain) for said, plain in durations["reads"].items()]
        self.sums = [
            (said, re.compile(book.regex(said)), python, kind == "functions")
            for kind, rows in arithmetic.items()
            for said, python in (row.split(" = ") for row in entries(rows))
        ]
        self.computed = functools.lru_cache(10_000)(self._computed)

    def duration(self, text: str) -> str | None:
        """A duration as `1 hour 10 minutes`; None for what is none, or not only one."""
        said = numerals(re.sub(r"\bsecond\b", "seconds", re.sub(r"[,.?!-](?!\d)", " ", text.lower()).strip()))
        for words, plain in self.reads:
            said = words.sub(plain, said)
        if re.sub(rf"{UNIT}|\b(?:and|exactly|about|just)\b|\s", "", said):
            return None
        parts, names = [], list(UNITS)
        for whole, places, short in re.findall(UNIT, said):
            unit = next(unit for unit in names if unit[0] == short[0])
            parts += [(whole, unit)] if int(whole) or not places else []
            if places and UNITS[unit]:
                parts.append((f"{float(places) * UNITS[unit]:g}", names[names.index(unit) + 1]))
        return " ".join(f"{amount} {unit}{'' if amount == '1' else 's'}" for amount, unit in parts) or None

    def timed(self, text: str) -> str | None:
        """The longest duration in a text."""
        words = text.split()
        spans = [(n, start) for n in range(min(11, len(words)), 0, -1) for start in range(len(words) - n + 1)]
        found = (self.duration(" ".join(words[start : start + n])) for n, start in spans)
        return next(filter(None, found), None)

    def expression(self, text: str) -> str | None:
        """The Python of spoken arithmetic: five percent of forty → 0.05 * 40; None for what is none."""
        said = numerals(text.lower().strip(" .?!"))
        said = re.sub(r"([()])", r" \1 ", re.sub(r"(?:^minus|\bnegative) (?=\d)", "-", said))
        said = re.sub(r"(?<=[\d)])\s*(\*\*|[-+*/^%x×÷!]|(?<=\d)(?:st|nd|rd|th))(?=[-\d( ]|$)", r" \1 ", said)
        said = re.sub(r"(?<![\d.])[.,]|[,.](?!\d)|[?=:$£€]|\b(?:the|a|an)\b|\bexactly\b", " ", said)
        python = self.computed(" ".join(re.sub(r"\b(?:st|nd|rd)\b", "th", said).split()))
        return None if python is None or NUMBER.fullmatch(python) else python

    def _computed(self, said: str) -> str | None:
        """The Python of cleaned words: a number, or a phrase, in which others may stand for its numbers."""
        if NUMBER.fullmatch(said) or not re.search(r"\d", said):
            return said if said[-1:].isdigit() else None
        for _, regex, python, apart in self.sums:
            if match := regex.fullmatch(f"{said} "):
                parts = {name: self.computed(part.strip()) for name, part in match.groupdict().items()}
                if None in parts.values():
                    continue
                given = {name: f"({part})" if apart and " " in part else part for name, part in parts.items()}
                if NUMBER.fullmatch(parts.get("p", "")):
                    given["p"] = f"{float(parts['p']) / 100:.10g}"
                python = re.sub(r"<(\w)>", lambda mark, given=given: given[mark[1]], python)
                return re.sub(r"\b(sqrt|factorial)\(\((.*)\)\)$", r"\1(\2)", python)
        return None

    def write_sum(self, chance: random.Random, spoken: bool) -> str:
        """Arithmetic as it is said; numbers in words if `spoken`."""
        phrase, _, python, _ = chance.choice(self.sums)
        said = self.book.write(phrase, chance)
        for letter in dict.fromkeys(re.findall(r"<(\w)>", python)):
            nested = letter == "a" and chance.random() < 0.2
            part = self.write_sum(chance, spoken) if nested else number(letter, chance, spoken)
            said = said.replace(f"<{letter}>", part)
        said = re.sub(r"(four|six|seven|eight|\dt?een|[4-9]) th\b", r"\1th", said)
        said = NOUN.sub("the " * (chance.random() < 0.6), said, count=1)
        # Signs are not spoken; and what cannot be read again is left out.
        fits = self.expression(said) and not (spoken and re.search(r"[-+*/^%×÷!(]| x | th\b", said))
        return said if fits else self.write_sum(chance, spoken)

    def write_duration(self, chance: random.Random, spoken: bool) -> str:
        said = self.book.write(chance.choice(self.said), chance)
        return re.sub(r"<(\w)>", lambda mark: number(mark[1], chance, spoken), said)


def number(letter: str, chance: random.Random, spoken: bool) -> str:
    """A number for a slot as it is said."""
    plain = str(chance.randint(2, LARGEST.get(letter) or chance.choice(HIGH)))
    if letter not in "efrt" and chance.random() < 0.15:
        plain += chance.choice((".5", ".25", f".{chance.randint(10, 99)}"))
    if spoken or (len(plain) < 3 and chance.random() < 0.3):
        return spell(plain).replace(" and", chance.choice((" and", "")))
    return f"{int(plain):,}" if plain.isdigit() and chance.random() < 0.5 else plain
