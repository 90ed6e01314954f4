"""What the test rows of a dataset of skills share with its training rows: requests, templates, values."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import regex

from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.match import normal_value
from stages.kinds.skills.parts.schema import Skills
from stages.sources import near

FIRST = 5  # examples of each kind
NEAR = 0.8  # least Jaccard similarity of letter trigrams
# Letters with their marks (vowel signs of Indic scripts), numbers, and what these are reckoned with.
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+|[\p{Sm}*/^%]|-(?=\s*\p{N})")


def leaks(documents: Iterable[dict], skills: Skills) -> dict:
    """Counts and first examples of what the split `test` shares with `train`, and of duplicates within it.

    `requests` counts test rows under the strictest name that holds: `exact`, `spelling` (the same but for
    case and punctuation) or `near` (Jaccard similarity of letter trigrams from NEAR on). Templates are those
    of `metadata.template`; values those of texts, by skill and parameter, normalised. Enums are left out.
    """
    split = defaultdict(list)
    for document in documents:
        split[document["split"]].append(document)
    train, test = split["train"], split["test"]
    return {
        "test": len(test),
        "train": len(train),
        "requests": shared_requests(*([row["text"] for row in rows] for rows in (test, train))),
        "duplicates_in_test": repeated(letters(row["text"]) or row["text"] for row in test),
        "templates": shared(templates(test), templates(train)),
        "values": {
            name: shared(found, values(train, skills).get(name, set()))
            for name, found in values(test, skills).items()
        },
    }


def letters(text: str) -> str:
    """Letters and digits in one case and operators, apart by one space."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def shared_requests(test: Sequence[str], train: Sequence[str]) -> dict:
    exact, spelling = set(train), {letters(text): text for text in reversed(train)}
    spelling.pop("", None)  # texts of nothing but punctuation are not alike
    found: dict[str, list] = {"exact": [], "spelling": [], "near": []}
    for text, (score, other) in zip(test, nearest(test, train), strict=True):
        if text in exact:
            found["exact"].append([text, text])
        elif letters(text) in spelling:
            found["spelling"].append([text, spelling[letters(text)]])
        elif score >= NEAR:
            found["near"].append([text, other])
    return {name: {"rows": len(pairs), "first": pairs[:FIRST]} for name, pairs in found.items()}


def nearest(texts: Sequence[str], others: Sequence[str]) -> list[tuple[float, str]]:
    """For each text (Jaccard similarity of letter trigrams, the most similar of the others)."""
    return near.nearest(texts, others, trigrams)


def trigrams(text: str) -> set[str]:
    """The runs of three letters of each word, with a space before and after it."""
    words = letters(text).split()
    return {f" {word} "[start : start + 3] for word in words for start in range(len(word))}


def repeated(texts: Iterable[str]) -> dict:
    """Texts that occur more than once: `rows` are those that would go."""
    often = {text: count for text, count in sorted(Counter(texts).items()) if count > 1}
    return {"rows": sum(count - 1 for count in often.values()), "first": list(often)[:FIRST]}


def templates(rows: Iterable[dict]) -> set[str]:
    return {row["metadata"]["template"] for row in rows if row["metadata"].get("template")}


def values(rows: Iterable[dict], skills: Skills) -> dict[str, set[str]]:
    """Normalised values of text parameters under `skill.parameter`, sorted by it."""
    found = defaultdict(set)
    for row in rows:
        name, arguments = parse_call(row["metadata"]["call"])
        for key, value in arguments.items():
            if skills.by_name[name].parameters[key].type == "string":
                found[f"{name}.{key}"].add(normal_value(value))
    return dict(sorted(found.items()))


def shared(test: set[str], train: set[str]) -> dict:
    return {"test": len(test), "shared": len(test & train), "first": sorted(test & train)[:FIRST]}
