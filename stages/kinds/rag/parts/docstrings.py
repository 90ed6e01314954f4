"""Questions that follow from the structure of API pages, with the page's own words as answers.

A page is a docstring in numpy's style, its markup gone: a summary, then sections under headings (Parameters,
Returns, Raises, ...), with entries "name : type" and lines of description. Each sort of question has several
wordings (wordings.yaml), and a page's name several forms; a hash of page, sort and entry chooses, so that
new pages change nothing of old ones.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.core.hashing import stable_integer, stable_unit
from stages.core.records import Document
from stages.core.text import count_words
from stages.core.yaml_text import read_yaml

SECTIONS = (
    "Parameters|Other Parameters|Attributes|Returns|Yields|Raises|Warns|Notes|Methods|See also|Examples?|"
    "References|Warnings?|Array API Standard Support"
)
HEADING = re.compile(rf"(?:\A|\n\n)({SECTIONS})(?:\n\n|\Z)")
ENTRY = re.compile(r"^\*{0,2}([A-Za-z_][\w.]*(?:, ?\*{0,2}\w+)*) ?: (\S.*)$", re.M)
ERROR = re.compile(r"^((?:\w+\.)*[A-Z]\w+)(?: ?:(?: (.+))?)?$", re.M)
SENTENCE = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!cf\.)(?<!vs\.)\s+(?=[A-Z\[\"'`(])|\n\s*\n"
)
DEFAULT = re.compile(r"\bdefault(?:s to|\s?=\s?|: ?| is | )\s*('[^']*'|\"[^\"]*\"|\([^)]*\)|[^\s,;)]+)", re.I)
CONDITION = re.compile(r"(?:If|When) ([^,.]{8,90}), (.{12,})", re.S)
POINTER = re.compile(r"\b(?:instead|equivalent to|similar to|differs from|deprecated)\b")
LIST = re.compile(r"\n(?=- |\w+ ?: )")
UNFINISHED = re.compile(r"\b(?:a|an|and|as|at|by|from|in|of|on|or|see|the|to|with)[.,:;)]*$", re.I)
HOW = re.compile(r"\b(?:algorithm|complexity|method of|based on|implementation|formula)\b", re.I)
PROPER = {
    "numpy": "NumPy",
    "scipy": "SciPy",
    "matplotlib": "Matplotlib",
    "networkx": "NetworkX",
    "sklearn": "scikit-learn",
}
SHORTEST, LONGEST = 8, 60  # words of an answer
WEIGHTS = {"condition": 3, "parameter": 2, "returns": 2, "raises": 2, "how": 2, "which": 0.7, "takes": 0.5}
TWO = 0.5  # share of the pages that are asked two things at once, as people often do
WORDS = read_yaml(Path(__file__).with_name("wordings.yaml"))
WORDINGS, THEN, VERBS = WORDS["first"], WORDS["then"], frozenset(WORDS["verbs"].split())


class Candidate(NamedTuple):
    """A sort of WORDINGS, the `entry` that it names, an answer, which may be empty."""

    sort: str
    entry: str
    answer: str


class Asked(NamedTuple):
    """A question about a page and its answers: one for each thing that it asks."""

    question: str
    answers: tuple[str, ...]


class Names:
    """The forms in which people name a page: short ones only where no other page has them, too."""

    def __init__(self, documents: Iterable[Document]):
        self.shared = Counter(form for document in documents for form in self._short(document))

    @staticmethod
    def _short(document: Document) -> list[str]:
        """{own name} and {class}.{own name}, each with its package."""
        package, *rest = document["id"].split(".")
        return [f"{package} {'.'.join(rest[-count:])}" for count in (1, 2) if len(rest) > count - 1]

    def of(self, document: Document) -> list[str]:
        """The forms; the whole name is the most usual."""
        forms = [document["id"]] * 2
        for short in self._short(document):
            package, name = short.split(" ")
            if self.shared[short] == 1 and len(name) > 4:  # names like `min` say little
                proper = PROPER.get(package, package)
                own = f"{name} of {proper}" if "." in name else f"{proper}'s {name}"
                forms += [f"{name} in {proper}", own, f"{proper} {name}"]
        return forms


def one_line(text: str) -> str:
    """A text in a line, without the blanks that markup left before points and commas."""
    return re.sub(r" ([.,;:])(?= |$)", r"\1", " ".join(text.split()))


def sections(text: str) -> dict[str, str]:
    """What stands before the first heading, as "", and under each one."""
    first, *rest = HEADING.split(text.strip())
    found = {"": first.strip()}
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        found.setdefault(heading, body.strip())
    return found


def entries(body: str) -> Iterator[tuple[str, str, str]]:
    """(name, type, description) of each entry of a section."""
    for head, told in with_bodies(list(ENTRY.finditer(body)), body):
        yield head[1], head[2].strip(), told


def with_bodies(heads: Sequence[re.Match[str]], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each of the `heads` in a text with what stands between it and the next one."""
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=False):  # one end more where there is no head
        yield head, text[head.end() : end].strip()


def sentences(text: str, enough: int = 20) -> str:
    """The first sentences of a text, before a list, in a line: `enough` words, of LONGEST at most."""
    told = ""
    for sentence in SENTENCE.split(LIST.split(text.strip())[0]):
        longer = one_line(f"{told} {sentence}")
        if count_words(longer) > LONGEST:
            break
        told = longer
        if count_words(told) >= enough:
            break
    return told if not told or told[-1] in ".!?" else f"{told.rstrip(':;,')}."


def third_person(summary: str) -> str:
    """`Return the sum.` → `Returns the sum.`; "" where it does not begin with a verb."""
    word, _, rest = summary.partition(" ")
    verb = word.lower()
    if verb in VERBS:
        verb += "es" if re.search(r"(s|sh|ch|x|z|o)$", verb) else "s"
        verb = re.sub(r"([^aeiou])ys$", r"\1ies", verb)
    elif not (verb.endswith("s") and (verb[:-1] in VERBS or verb[:-2] in VERBS or f"{verb[:-3]}y" in VERBS)):
        return ""
    return f"{verb} {rest}"


def asked_of(document: Document) -> Iterator[Candidate]:
    """All that can be asked about a page."""
    parts = sections(document["text"])
    yield from of_summary(document, sentences(parts[""].split("\n\n")[0]))
    for heading in ("Parameters", "Other Parameters", "Attributes"):
        for name, form, told in entries(parts.get(heading, "")):
            yield from of_entry(heading, name, f"{form}\n{told}", told)
    names = [name for name, _, _ in entries(parts.get("Parameters", ""))]
    if 1 < len(names) < 8:
        yield Candidate("takes", "", f"It takes {', '.join(names[:-1])} and {names[-1]}.")
    for body in filter(None, map(parts.get, ("Returns", "Yields"))):
        told = " ".join(part for _, _, part in entries(body)) or body.partition("\n")[2]
        yield Candidate("returns", "", sentences(told))
    yield from of_errors(parts.get("Raises", ""))
    for heading in ("", "Parameters", "Returns", "Notes"):
        yield from of_sentences(heading, parts.get(heading, ""))


def of_summary(document: Document, summary: str) -> Iterator[Candidate]:
    does, kind = third_person(summary), document["metadata"].get("kind", "function")
    sort = "summary" if does or kind == "function" else "thing"
    yield Candidate(sort, "", f"It {does}" if does else summary)
    if does and kind != "property" and count_words(does) <= 25 and not SENTENCE.search(summary):
        yield Candidate("which", does.rstrip(". "), f"{document['id']} {does}")


def of_entry(heading: str, name: str, whole: str, told: str) -> Iterator[Candidate]:
    """Of a parameter or an attribute; `whole` is its description, `told`, after its type."""
    if heading == "Attributes":
        yield Candidate("attribute", name, sentences(told))
        return
    yield Candidate("parameter", name, sentences(told))
    default = DEFAULT.search(whole)
    if default and "," not in name:
        value = default[1].rstrip(".:")
        meant = sentences(told, 1)
        yield Candidate("default", name, f"The default of {name} is {value}. {meant}")
        if not DEFAULT.search(meant):
            yield Candidate("both", name, f"{meant} The default is {value}.")


def of_sentences(heading: str, text: str) -> Iterator[Candidate]:
    """Of single sentences of a section that say when, instead of what, or how."""
    for sentence in SENTENCE.split(text):
        line = one_line(sentence)
        if " : " in line or not line.endswith("."):
            continue  # holds the head of an entry, or was cut by markup
        found = CONDITION.fullmatch(line)
        if found and count_words(found[1]) > 2:
            yield Candidate("condition", found[1], line)
        elif heading != "Parameters" and POINTER.search(line):
            yield Candidate("pointer", "", line)
        elif heading == "Notes" and HOW.search(line):
            yield Candidate("how", "", line)


def of_errors(body: str) -> Iterator[Candidate]:
    for head, told in with_bodies(list(ERROR.finditer(body)), body):
        answer = sentences(head[2] or told, 1)
        if re.match(r"(If|When|For|In case|Unless|Raised)\b", answer):
            begin = answer.removeprefix("Raised ")
            answer = f"{head[1]} is raised {begin[0].lower()}{begin[1:]}"
        yield Candidate("raises", head[1], answer)


def usable(answer: str) -> bool:
    """Of a fitting length, with a beginning and, where markup took a reference away, an end?"""
    fits = SHORTEST <= count_words(answer) <= LONGEST
    return fits and answer[0].isalnum() and not UNFINISHED.search(answer)


def question_of(document: Document, names: Names) -> Asked | None:
    """The question of a page: one of the sorts that it allows, by hash and weight; None for none."""
    by_sort: dict[str, list[Candidate]] = {}
    for one in asked_of(document):
        if usable(one.answer):
            by_sort.setdefault(one.sort, []).append(one)
    if not by_sort:
        return None
    key = document["id"]
    # Efraimidis and Spirakis 2006: the largest u^(1/weight) is a sample by weight.
    sort = max(by_sort, key=lambda name: stable_unit("sort", key, name) ** (1 / WEIGHTS.get(name, 1)))
    chosen = min(by_sort[sort], key=lambda one: stable_unit("entry", key, sort, one.entry))
    forms, wordings, package = names.of(document), WORDINGS[sort], key.split(".")[0]
    question = wordings[stable_integer("wording", key, sort) % len(wordings)].format(
        page=forms[stable_integer("name", key, sort) % len(forms)],
        package=PROPER.get(package, package),
        noun=document["metadata"].get("kind", "function"),
        entry=chosen.entry,
    )
    rest = [one for own in by_sort.values() for one in own if goes_with(chosen, one)]
    if not rest or stable_unit("two", key) >= TWO:
        return Asked(question, (chosen.answer,))
    second = min(rest, key=lambda one: stable_unit("second", key, one.sort, one.entry))
    clauses = THEN[second.sort]
    clause = clauses[stable_integer("clause", key, second.sort) % len(clauses)].format(entry=second.entry)
    return Asked(f"{question.removesuffix('?')}, and {clause}", (chosen.answer, second.answer))


def goes_with(first: Candidate, second: Candidate) -> bool:
    """Can both be asked at once: two things, and answers that are short enough together?"""
    apart = first.sort != "takes" and second.sort in THEN and second.answer not in first.answer
    other = (first.sort, second.entry) != (second.sort, first.entry) and first.entry != (second.entry or None)
    return apart and other and count_words(first.answer) + count_words(second.answer) <= LONGEST
