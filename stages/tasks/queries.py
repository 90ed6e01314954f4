"""The kind of task "queries": a document goes in, search queries come out, one a line.

Pure functions, shared by every stage that renders, reads or judges queries, so that the teacher, the student
and the measures are held to one rule.
"""

import re

from pydantic import BaseModel, Field, RootModel

from stages.support.prompts import Template

MIN_WORDS, MAX_WORDS, MAX_CHARS = 2, 16, 120
WORD = re.compile(r"[^\W_]+")
STOP_WORDS = frozenset(
    """a about all an and any are as at be between by can do does each for from get give given has have how i
    if in into is it its me my no not of on one or our over same so some such than that the their them then
    there these they this those to up use used using via was we what when where which while who why will with
    within without you your""".split()
)
BULLET = re.compile(r"^(?:[-*+•–—·>]+\s+|\(?\d{1,3}[.):]\s+|q(?:uery|uestion)?\s*\d{1,3}\s*[.:)]\s+)+", re.I)
WRAPPING = (("**", "**"), ("`", "`"), ('"', '"'), ("“", "”"), ("'", "'"))
MARKUP = re.compile(r"```|<\||</?[a-z]+>|\*\*|^[#<>|{}\[\]*`-]|\]\(|https?://|:$", re.I)
ROLES = "system|user|assistant|human|ai|document|page|passage|title|quer(?:y|ies)|question|answer|q|a"
ROLE = re.compile(rf"^(?:{ROLES})\s*\d*:", re.I)


class Queries(BaseModel):
    """Search queries that the document answers."""

    # Docstring and description are sent to the teacher and are part of the request's key: a change asks anew.
    queries: list[str] = Field(description="Different queries, each as a person would type it")


class Call(BaseModel):
    arguments: Queries


class Calls(RootModel[list[Call]]):
    """How `responses.jsonl` holds tool calls."""


def render(template: Template, document: dict) -> str:
    """The prompt for one document. Templates see `document` with `id`, `title`, `text`, `metadata`."""
    return template.render(document={key: document[key] for key in ("id", "title", "text", "metadata")})


def parse(text: str) -> list[str]:
    """The queries in an answer: one a line, without bullets, numbers, quotes, blank lines or repeats."""
    queries: dict[str, str] = {}
    for line in text.splitlines():
        line = _unwrapped(BULLET.sub("", line.strip()))
        if WORD.search(line):
            queries.setdefault(line.casefold(), line)
    return list(queries.values())


def parse_answer(response: str, form: str = "text", cut: bool = False) -> list[str]:
    """The queries in a teacher's answer of this form: text, json (of `Queries`) or tool (a list of calls).

    The last line of a text that was cut is left out. Raises ValueError where JSON is not what it should be.
    """
    if form == "text":
        return parse(response.rpartition("\n")[0] if cut else response)
    if form == "json":
        found = [Queries.model_validate_json(response)]
    else:
        found = [call.arguments for call in Calls.model_validate_json(response).root]
    return parse("\n".join(" ".join(line.split()) for part in found for line in part.queries))


def _unwrapped(line: str) -> str:
    line = " ".join(line.split())
    for left, right in WRAPPING:
        if len(line) > len(left + right) and line.startswith(left) and line.endswith(right):
            line = line[len(left) : -len(right)].strip()
    return line


def well_formed(line: str) -> bool:
    """Could a person have typed this into a search box?

    2–16 words and at most 120 printable characters, at least one content word, no word or pair of words twice
    in a row, no word three times, no markup, role prefix or trailing colon.
    """
    words = [word.strip(".,;:!?()\"'") for word in line.lower().split()]
    if not MIN_WORDS <= len(words) <= MAX_WORDS or len(line) > MAX_CHARS or not line.isprintable():
        return False
    if MARKUP.search(line) or ROLE.search(line) or not content_words(line):
        return False
    if any(words.count(word) > 2 for word in words):
        return False
    repeats = any(a == b for a, b in zip(words, words[1:], strict=False))
    pairs = list(zip(words, words[1:], strict=False))
    return not repeats and not any(a == b for a, b in zip(pairs, pairs[2:], strict=False))


def content_words(line: str) -> list[str]:
    """Lower-case words of letters and digits, less stop words; `read_csv` and `np.sum` give two each."""
    return [word for word in WORD.findall(line.lower()) if word not in STOP_WORDS]


def own_name(document: dict) -> str:
    """What a page is called: the short name in its metadata, else its title."""
    return document["metadata"].get("name") or document["title"]


def mentions_name(line: str, document: dict) -> bool:
    """Does the line give the page's own name away, written together or as separate words in any order?

    Names of one or two letters count only as whole words: every line contains a `t` somewhere.
    """
    name, words = own_name(document), WORD.findall(line.lower())
    compact = "".join(WORD.findall(name.lower()))
    if len(compact) > 2 and compact in "".join(words):
        return True
    parts = WORD.findall(re.sub(r"(?<=[^\W_A-Z])(?=[A-Z])", " ", name).lower())
    return bool(parts) and set(parts) <= set(words)
