"""The categories that the embedded teacher finds in an article: rules, not a language model.

What the first sentences say that the thing is ("X is a freshwater lake in Norway") becomes categories, narrow
ones first; the wider ones have a part less. Everything comes from the article's own words.
"""

import re
from collections import Counter

MOST_IMMEDIATE, MOST_ABOVE = 6, 4
MOST_PLACES, MOST_NAMES, MOST_WORDS = 2, 2, 5
SENTENCES = 3  # so many say what the thing is
IS_A = re.compile(
    r"\b(?:is|was|are|were)\s+(?:one\s+of\s+)?(?:an?|the|any|several|some)\s+(?:\d[\d.,]*\s+\w+\s+)?(.+)"
)
# Where the words that name a kind of thing end.
NOUN_END = re.compile(
    r"[,;:.()\[\]]|\s[-–—]\s|\b(?:in|of|on|at|by|for|from|with|within|near|between|to|into|that|which|who|whose"
    r"|where|when|and|or|as|born|situated|located|based|used|made|known|called|named|set|found|written"
    r"|directed|published|released|built|founded|is|was|are|were|has|had)\b"
)
NAME = r"[A-Z][\w'’-]+(?:\s+(?:(?:of|the|de|la)\s+){0,2}[A-Z][\w'’-]+)*"
PLACE = re.compile(rf"\b(?:in|of|from|on|near)\s+(?:the\s+)?({NAME})")
NAMES = re.compile(rf"(?<=[a-z,] )(?:the )?({NAME})")
BORN = re.compile(r"\bborn\b[^.;)]{0,40}?\b(1\d{3}|20\d\d)\b")
IRREGULAR = {"man": "men", "woman": "women", "person": "people", "child": "children", "species": "species"}


def categories(title: str, text: str) -> str:
    """The answer in two sections: immediate categories, then each of them with its own after tabs."""
    found = tree(title, text)
    below = [line for name, above in found.items() for line in (name, *(f"\t{other}" for other in above))]
    return "\n".join(
        ["#### Immediate categories", *found, "", "#### Categories of the immediate categories", *below]
    )


def tree(title: str, text: str) -> dict[str, list[str]]:
    """{immediate category: the categories of it}; at least one where there is a title."""
    found: dict[str, list[str]] = {}
    for sentence in re.split(r"(?<=[\w)])[.?!]\s+|\n\s*\n", text.strip())[:SENTENCES]:
        found |= _said(" ".join(sentence.split()))
    for year in BORN.findall(text)[:1]:
        found[f"{year} births"] = [year]
    common = Counter(name for name in NAMES.findall(text) if " " in name and name != title)
    for name, _ in common.most_common(MOST_NAMES):
        what, _, whole = name.partition(" of ")
        found[name] = [_capital(_plural(what.split()[-1].lower())), *([whole] if whole else [])]
    if not found and title.strip():
        found[_capital(title.strip())] = [_capital(_plural(title.split()[-1].lower()))]
    shown = list(found.items())[:MOST_IMMEDIATE]
    return {name: [other for other in above if other != name][:MOST_ABOVE] for name, above in shown}


def _said(sentence: str) -> dict[str, list[str]]:
    """The categories in "… is a KIND in PLACE"; none where a sentence says nothing like it."""
    said = IS_A.search(sentence)
    words = NOUN_END.split(said[1], maxsplit=1)[0].split() if said else []
    if not words or len(words) > MOST_WORDS:
        return {}
    words = [*words[:-1], _plural(words[-1])]
    kinds = [_capital(" ".join(words[start:])) for start in range(len(words))]
    places = list(dict.fromkeys(PLACE.findall(said[1])))[:MOST_PLACES]
    found = {}
    for place in places:
        wider = [f"{kind} in {place}" for kind in kinds[1:2]]
        found[f"{kinds[0]} in {place}"] = [kinds[0], *wider, place]
    return found | {kinds[0]: kinds[1:]}


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("man"):
        return f"{word[:-3]}men"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    if re.search(r"(?:ch|sh|x|z|ss)$", word):
        return f"{word}es"
    return word if word.endswith("s") else f"{word}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
