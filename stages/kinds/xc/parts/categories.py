"""The kind of task "categories": an article goes in, its categories come out, and the categories of those.

An answer is a tree of two levels, {immediate category: its categories}. Models write it in many ways; the
student is taught one: each immediate category on a line, its own categories below it after a tab. Pure
functions, like those of `queries`.
"""

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field

from stages.core.text import ALONE, LAYOUT, WORD, comparable, content_words
from stages.kinds.kind import Task
from stages.kinds.xc.parts.queries import MARKUP, MAX_CHARS, WRAPPING, is_known
from stages.teacher.structured import stated

Tree = dict[str, list[str]]
Key = tuple[int, int, int]  # how far in a line stands: indentation, marker, 0 for one in bold or with a colon
Node = tuple[int, int, str]  # line, level from 0, name

MAX_WORDS = 16
LONGEST = 1000  # characters of a name with all that is around it
LEFT_OUT = "below a rejected line"  # why a line that is not rejected itself is left out
MOST_REPEATS = 2  # `Duran Duran albums`
TAB = 4
ABOVE_ALL: Key = (-1, 0, 0)
# From the outermost level inwards: models that do not indent show with these what is below what.
MARKERS = (
    re.compile(r"\(?\d{1,3}(?:[.):]\s+|[、．]\s*)"),
    re.compile(r"\d{1,2}(?:\.\d{1,2})+[.):]?\s+"),
    re.compile(r"\(?(?:[a-z]|[ivx]{2,4})[.)]\s+"),
    re.compile(r"(?:[-+•–—·>◦▪‣○●→]|\*(?!\*))+\s+"),
)
NUMBERS = (1, 2, 3)  # the places of those that count: the items of such a list are of one level, bold or not
BRACKETS = (*WRAPPING, ("[[", "]]"), ("*", "*"), ("_", "_"))
PREFIX = re.compile(r"^:?category\s*:\s*(?=\S)", re.I)
END = re.compile(r"[\s,;]+$|(?:(?<=\w{4})|(?<=[\"”*_`]))\.$")
OF_WHAT = re.compile(r"^.*?\bcategor\w+\W+(?:of|for)\W+(?:the\s+category\W+)?", re.I)
NAMES_A_LEVEL = frozenset(
    "categories category subcategories supercategories immediate level output answer result results".split()
)
# A line of these words alone, one of them naming a level, is a heading; so is one that begins with `#`.
HEADING = NAMES_A_LEVEL | frozenset(
    """1 2 a above all and are article articles below broader by direct each final first following for from
    generated given here higher i ii in is list main most of one own parent parents relevant
    respective s second section specific step super task the their these this those title to top two under
    upper wiki wikipedia with""".split()
)
# Lower-case only: `Was (Not Was) songs`; and `Characters who are magicians` names a category.
VERB = re.compile(
    r"(?<!\bwho )(?<!\bthat )(?<!\bwhich )\b(?:is|are|was|were|does|should|would|could|cannot|has been|have"
    r" been)\b"
)
TALK = re.compile(
    r"^(?:here(?:'s| is| are)|sure[!,]|certainly|please|note|i(?:'m| am| have| will| can)\b)", re.I
)
NOTHING = frozenset(("none", "n/a", "unknown", "other", "others", "etc", "et cetera"))


class Category(BaseModel):
    """A category of the article, and the categories that it belongs to itself."""

    # Docstrings and descriptions are sent to the teacher and are part of the request's key.
    name: str = Field(description="A category that the article itself belongs to")
    categories: list[str] = Field(description="The categories that this category belongs to")


class Categories(BaseModel):
    """The categories of an article, on two levels."""

    categories: list[Category] = Field(description="Different categories of the article, the nearest ones")


def tree(text: str) -> Tree:
    """The categories in an answer: {immediate category: the categories of it}, each spelt as it is first.

    A line is below another by its indentation, in tabs or any number of spaces; where this is the same, by
    its marker: bullets below numbers, these below plain lines, all below lines in bold or before a colon. The
    immediate ones may stand in a section of their own before the section with both levels. A second section
    that has lost its indentation is read by the names of the first. Headings, rules, fences, sentences and a
    third level are left out.
    """
    return _grown((level, name) for _, level, name in _nodes(text))


def lines(text: str) -> list[tuple[int, str]]:
    """Each category in an answer once, with its line from 0: the immediate ones, then those of the others."""
    first: dict[str, int] = {}
    nodes = _nodes(text)
    for wanted in (0, 1):
        for number, level, name in nodes:
            if level == wanted:
                first.setdefault(name, number)
    return [(number, name) for name, number in first.items()]


def parse(text: str) -> list[str]:
    """The categories in an answer, each once: the immediate ones, then the categories of those."""
    return [name for _, name in lines(text)]


def parse_answer(response: str, form: str = "text", cut: bool = False) -> Tree:
    """The categories in a teacher's answer of this form: text, json (of `Categories`) or tool (calls).

    The last line of a text that was cut is left out. Raises ValueError where JSON is not what it should be.
    """
    if form == "text":
        return tree(response.rpartition("\n")[0] if cut else response)
    levels, spelt = [], {}
    parts = stated(response, form, Categories)
    for category in (category for part in parts for category in part.categories):
        for level, text in enumerate((category.name, *category.categories)):
            key, name = _read(" ".join(LAYOUT.sub("", text).split()))
            if key:
                levels.append((min(level, 1), spelt.setdefault(comparable(name), name)))
            elif level == 0:
                break
    return _grown(levels)


def fit(answer: Tree, document: dict) -> Tree:
    """The part of an answer that may be used for this document: all below a rejected category goes, too."""
    return {
        name: [other for other in below if not reject(other, document)]
        for name, below in answer.items()
        if not reject(name, document)
    }


def flat(answer: Tree) -> list[str]:
    """The texts of an answer, each once: the immediate categories, then the categories of those."""
    return list(dict.fromkeys([*answer, *(other for below in answer.values() for other in below)]))


def output(answer: Tree) -> str:
    """The answer as the student is to write it: a tab before each category of the line above it."""
    return "\n".join(
        line for name, below in answer.items() for line in (name, *(f"\t{other}" for other in below))
    )


def reject(line: str, document: dict) -> str | None:
    """Why a category may not be used for this document, or None.

    Not well-formed, or a copy of one of its known ones (`metadata.queries`). It may be called as the document
    is: the article on the Malabar Coast is in the category Malabar Coast.
    """
    if not well_formed(line):
        return "not well-formed"
    return "a copy of a known category" if is_known(line, document) else None


def well_formed(line: str) -> bool:
    """Could this be the name of a category?

    1–16 words and at most 120 printable characters with a letter or digit, no markup, no content word three
    times, no heading, no sentence and no word that stands for no category.
    """
    if len(line.split()) > MAX_WORDS or len(line) > MAX_CHARS or not comparable(line).isprintable():
        return False
    if not WORD.search(line) or MARKUP.search(line) or line.casefold() in NOTHING:
        return False
    words = content_words(line)
    repeats = any(words.count(word) > MOST_REPEATS and not ALONE.match(word) for word in words)
    return not (_is_prose(line) or _is_heading(line) or repeats)


def _grown(levels: Iterable[tuple[int, str]]) -> Tree:
    """The tree of (level, name) in order; levels below the second are left out."""
    grown: Tree = {}
    below: list[str] = []
    for level, name in levels:
        if level == 0:
            below, above = grown.setdefault(name, []), name
        elif level == 1 and name != above and name not in below:
            below.append(name)
    return grown


def _nodes(text: str) -> list[Node]:
    """The lines that hold a category, with their levels; a name has the spelling it has first."""
    sections: list[list[tuple[int, Key, str]]] = [[]]
    spelt: dict[str, str] = {}
    for number, line in enumerate(LAYOUT.sub("", text).split("\n")):
        key, name = _read(line)
        if name is None:
            continue
        if key is None:
            known = spelt.get(comparable(OF_WHAT.sub("", name).strip("*\"“”' ")))
            if known:  # a heading for each immediate category
                sections[-1].append((number, ABOVE_ALL, known))
            else:
                sections.append([])
        else:
            sections[-1].append((number, key, spelt.setdefault(comparable(name), name)))
    nodes: list[Node] = []
    for section in sections:
        levelled = list(_levelled(section))
        immediate = {name for _, level, name in nodes if level == 0}
        if immediate and not any(level for _, level, _ in levelled):
            levelled = _levelled_by_name(levelled, immediate)
        nodes += levelled
    return nodes


def _levelled(section: list[tuple[int, Key, str]]) -> Iterator[Node]:
    above: list[Key] = []
    for number, key, name in section:
        while above and above[-1] >= key:
            above.pop()
        yield number, len(above), name
        above.append(key)


def _levelled_by_name(section: list[Node], immediate: set[str]) -> list[Node]:
    """A section without indentation: what follows an immediate category is of it. As it is if it has none."""
    first = next((place for place, (_, _, name) in enumerate(section) if name in immediate), None)
    if first is None:
        return section
    return [(number, int(name not in immediate), name) for number, _, name in section[first:]]


def _read(line: str) -> tuple[Key | None, str | None]:
    """(how far in it stands, its name); no key for a heading, no name for a line that holds none."""
    body = line.expandtabs(TAB)
    indent = len(body) - len(body.lstrip())
    marker, body = _unmarked(body.strip())
    if body.startswith("```") or not WORD.search(body):
        return None, None
    name, stands_out = _bare(body.lstrip("#"))
    ends_in_colon = body.rstrip("* ").endswith(":")
    if body.startswith("#") or _is_heading(name) or (ends_in_colon and "categor" in name.lower()):
        return None, name
    if _is_prose(name) or not WORD.search(name):
        return None, None
    return (indent, marker, int(marker in NUMBERS or not stands_out)), name


def _unmarked(body: str) -> tuple[int, str]:
    """(place of the first of its markers in MARKERS, counted from 1, or 0 for none; the text after them)."""
    first = 0
    while True:
        matches = ((place, pattern.match(body)) for place, pattern in enumerate(MARKERS, start=1))
        place, match = next(((place, match) for place, match in matches if match), (0, None))
        if match is None:
            return first, body
        first, body = first or place, body[match.end() :]


def _bare(text: str) -> tuple[str, bool]:
    """(a name without markup around it or marks after it, was it in bold or before a colon?)"""
    name, stands_out, before = " ".join(text.split()), False, None
    if len(name) > LONGEST:  # it is no name, and to unwrap it takes the square of its length
        return name, False
    while name != before:
        before = name
        for left, right in BRACKETS:
            if len(name) > len(left + right) and name.startswith(left) and name.endswith(right):
                name = name[len(left) : -len(right)].strip()
                stands_out |= left == "**"
        if name.endswith(":"):
            name, stands_out = name[:-1], True
        name = END.sub("", PREFIX.sub("", name))
    return name, stands_out


def _is_heading(line: str) -> bool:
    words = set(WORD.findall(line.casefold()))
    return words <= HEADING and not words.isdisjoint(NAMES_A_LEVEL)


def _is_prose(line: str) -> bool:
    return bool(VERB.search(line) or TALK.search(line))


TASK = Task(
    name="categories",
    column="queries",
    Answer=Categories,
    lines=lines,
    parse=parse,
    parse_answer=parse_answer,
    fit=fit,
    flat=flat,
    output=output,
    well_formed=well_formed,
    reject=reject,
    left_out=LEFT_OUT,
)
