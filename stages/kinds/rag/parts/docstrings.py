"""Questions that follow from the structure of API pages, with the page's own words as answers.

A page is a docstring in numpy's style, its markup gone: a summary, then sections under headings (Parameters,
Returns, Raises, ...), with entries "name : type" and lines of description. Each sort of question has several
wordings, and a page's name several forms; a hash of page, sort and entry chooses, so that new pages change
nothing of old ones.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from stages.core.hashing import stable_integer, stable_unit
from stages.core.records import Document
from stages.core.text import clip_words, count_words

SECTIONS = (
    "Parameters|Other Parameters|Attributes|Returns|Yields|Raises|Warns|Notes|Methods|See also|Examples?|"
    "References|Warnings?|Array API Standard Support"
)
HEADING = re.compile(rf"(?:\A|\n\n)({SECTIONS})(?:\n\n|\Z)")
ENTRY = re.compile(r"^\*{0,2}([A-Za-z_][\w.]*(?:, ?\*{0,2}\w+)*) ?: (\S.*)$", re.M)
ERROR = re.compile(
    r"^(?:\w+\.)*([A-Z]\w*(?:Error|Exception|Warning|NotImplemented|NotFound|Unfeasible|Path|\w*))(?: ?:)?(?: (.+))?$",
    re.M,
)
SENTENCE = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!cf\.)(?<!vs\.)\s+(?=[A-Z\[\"'`(])|\n\s*\n"
)
DEFAULT = re.compile(r"\bdefault(?:s to|\s?=\s?|: ?| is | )\s*('[^']*'|\"[^\"]*\"|\([^)]*\)|[^\s,;)]+)", re.I)
CONDITION = re.compile(r"(?:If|When) ([^,.]{8,90}), (.{12,})", re.S)
POINTER = re.compile(r"\b(?:instead|equivalent to|same as|similar to|differs from|deprecated)\b")
HOW = re.compile(r"\b(?:algorithm|complexity|method of|based on|implementation|formula)\b", re.I)
PROPER = {
    "numpy": "NumPy",
    "scipy": "SciPy",
    "matplotlib": "Matplotlib",
    "networkx": "NetworkX",
    "sklearn": "scikit-learn",
}
VERBS = frozenset(
    """accept add adjust aggregate append apply assign attempt autoscale bin build calculate call cast center
    change check choose clear clip close combine compare compute concatenate configure connect construct
    contain contract convert convolve copy count create cut decode define delete describe detect determine
    disable display divide draw drop embed enable encode ensure enumerate estimate evaluate execute expand
    export extract factor fill filter find fit format generate get give group handle hide implement impute
    import indicate infer initialize insert integrate interpolate invert iterate join label learn limit list
    load locate make map mark mask match measure merge minimize modify move multiply normalize obtain open
    pack parse partition perform permute pickle place plot predict prepare print process produce project
    provide put raise random read rearrange reconstruct reduce register remove rename render repeat replace
    represent resample reset reshape restore retrieve return reverse roll rotate round run sample save scale
    score search select set shift show shuffle simulate solve sort specify split stack store subtract sum
    swap switch take test transform translate trim truncate try turn unpack update use validate verify wrap
    write yield""".split()
)
SHORTEST, LONGEST = 3, 60  # words of an answer
WORDINGS: dict[str, tuple[str, ...]] = {
    "summary": (
        "What does {page} do?",
        "What is {page} for?",
        "What is the purpose of {page}?",
        "When would I use {page}?",
        "Can you explain what {page} does?",
        "What is {page} used for?",
    ),
    "thing": (
        "What is {page}?",
        "What does {page} represent?",
        "What is {page} for?",
        "What kind of object is {page}?",
        "What does {page} describe?",
    ),
    "which": (
        "Which {noun} in {package} {does}?",
        "Which {package} {noun} {does}?",
        "In {package}, what {noun} {does}?",
        "Is there a {noun} in {package} that {does}?",
    ),
    "parameter": (
        "What does the {entry} parameter of {page} do?",
        "What does {entry} mean in {page}?",
        "What is {entry} in {page}?",
        "What should be passed as {entry} to {page}?",
        "How does {entry} affect {page}?",
        "What does the argument {entry} of {page} control?",
        "In {page}, what is the role of {entry}?",
        "What can {entry} be in {page}?",
    ),
    "attribute": (
        "What does the attribute {entry} of {page} hold?",
        "What is stored in {entry} of {page}?",
        "What is the {entry} attribute of {page}?",
    ),
    "default": (
        "What is the default of {entry} in {page}?",
        "What happens in {page} if {entry} is not given?",
        "Which value does {entry} have by default in {page}?",
        "What default does {page} use for {entry}?",
        "What is the default value of {page}'s {entry}?",
    ),
    "returns": (
        "What does {page} return?",
        "What is returned by {page}?",
        "What do I get back from {page}?",
        "In what form does {page} return its result?",
        "What is the return value of {page}?",
        "What does calling {page} give?",
    ),
    "raises": (
        "When does {page} raise {entry}?",
        "When is {entry} raised by {page}?",
        "What makes {page} raise a {entry}?",
        "What causes a {entry} in {page}?",
        "Under which condition does {page} throw {entry}?",
    ),
    "condition": (
        "What happens in {page} if {entry}?",
        "What does {page} do when {entry}?",
        "In {page}, what happens when {entry}?",
        "How does {page} behave if {entry}?",
    ),
    "pointer": (
        "How does {page} relate to similar functions?",
        "Is there an equivalent of, or an alternative to, {page}?",
        "What is {page} similar or equivalent to?",
        "What should I know before I choose {page}?",
    ),
    "how": (
        "How does {page} work?",
        "What is {page} based on?",
        "Which method or algorithm is behind {page}?",
        "How is the result of {page} computed?",
        "What do the notes on {page} say about how it works?",
    ),
    "takes": (
        "Which parameters does {page} take?",
        "What arguments does {page} accept?",
        "Which arguments can I pass to {page}?",
        "What are the parameters of {page}?",
    ),
}


class Asked(NamedTuple):
    """A question about a page and its answer."""

    question: str
    answer: str


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
        """The forms, the most usual twice."""
        dotted, forms = document["id"], [document["id"], document["id"]]
        for short in self._short(document):
            package, name = short.split(" ")
            if self.shared[short] == 1 and package != name:
                proper = PROPER.get(package, package)
                own = f"{name} of {proper}" if "." in name else f"{proper}'s {name}"
                forms += [f"{package}.{name}", f"{name} in {proper}", own, f"{proper} {name}"]
        return [form for form in forms if form] or [dotted]


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


def sentences(text: str, most: int = 2) -> str:
    """The first sentences of a text, in a line: `most`, fewer where they would be more than LONGEST words."""
    told = ""
    for sentence in [part for part in SENTENCE.split(text.strip()) if part.strip()][:most]:
        longer = " ".join(f"{told} {sentence}".split())
        if count_words(longer) > LONGEST:
            break
        told = longer
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


def asked_of(document: Document) -> Iterator[tuple[str, dict[str, str], str]]:
    """(sort of question, what its wording names, answer) for all that can be asked about a page."""
    parts = sections(document["text"])
    summary = sentences(parts[""].split("\n\n")[0])
    does, kind = third_person(summary), document["metadata"].get("kind", "function")
    if summary:
        yield ("summary" if does else "thing"), {}, f"It {does}" if does else summary
        if does and kind != "property" and count_words(does) <= 25 and SENTENCE.search(summary) is None:
            yield "which", {"does": does.rstrip(". ")}, f"{document['id']} {does}"
    names = []
    for heading in ("Parameters", "Other Parameters", "Attributes"):
        for name, form, told in entries(parts.get(heading, "")):
            names += [name] if heading == "Parameters" else []
            answer = sentences(told)
            if answer:
                yield ("attribute" if heading == "Attributes" else "parameter"), {"entry": name}, answer
            default = DEFAULT.search(form) or DEFAULT.search(told)
            if default and "," not in name and heading != "Attributes":
                value = default[1].rstrip(".:")
                yield (
                    "default",
                    {"entry": name},
                    f"The default of {name} is {value}. {sentences(told, 1)}".strip(),
                )
    if 1 < len(names) < 8:
        yield "takes", {}, f"It takes {', '.join(names[:-1])} and {names[-1]}."
    for heading in ("Returns", "Yields"):
        body = parts.get(heading, "")
        told = " ".join(part for _, _, part in entries(body)) or body.partition("\n")[2]
        if answer := sentences(told):
            yield "returns", {}, answer
    for name, answer in raised(parts.get("Raises", "")):
        yield "raises", {"entry": name}, answer
    for heading in ("", "Parameters", "Returns", "Notes"):
        for sentence in SENTENCE.split(parts.get(heading, "")):
            line = " ".join(sentence.split())
            if " : " in line or not line.endswith("."):
                continue  # holds the head of an entry, or was cut by markup
            if found := CONDITION.fullmatch(line):
                yield "condition", {"entry": found[1]}, line
            elif heading != "Parameters" and POINTER.search(line):
                yield "pointer", {}, line
            elif heading == "Notes" and HOW.search(line):
                yield "how", {}, line


def raised(body: str) -> Iterator[tuple[str, str]]:
    """(error, when it is raised) of each entry under Raises."""
    heads = [head for head in ERROR.finditer(body) if head[2] is None or head[0].count(":")]
    for head, told in with_bodies(heads, body):
        answer = sentences(head[2] or told, 1)
        if re.match(r"(If|When|For|In case|Unless|Raised)\b", answer):
            begin = answer.removeprefix("Raised ")
            answer = f"{head[1]} is raised {begin[0].lower()}{begin[1:]}"
        if answer:
            yield head[1], answer


def question_of(document: Document, names: Names) -> Asked | None:
    """The question of a page: of all sorts that it allows that with the lowest hash; None for none."""
    by_sort: dict[str, list[tuple[dict[str, str], str]]] = {}
    for sort, named, answer in asked_of(document):
        if SHORTEST <= count_words(answer) <= LONGEST and clip_words(answer, 1)[0].isalnum():
            by_sort.setdefault(sort, []).append((named, answer))
    if not by_sort:
        return None
    key = document["id"]
    sort = min(by_sort, key=lambda name: stable_unit("sort", key, name))
    named, answer = min(by_sort[sort], key=lambda own: stable_unit("entry", key, sort, own[0]))
    forms, wordings = names.of(document), WORDINGS[sort]
    fields: Mapping[str, str] = {
        "page": forms[stable_integer("name", key, sort) % len(forms)],
        "package": PROPER.get(key.split(".")[0], key.split(".")[0]),
        "noun": document["metadata"].get("kind", "function"),
        **named,
    }
    return Asked(wordings[stable_integer("wording", key, sort) % len(wordings)].format_map(fields), answer)
