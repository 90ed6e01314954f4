"""What the embedded teacher answers: rules, not a language model.

A stand-in for an LLM, so that the whole chain runs with no key and no network. It reads the document in the
request and writes the queries that a person looking for it might type, from its title, its first sentences
and its parameters; or its categories (`categories`), if the request asks for immediate categories; or it
writes or reads requests to an assistant (`skills`), judges an answer (`verdicts`), or asks and answers about
a paper (`papers`). A pure function of the messages. Its quality is that of the rules below: for queries worth
deploying, point `base_url` at a real model.
"""

import re

from demo.teacher.categories import categories
from demo.teacher.papers import asks_about_papers, paper_answer
from demo.teacher.skills import asks_for_skills, skill_answer
from demo.teacher.verdicts import asks_for_verdict, verdict

MAX_PHRASE_WORDS = 9
MAX_LINES = 6
MAX_WEB_LINES = 10
TAGGED = re.compile(r"<document>\s*(.*?)\s*</document>", re.S)
MARKED = re.compile(r"^#+ [^\n]*\bbegins[ ]*\n(.*?)\n#+ [^\n]*\bends[ ]*$", re.S | re.M)
TITLE = re.compile(r"^#+ [^\n]*\bTitle[ ]*\n([^\n]+)$", re.M)
ASKS_FOR_CATEGORIES = re.compile(r"\bimmediate\b[^.\n]{0,40}\bcategor", re.I)
SHOWS_A_URL = re.compile(r"^(?:#+ )?(?:URL|Address)\b", re.M)
ARTICLES = {"a", "an", "the", "this", "these"}
LOOSE_ENDS = ARTICLES | set(
    "of to in on at by for from with and or is are be as if that it its which when where into than not no "
    "each any also can may will was were has have whether along via per using between over such so then "
    "given taken e.g i.e etc".split()
)
CLAUSE_END = re.compile(
    r"[,;:()\[\]{}<>=|]|\s-\s|--|\b(?:which|where|when|while|that|if|unless|because|but|and then)\b"
)
HEADINGS = re.compile(
    r"^(Parameters|Returns|Yields|Raises|Notes|Attributes|Methods|Warns|Other Parameters)$", re.M
)
PARAMETER = re.compile(r"^(\w{2,})(?:, \w+)* : ", re.M)
ASIDES = re.compile(
    r"^(?:see|refer|please|notes?|if|is|for|to|in|as|by|when|equivalent|defaults?|read|this is|recommended)"
    r"\b",
    re.I,
)
VERBS = set(
    """access activate add adjust advance aggregate align append apply approximate assign attach attempt
    autoscale bin bind broadcast build cache calculate call cast center change check choose clear clip
    close coerce collect combine compare compute concatenate configure conform connect construct convert
    convolve copy count create decode decompose define delete describe detect determine differentiate
    disconnect display divide draw drop eliminate enable encode ensure estimate evaluate execute expand
    export extract fill filter find fit flatten force format forward generate get group handle highlight
    hold identify implement indicate infer initialize insert integrate interpolate interpret invert
    iterate join label learn limit list load localize look make map mark mask maximize merge minimize
    modify move multiply normalize open pad parse partition perform permute pick place plot populate
    predict prepare print process produce project provide put query raise read rearrange reconstruct
    recover redraw reduce register relabel remove rename render repeat replace represent resample reset
    reshape resolve restore retrieve return reverse roll rotate round run sample save scale score search
    select serialize set shift show shuffle simulate slice smooth solve sort split stack standardize
    store subtract sum suppress swap switch take test trace transform translate transpose traverse
    truncate try turn unpack unpivot update use validate verify view wrap write yield""".split()
)


def answer(messages: list[dict]) -> str:
    """The answer to a chat request about the document in its last message.

    Up to six queries, one a line, or ten for a web page; or categories on two levels; or calls. Raises
    ValueError for a prompt that does not say where its document is.
    """
    prompt = messages[-1]["content"]
    outside = [MARKED.sub("", TAGGED.sub("", str(message.get("content")))) for message in messages]
    if asks_for_skills(outside):
        return skill_answer(messages)
    if asks_for_verdict([str(message.get("content")) for message in messages]):
        return verdict(prompt)
    if asks_about_papers([str(message.get("content")) for message in messages]):
        return paper_answer(prompt)
    title, text = read_document(prompt)
    around = "\n".join([*(str(message.get("content")) for message in messages[:-1]), instructions(prompt)])
    if ASKS_FOR_CATEGORIES.search(around):
        return categories(title, text)
    if SHOWS_A_URL.search(around):
        return "\n".join(web_queries(title, text))
    return "\n".join(queries(title, text))


def read_document(prompt: str) -> tuple[str, str]:
    """Title and text of the document in a prompt: what stands between its last <document> tags.

    Or between the last headings that say that it begins and ends, with the title before or in its first line.
    Raises ValueError where neither is there: instructions must not be taken for a document.
    """
    tagged, marked = TAGGED.findall(prompt), MARKED.findall(prompt)
    titles = TITLE.findall(prompt) if marked and not tagged else []
    if not (tagged or marked):
        raise ValueError(
            "no <document> tags in the prompt: the embedded teacher follows rules and reads what stands "
            "between <document> and </document>; put title and text there (docs/guide/prompts.md)"
        )
    block = (tagged or marked)[-1]
    if titles:
        return titles[-1].strip(), block.strip()
    first, _, rest = block.partition("\n")
    return first.removeprefix("Title:").strip(), rest.removeprefix("Text:").strip()


def instructions(prompt: str) -> str:
    """A prompt without its documents."""
    return (TAGGED if TAGGED.search(prompt) else MARKED).sub("", prompt)


def web_queries(title: str, text: str) -> list[str]:
    """Those of `queries` for a page, and what its further sentences are about."""
    found = [line.split() for line in queries(title, text)]
    found += [_without_verb(phrase) for phrase in map(_phrase, _sentences(text)) if len(phrase) >= 2]
    return _distinct(found, MAX_WEB_LINES)


def queries(title: str, text: str) -> list[str]:
    """Distinct lower-case queries for a document, the likeliest first."""
    prose, parameters = _parts(text)
    sentences = [phrase for phrase in (_phrase(s) for s in _sentences(prose)) if len(phrase) >= 2]
    package, name = _names(title)
    lines = [[*package, *name] if package else _phrase(title)]
    if sentences:
        lines.append(_question(sentences[0], package))
        lines.append([*_without_verb(sentences[0]), *(part for part in package if part not in sentences[0])])
    lines += [_without_verb(sentence) for sentence in sentences[1:] if not ASIDES.match(" ".join(sentence))][
        :2
    ]
    if package:
        lines += [[*name[-1:], parameter, "parameter"] for parameter in parameters[:1]]
    return _distinct(lines)


def _parts(text: str) -> tuple[str, list[str]]:
    """The prose before the first heading, and the names of the parameters."""
    prose, *sections = HEADINGS.split(text)
    blocks = dict(zip(sections[::2], sections[1::2], strict=True))
    return prose, [found[1].lower() for found in PARAMETER.finditer(blocks.get("Parameters", ""))]


def _sentences(prose: str) -> list[str]:
    flat = re.sub(r"\n\s*\n", ". ", prose.strip())
    return [s for s in re.split(r"[.?!]+(?:\s+|$)", " ".join(flat.split())) if len(s.split()) >= 2]


def _phrase(sentence: str) -> list[str]:
    """The first clause of a sentence as lower-case words: at most nine, no loose end."""
    clause = sentence.strip()
    for found in CLAUSE_END.finditer(clause):
        if len(clause[: found.start()].split()) >= 3:
            clause = clause[: found.start()]
            break
    words = [word.strip(".,;:!?\"'()[]{}~“”‘’").lower() for word in clause.split()]
    words = [word for word in words if re.search(r"[^\W\d]", word) and not re.search(r"[=/()<>@]", word)]
    while words and words[0] in ARTICLES:
        words.pop(0)
    words = words[:MAX_PHRASE_WORDS]
    if words[:1] == ["whether"]:
        words = ["check", *words]
    if words[:3] in (["return", "true", "if"], ["returns", "true", "if"]):
        words = ["return", "whether", *words[3:]]
    while words and words[-1] in LOOSE_ENDS:
        words.pop()
    return words


def _verb(phrase: list[str]) -> str | None:
    """The base form of a leading verb: `computes the …` → compute; None where a phrase has none."""
    word, following = phrase[0], phrase[1]
    stems = [word, word.removesuffix("s"), word.removesuffix("es"), re.sub(r"ies$", "y", word)]
    known = [stem for stem in stems if stem in VERBS]
    if not known and re.search(r"[^su]s$", word) and following in ARTICLES:
        known = [re.sub(r"ie$", "y", word.removesuffix("s"))]
    if known and known[0] == "return":
        return "check" if following == "whether" else "get"
    return known[0] if known else None


def _question(phrase: list[str], package: list[str]) -> list[str]:
    verb = _verb(phrase)
    ending = ["in", *package] if package and package[0] not in phrase else []
    if verb:
        return ["how", "to", verb, *phrase[1:], *ending]
    return ["what", "is", *phrase, *ending]


def _without_verb(phrase: list[str]) -> list[str]:
    """The object of a phrase: `compute the rolling rank` → `rolling rank`."""
    rest = phrase[1:] if _verb(phrase) else phrase
    while rest and rest[0] in LOOSE_ENDS:
        rest = rest[1:]
    return rest if len(rest) >= 2 else phrase


def _names(title: str) -> tuple[list[str], list[str]]:
    """(package, names) of a dotted title: pandas.core.window.Rolling.rank → [pandas], [rolling, rank]."""
    parts = title.split(".")
    if len(parts) < 2 or not all(re.fullmatch(r"\w+", part) for part in parts):
        return [], []
    owner = [parts[-2]] if len(parts) > 2 and parts[-2][:1].isupper() else []
    return [parts[0].lower()], [part.lower() for part in (*owner, parts[-1])]


def _distinct(lines: list[list[str]], most: int = MAX_LINES) -> list[str]:
    """Lines of two words or more, no word twice in a row, none made of another's words."""
    kept: list[str] = []
    seen: set[frozenset[str]] = set()
    for words in lines:
        words = [word for i, word in enumerate(words) if i == 0 or word != words[i - 1]]
        key = frozenset(words)
        if len(key) >= 2 and key not in seen and all(words.count(word) <= 2 for word in words):
            seen.add(key)
            kept.append(" ".join(words))
    return kept[:most]
