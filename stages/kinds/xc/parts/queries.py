"""The kind of task "queries": a document goes in, search queries come out, one a line.

Pure functions, shared by every stage that renders, reads or judges queries, so that the teacher, the student
and the measures are held to one rule.
"""

import itertools
import re
from functools import lru_cache
from urllib.parse import unquote

import regex
from pydantic import BaseModel, Field

from stages.core.text import LAYOUT, UNSPACED, WORD, comparable, content_words, count_words, letters, words_of
from stages.kinds.kind import Task
from stages.teacher.structured import stated

MIN_WORDS, MAX_WORDS, MAX_CHARS = 2, 16, 120
LETTERS = 3  # of a script without spaces that make a word, for the longest query
GLUE = frozenset("a an and at by for from in of on or the to with".split())
LEAST_RUN = 8  # letters of a query's words that stand together inside a longer word of a URL
BULLET = regex.compile(
    r"^(?:[\-*+•–—·>]+\s+|\(?\d{1,3}[.):]\s+|q(?:uery|uestion)?\s*\d{1,3}\s*[.:)]\s+"
    rf"|[・●■①-⑳]\s*|[(（]?\d{{1,3}}[.):、．）：]\s*(?={UNSPACED}))+",
    regex.V1 | regex.I,
)
LOOP = regex.compile(rf"((?:{UNSPACED}\p{{M}}*){{2,}}?)\1\1", regex.V1)
WRAPPING = (("**", "**"), ("`", "`"), ('"', '"'), ("“", "”"), ("'", "'"), ("「", "」"), ("『", "』"))
MARKUP = re.compile(r"```|<\||</?[a-z]+>|\*\*|^[#<>|{}\[\]*`-]|\]\(|https?://|:$", re.I)
ROLES = "system|user|assistant|human|ai|document|page|passage|title|quer(?:y|ies)|question|answer|q|a"
ROLE = re.compile(rf"^(?:{ROLES})\s*\d*:", re.I)


class Queries(BaseModel):
    """Search queries that the document answers."""

    # Docstring and description are sent to the teacher and are part of the request's key: a change asks anew.
    queries: list[str] = Field(description="Different queries, each as a person would type it")


def lines(text: str) -> list[tuple[int, str]]:
    """The queries in an answer, each with its line from 0: without bullets, numbers, quotes; no blanks."""
    written = LAYOUT.sub("", text).split("\n")
    numbered = ((n, _unwrapped(BULLET.sub("", line.strip()))) for n, line in enumerate(written))
    return [(number, line) for number, line in numbered if WORD.search(line)]


def parse(text: str) -> list[str]:
    """The queries in an answer, each once as texts are compared."""
    queries: dict[str, str] = {}
    for _, line in lines(text):
        queries.setdefault(comparable(line), line)
    return list(queries.values())


def reject(line: str, document: dict) -> str | None:
    """Why a query may not be used for this document, or None.

    Not well-formed; a copy of one of the document's known queries (`metadata.queries`); or nothing but words
    of its address (`metadata.url`), which an index of addresses finds without any new query.
    """
    if not well_formed(line):
        return "not well-formed"
    if is_known(line, document):
        return "a copy of a known query"
    url = document["metadata"].get("url")  # in a folder of files it may be anything
    return "only words of the URL" if isinstance(url, str) and from_url(line, url) else None


def fit(answer: list[str], document: dict) -> list[str]:
    """The queries of an answer that may be used for this document."""
    return [line for line in answer if not reject(line, document)]


def flat(answer: list[str]) -> list[str]:
    """The texts of an answer: its queries."""
    return answer


def output(answer: list[str]) -> str:
    """The answer as the student is to write it: one query a line."""
    return "\n".join(answer)


def is_known(line: str, document: dict) -> bool:
    """Is it one of the document's known texts, but for case, punctuation and white space?"""
    return letters(line) in known_letters(known_texts(document))


def known_texts(document: dict) -> tuple[str, ...]:
    """`metadata.queries`; in a folder of files it may be anything."""
    known = document["metadata"].get("queries")
    return tuple(text for text in known if isinstance(text, str)) if isinstance(known, list) else ()


@lru_cache(maxsize=1 << 10)
def known_letters(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(letters, texts))


def from_url(line: str, url: str) -> bool:
    """Does every word of a query stand in the URL?

    A word stands there as one of its words or as two neighbouring ones (`wi-fi`, `wifi`), or together with
    the query's next ones as a whole word (`hot dog`, `hotdog.com`) or, from LEAST_RUN letters on, as a part
    of one (`world war`, `firstworldwar.com`). A single word counts only whole: `art` does not stand in
    `start`. Articles, prepositions and conjunctions need not stand there: URLs leave them out.
    """
    parts, whole = url_words(url)
    words = words_of(comparable(line))
    spoken = [word for word in words if word not in GLUE]
    return bool(parts and spoken) and any(_covered(form, parts, whole) for form in (words, spoken))


def _covered(words: list[str], parts: tuple[str, ...], whole: frozenset[str]) -> bool:
    reached = {0}
    for start in range(len(words)):
        if start not in reached:
            continue
        if words[start] in whole or words[start] in GLUE:
            reached.add(start + 1)
        for stop in range(start + 2, len(words) + 1):
            run = "".join(words[start:stop])
            if run in whole or (len(run) >= LEAST_RUN and any(run in part for part in parts)):
                reached.add(stop)
    return len(words) in reached


@lru_cache(maxsize=1 << 10)
def url_words(url: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """(the words of a URL, these and each pair of neighbours written as one)."""
    parts = words_of(comparable(unquote(url)))
    pairs = {first + second for first, second in itertools.pairwise(parts)}
    return tuple(parts), frozenset(parts) | pairs


def parse_answer(response: str, form: str = "text", cut: bool = False) -> list[str]:
    """The queries in a teacher's answer of this form: text, json (of `Queries`) or tool (a list of calls).

    The last line of a text that was cut is left out. Raises ValueError where JSON is not what it should be.
    """
    if form == "text":
        return parse(response.rpartition("\n")[0] if cut else response)
    parts = stated(response, form, Queries)
    return parse("\n".join(" ".join(line.split()) for part in parts for line in part.queries))


def _unwrapped(line: str) -> str:
    line = " ".join(line.split())
    for left, right in WRAPPING:
        if len(line) > len(left + right) and line.startswith(left) and line.endswith(right):
            line = line[len(left) : -len(right)].strip()
    return line


def well_formed(line: str) -> bool:
    """Could a person have typed this into a search box?

    2–16 words and at most 120 printable characters, at least one content word, no word or pair of words twice
    in a row, no word three times, no markup, role prefix or trailing colon. In a script without spaces these
    are 2–48 letters, and no two or more of them three times in a row.
    """
    line = comparable(line)
    words = [word.strip(".,;:!?()\"'") for word in line.split()]
    if len(words) > MAX_WORDS or not MIN_WORDS <= count_words(line) <= MAX_WORDS * LETTERS:
        return False
    if len(line) > MAX_CHARS or not line.isprintable() or not content_words(line):
        return False
    if MARKUP.search(line) or ROLE.search(line) or LOOP.search(line):
        return False
    if any(words.count(word) > 2 for word in words):
        return False
    repeats = any(a == b for a, b in itertools.pairwise(words))
    pairs = list(itertools.pairwise(words))
    return not repeats and not any(a == b for a, b in zip(pairs, pairs[2:], strict=False))


def own_name(document: dict) -> str:
    """What a page is called: the short name in its metadata, else its title."""
    return document["metadata"].get("name") or document["title"]


def mentions_name(line: str, document: dict) -> bool:
    """Does the line give the page's own name away, written together or as separate words in any order?

    Names of one or two letters count only as whole words: every line contains a `t` somewhere.
    """
    name, words = own_name(document), words_of(comparable(line))
    compact = letters(name)
    if len(compact) > 2 and compact in "".join(words):
        return True
    parts = words_of(comparable(re.sub(r"(?<=[^\W_A-Z])(?=[A-Z])", " ", name)))
    return bool(parts) and set(parts) <= set(words)


TASK = Task(
    name="queries",
    column="queries",
    Answer=Queries,
    lines=lines,
    parse=parse,
    parse_answer=parse_answer,
    fit=fit,
    flat=flat,
    output=output,
    well_formed=well_formed,
    reject=reject,
)
