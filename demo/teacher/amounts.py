"""Numbers, durations and arithmetic as people say them, and what they mean: `twelve` is 12."""

import functools
import random
import re

from demo.teacher.phrases import Book, Node, parse, text_of

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {"two": "second", "three": "third", "five": "fifth", "2": "2nd", "3": "3rd"}
SMALLER = {"week": ("day", 7), "day": ("hour", 24), "hour": ("minute", 60), "minute": ("second", 60)}
UNIT = r"(weeks?|days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"
NESTED = 0.12  # share of the numbers that are arithmetic themselves: the root of the sum of
NUMBER = r"-?\d+(?:\.\d+)?"


def spell(number: str, chance: random.Random) -> str:
    """The words of a number below a million, such as 2506 or 12.5, in one of the ways to say it."""
    whole, _, places = number.partition(".")
    if places:
        return f"{spell(whole, chance)} point {' '.join(ONES[int(digit)] for digit in places)}"
    n = int(whole)
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f" {ONES[n % 10]}" if n % 10 else "")
    if 1000 < n < 2000 and n % 1000 > 99 and chance.random() < 0.4:  # twelve hundred and forty
        size, name = 100, "hundred"
    else:
        size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    head = "a" if n // size == 1 and chance.random() < 0.3 else spell(str(n // size), chance)
    joint = " and " if n % size < 100 and chance.random() < 0.6 else " "
    return f"{head} {name}" + (f"{joint}{spell(str(n % size), chance)}" if n % size else "")


def digits(text: str) -> str:
    """The text with its spelled numbers in digits and no commas in them: four thousand, 4,000 → 4000."""
    from text_to_num import alpha2digit

    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text))
    text = re.sub(r"\ba (?=(?:hundred|thousand|million|dozen)\b)", "one ", text)
    text = re.sub(r"\b(?:one )?dozen\b", "12", text)
    # "twelve hundred and forty" is no number to text2num
    hundreds = re.compile(rf"\b({'|'.join(ONES[11:20])}) hundred\b(?: and)?")
    parts = hundreds.split(text)
    said = alpha2digit(parts[0], "en", -1)
    for teen, rest in zip(parts[1::2], parts[2::2], strict=True):
        rest = alpha2digit(rest, "en", -1)
        below = re.match(r" (\d\d?)\b(?![.%]\d)", rest)
        number = ONES.index(teen) * 100 + (int(below[1]) if below else 0)
        said += f"{number}{rest[below.end() :] if below else rest}"
    return said


class Amounts:
    """Reads and writes arithmetic and durations by the phrases of skills.yaml."""

    def __init__(self, arithmetic: dict[str, dict[str, str]], durations: dict, book: Book):
        self.book = book
        self.reads = [
            [(re.compile(words), plain) for words, plain in durations[name].items()]
            for name in ("reads", "reads_digits")
        ]
        self.said: dict[str, list[Node]] = {
            name: [parse(text.strip()) for text in durations[name].split(";")] for name in ("said", "length")
        }
        self.sums = {
            kind: [
                (parse(said), re.compile(self._regex(parse(said))), python) for said, python in rows.items()
            ]
            for kind, rows in arithmetic.items()
        }
        self.computed = functools.cache(self._computed)

    def duration(self, text: str) -> str | None:
        """A duration as `1 hour 10 minutes`; None for what is none, or not only one."""
        said = f" {re.sub(r'[,-]', ' ', text.lower())} ".replace(" second ", " seconds ")
        for place, reads in enumerate(self.reads):
            said = digits(said) if place else said
            for words, plain in reads:
                said = words.sub(plain, said)
        amounts = re.findall(rf"({NUMBER})\s*{UNIT}", said)
        rest = re.sub(rf"({NUMBER})\s*{UNIT}|\b(?:and|plus|exactly|about|of|just)\b|\s", "", said)
        if not amounts or rest:
            return None
        parts = []
        for amount, short in amounts:
            unit = next(name for name in ("week", "day", "hour", "minute", "second") if name[0] == short[0])
            whole, _, places = amount.partition(".")
            if places and unit in SMALLER:
                parts += [(whole, unit)] if int(whole) else []
                unit, size = SMALLER[unit]
                whole = f"{float(f'0.{places}') * size:g}"
            parts.append((whole if places else amount, unit))
        return " ".join(f"{amount} {unit}{'' if amount == '1' else 's'}" for amount, unit in parts)

    def expression(self, text: str) -> str | None:
        """The Python of spoken arithmetic: five percent of forty → 0.05 * 40; None for what is none."""
        said = digits(text.lower().strip(" .?!"))
        said = re.sub(r"([()])", r" \1 ", re.sub(r"(?:^minus|\bnegative) (?=\d)", "-", said))
        said = re.sub(r"(?<=[\d)])\s*(\*\*|[-+*/^%x×÷!]|(?<=\d)(?:st|nd|rd|th))(?=[-\d( ]|$)", r" \1 ", said)
        said = re.sub(r"(?<![\d.])[.,]|[,.](?!\d)|[?=:]|\b(?:the|a|an)\b|\bexactly\b", " ", said)
        python = self.computed(" ".join(re.sub(r"\b(?:st|nd|rd)\b", "th", said).split()))
        return None if python is None or re.fullmatch(NUMBER, python) else python

    def _computed(self, said: str) -> str | None:
        """The Python of cleaned words: a number, or a phrase, in which others may stand for its numbers."""
        if re.fullmatch(NUMBER, said):
            return said
        if (inside := re.fullmatch(r"\( ([^()]+) \)", said)) and (python := self.computed(inside[1])):
            return f"({python})"
        for kind, rows in self.sums.items():
            for _, regex, python in rows:
                match = regex.fullmatch(f"{said} ")
                parts = (
                    {name: self.computed(part) for name, part in match.groupdict().items()} if match else {}
                )
                if parts and None not in parts.values():
                    return _filled(python, parts, kind == "functions")
        return None

    def _regex(self, node: Node) -> str:
        """The regular expression of a phrase of arithmetic, in which `#a` is a group."""
        kind, inner = node
        if kind == "words":
            words = re.sub(r"(?<![#\w])(?:the|a|an) |,", "", f"{inner} ").split()
            return "".join(re.sub(r"\\#(\w)", r"(?P<\1>.+?)", re.escape(word)) + " " for word in words)
        if kind == "maybe":
            return f"(?:{self._regex(inner)})?"
        parts = list(map(self._regex, inner))
        return f"(?:{'|'.join(sorted(parts, key=len, reverse=True))})" if kind == "one" else "".join(parts)

    def write_sum(self, chance: random.Random, spoken: bool) -> tuple[str, str]:
        """(arithmetic as it is said, its Python); numbers in words if `spoken`."""
        kind = chance.choice(["operations", "functions"])
        node, _, python = chance.choice(self.sums[kind])
        said, parts = text_of(self.book.write(node, chance, str)), {}
        for letter in dict.fromkeys(re.findall(r"#(\w)", python)):
            parts[letter] = drawn(letter, chance)
            number = as_said(parts[letter], chance, spoken)
            if letter in "abr" and chance.random() < NESTED:
                number, parts[letter] = self.write_sum(chance, spoken)
            said = said.replace(f"#{letter}", number)
        said = re.sub(r"(\w+) th\b", lambda mark: ORDINALS.get(mark[1], f"{mark[1]}th"), said)
        if spoken and "(" in said:
            return self.write_sum(chance, spoken)
        python = _filled(python, parts, kind == "functions")
        # What can be heard in two ways is left out.
        return (said, python) if self.expression(said) == python else self.write_sum(chance, spoken)

    def write_duration(self, chance: random.Random, spoken: bool, name: str) -> tuple[str, str]:
        """(a duration as it is said, as it is written out), or one as it stands before a noun."""
        said = text_of(self.book.write(chance.choice(self.said[name]), chance, str))
        said = re.sub(r"#(\w)", lambda mark: as_said(drawn(mark[1], chance), chance, spoken), said)
        said = re.sub(r"\b(1|one|a) (minute|second|hour|day|week)s", r"\1 \2", said)
        meant = self.duration(said)
        return (said, meant) if meant else self.write_duration(chance, spoken, name)


def _filled(python: str, parts: dict[str, str], apart: bool) -> str:
    """A phrase's Python with its numbers; what is no number stands in brackets if it is to be kept apart."""
    filled = {name: f"({part})" if apart and " " in part else part for name, part in parts.items()}
    if "p" in parts:
        plain = re.fullmatch(NUMBER, parts["p"])
        filled["p"] = f"{float(parts['p']) / 100:.10g}" if plain else f"{filled['p']} / 100"
    python = re.sub(r"#(\w)", lambda mark: filled[mark[1]], python)
    return re.sub(r"\b(sqrt|factorial)\(\((.*)\)\)$", r"\1(\2)", python)


def drawn(letter: str, chance: random.Random) -> str:
    """A number for `#letter` of a phrase."""
    if letter == "r":
        return str(chance.randint(2, 30) ** 2)
    if letter == "p":
        return chance.choice([str(5 * chance.randint(1, 19)), str(chance.randint(1, 99)), "2.5", "7.5"])
    if letter == "t":
        return str(chance.choice([chance.randint(1, 12), 5 * chance.randint(1, 18), chance.randint(2, 90)]))
    if letter == "s":
        return str(chance.choice([5 * chance.randint(2, 11), chance.randint(11, 59)]))
    if letter in "fe":
        return str(chance.randint(2, 12 if letter == "f" else 6))
    high = chance.choice([10, 20, 100, 100, 1000, 10000])
    number = str(chance.randint(2, high) * chance.choice([1, 1, 1, 10 if high > 50 else 1]))
    return f"{number}.{chance.choice(['5', '25', '75', '99', '9'])}" if chance.random() < 0.08 else number


def as_said(number: str, chance: random.Random, spoken: bool) -> str:
    """A number in words if it is spoken; else in digits, of which thousands may have a comma, or in words."""
    if spoken or (len(number) < 3 and chance.random() < 0.3):
        return spell(number, chance)
    whole, point, places = number.partition(".")
    return f"{int(whole):,}{point}{places}" if chance.random() < 0.5 else number
