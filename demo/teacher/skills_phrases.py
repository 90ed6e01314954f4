"""Phrases that expand at random into requests with their calls: what the embedded teacher writes.

A phrase is text with `[a|b|]` (one of these), `{name}` (a word or phrase of that name) and one `<value>`.
`<said=>meant>` is a value that is not spelled as it is said; in it `said~>meant` does so for a word, and
`#a` is a number, the same in both.
"""

import functools
import random
import re
from pathlib import Path
from typing import NamedTuple

from demo.teacher.skills_numbers import ORDINALS, duration, spaced, spell

HERE = Path(__file__).parent
CHOICE = re.compile(r"\[([^\[\]]*)\]")
NAME = re.compile(r"\{(\w+)\}")
MARK = re.compile(r"<([^<>]*)>")
# Lists that some words are coined for: a student that has seen only these few would learn them by heart, and
# not to copy a word that it has never seen.
OPEN = {"animal", "hero", "app", "city", "topic", "grocery", "thing", "company", "name", "last_name"}
COINED = 0.15  # share of them
SYLLABLES = "b br ch d dr f fl g gr h j k l m n p pl qu r s sh sl st t th tr v w z", "a e i o u ai ee oo ou"
ENDINGS = "l m n r s t x ck ld nd ng rt sh"


class Piece(NamedTuple):
    """A request in words; what stands for its argument there and in the call, both None without one."""

    text: str
    said: str | None
    value: str | None


@functools.cache
def lexicon() -> dict[str, dict]:
    """All phrases by skill. `values` are the word lists, `shared` what every skill's phrases may use."""
    from ruamel.yaml import YAML

    read = YAML(typ="safe").load
    lists = read(HERE / "skills_values.yaml")
    merged = {"values": {name: [*map(str.strip, text.split(","))] for name, text in lists.items()}}
    for name in ("skills_phrases.yaml", "skills_talk.yaml", "skills_speech.yaml"):
        merged |= read(HERE / name)
    return merged | {"math": read(HERE / "skills_math.yaml")}


class Phrases:
    """Expands phrases with the words of one skill, of all of them, and of the seed topics of a brief."""

    def __init__(self, skill: str, topics: list[str], chance: random.Random):
        known, self.chance = lexicon(), chance
        self.names = {}
        every = [name for name in known if name not in ("near_miss", "beside")]
        for part in (*every, "values", "shared", skill):
            self.names |= known.get(part, {})
        self.names["seed"] = topics or known["values"]["topic"]

    def expand(self, text: str) -> str:
        """Every choice made and every name filled in; marks of values and numbers are left."""
        while found := CHOICE.search(text):
            text = f"{text[: found.start()]}{self.chance.choice(found[1].split('|'))}{text[found.end() :]}"
        return NAME.sub(lambda found: self._named(found[1]), text).replace("&", "")

    def _named(self, name: str) -> str:
        if name in OPEN and self.chance.random() < COINED:
            return self._coined()
        special = getattr(self, f"_{name}", None)
        return special() if special else self.expand(self.chance.choice(self.names[name]))

    def _coined(self) -> str:
        """A word that is in no list, such as `tromeel`."""
        parts = [*SYLLABLES * self.chance.randint(1, 3), ENDINGS]
        return "".join(self.chance.choice(part.split(" ")) for part in parts)

    def piece(self, phrase: str) -> Piece:
        """A request from a phrase: one space between words, none before a comma."""
        text = self._count(self.expand(phrase)).replace("=>", "\1").replace("~>", "\2")
        found = MARK.search(text)
        if not found:
            return Piece(_tidy(text), None, None)
        said, _, meant = found[1].partition("\1")
        value = _tidy(re.sub("\\S+\2", "", meant or said))
        said = _tidy(re.sub("\2\\S+", "", said))
        return Piece(
            _tidy(f"{text[: found.start()]}\0{text[found.end() :]}").replace("\0", said), said, value
        )

    def _count(self, text: str) -> str:
        """Numbers for #a, #b, ...: words or digits where they are said, digits where they are meant."""
        letters = sorted(set(re.findall(r"#(\w)", text)))
        if not letters:
            return text
        numbers = {letter: self._draw(letter) for letter in letters if letter != "P"}
        if "P" in letters:
            numbers["P"] = f"{float(numbers['p']) / 100:.10g}"
        listed = " and #" in text and any(len(number) > 1 for number in numbers.values())
        large = any(len(number) > 2 and not number.endswith("00") for number in numbers.values())
        words = (
            not listed and (not large or self.chance.random() < 0.2) and self.chance.random() < 0.5
        )  # "forty and two thousand" is one number or two
        said, arrow, meant = text.partition("=>")
        for letter, number in numbers.items():
            shown = spell(number) if words else number
            if letter == "o":
                shown = ORDINALS[int(number)]
            said, meant = said.replace(f"#{letter}", shown), meant.replace(f"#{letter}", number)
        expression, end, rest = meant.partition(">")
        return f"{said}{arrow}{spaced(expression)}{end}{rest}"

    def _draw(self, letter: str) -> str:
        chance = self.chance
        if letter in "abcd":
            limit = chance.choice([10, 10, 20, 20, 50, 100, 100, 100, 100, 100, 1000])
            number = str(chance.randint(1 if letter != "a" else 2, limit))
            return f"{number}.{chance.choice([5, 5, 25, 2, 75, 1])}" if chance.random() < 0.03 else number
        if letter == "r":
            return str(chance.randint(2, chance.choice([12, 30])) ** 2)
        if letter == "p":
            return str(chance.choice([*range(5, 100, 5), *range(1, 30)]))
        low, high = {
            "k": (2, 9),
            "o": (2, 10),
            "f": (2, 20),
            "m": (2, chance.choice([20, 50, 100, 200])),
        }.get(letter, (2, chance.choice([50, 100, 100, 500])))
        return str(chance.randint(low, high))

    def _number_small(self) -> str:
        return str(self.chance.randint(1, 12))

    def _number_word(self) -> str:
        return spell(self.chance.randint(2, self.chance.choice([5, 12, 40])))

    def _number_big(self) -> str:
        return str(self.chance.randint(20, self.chance.choice([100, 1000, 10000])))

    def _repeat(self) -> str:
        word = self.expand(
            self.chance.choice(["{interjection}", "{short}", "{word}", "[go|no|yes|up|okay|wow]"])
        )
        word = word.rstrip(".,!?")
        return self.chance.choice([", ", ". ", " ", "! "]).join([word] * self.chance.randint(2, 6)) + "."

    def _duration(self) -> str:
        chance = self.chance
        spoken = chance.choice([spell, str])
        unit = chance.choice(["hour", "minute", "minute", "minute", "minute", "second", "second"])
        if chance.random() < 0.03:
            unit = chance.choice(["day", "week"])
        most = {"hour": 24, "minute": 90, "second": 90, "day": 7, "week": 4}[unit]
        few = chance.randint(1, chance.choice([5, 12, most]))
        if chance.random() < 0.3:
            few = min(most, 5 * chance.randint(1, 18)) if most > 24 else few
        plural = unit + "s" * (few != 1)
        short = {"minute": "min", "second": "sec", "hour": "hr"}.get(unit, unit)
        kind = chance.random()
        if kind < 0.58:
            said = f"{spoken(few)} {plural}"
        elif kind < 0.62:
            said = f"{few} {short}{chance.choice(['', 's'])}"
        elif kind < 0.66:
            said = f"{'an' if unit == 'hour' else 'a'} {unit}"
        elif kind < 0.70:
            said = chance.choice(["half an hour", "half an hour", "a half hour", "a quarter of an hour"])
        elif kind < 0.77:
            first = chance.choice(["hour", "minute"])
            number = chance.randint(1, 10)
            said = f"{spoken(number)} and a half {first}s" if number > 1 else f"an {first} and a half"
            said = said.replace("an minute", "a minute")
        else:
            units = chance.choice(
                [("hour", "minute"), ("hour", "minute"), ("minute", "second"), ("hour", "minute", "second")]
            )
            parts = []
            for place, name in enumerate(units):
                number = chance.choice(
                    [
                        chance.randint(1, 12 if place == 0 else 59),
                        5 * chance.randint(1, 2 if place == 0 else 11),
                    ]
                )
                parts.append(f"{spoken(number)} {name}{'s' * (number != 1)}")
            joint = chance.choice([" and ", " and ", " ", ", "])
            said = (
                joint.join(parts)
                if len(parts) == 2
                else f"{parts[0]}{chance.choice([' ', ', '])}{parts[1]} and {parts[2]}"
            )
        return f"{said}=>{duration(said)}"

    def _length(self) -> str:
        """A duration as it stands before a noun: a five minute timer."""
        few = self.chance.choice([self.chance.randint(2, 12), 5 * self.chance.randint(1, 12)])
        unit = self.chance.choice(["minute", "minute", "minute", "minute", "second", "hour"])
        said = self.chance.choice([spell(few), str(few), str(few)])
        return f"{said}{self.chance.choice([' ', ' ', ' ', '-'])}{unit}=>{few} {unit}s"

    def _polar(self) -> str:
        subject, auxiliary, rest = self.expand(self.chance.choice(self.names["polar"])).split("/")
        if auxiliary in ("has", "have"):
            helping = "does" if auxiliary == "has" else "do"
            return f"{subject} {auxiliary} {rest}=>{_asked(helping, subject, f'have {rest}')}"
        said = rest if auxiliary == "do" else f"{auxiliary} {rest}"
        return f"{subject} {said}=>{_asked(auxiliary, subject, rest)}"

    def _subject_of(self) -> str:
        subject = self.expand("{topic_of}")
        return f"the {subject}=>What is the {subject}?"

    def _direct(self) -> str:
        return self._polar().partition("=>")[2]

    def _indirect(self) -> str:
        word, auxiliary, subject, rest = self.expand(self.chance.choice(self.names["indirect"])).split("/")
        asked = _asked(word, auxiliary, f"{subject} {rest}".strip())
        if auxiliary in ("do", "does"):
            verb = rest if auxiliary == "do" else "has" if rest == "have" else f"{rest}s"
            return f"{word} {subject} {verb}=>{asked}"
        return f"{word} {subject} {auxiliary} {rest}=>{asked}"


def _asked(*words: str) -> str:
    asked = " ".join(words).strip()
    return f"{asked[:1].upper()}{asked[1:]}?"


def _tidy(text: str) -> str:
    text = re.sub(r"\b([Aa]) (?=[aeio]|8\b|11\b|u(?!ni|se))(?!one\b|eu)", r"\1n ", text)
    text = re.sub(r"\s+([,?.!:])(?=\s|$|\0)", r"\1", " ".join(text.split()))
    return re.sub(r"([,:])[,:]+|([?!])[?.]+", r"\1\2", text).strip()
