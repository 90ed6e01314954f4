"""Text as words: for indexes and measures, for comparing texts, and for a tokenizer's word boundaries."""

import re
from functools import lru_cache
from unicodedata import category

import Stemmer

WORD = re.compile(r"[^\W_]+")
CAMEL = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
STOP_WORDS = frozenset(
    """a about all an and any are as at be between by can do does each for from get give given has have how i
    if in into is it its me my no not of on one or our over same so some such than that the their them then
    there these they this those to up use used using via was we what when where which while who why will with
    within without you your""".split()
)
STEMMER = Stemmer.Stemmer("english")


def plain_words(text: str) -> list[str]:
    """Lower-case runs of letters and digits: `np.read_csv` is three words, `DataFrame` one."""
    return WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, less stop words; `read_csv` and `np.sum` give two each."""
    return [word for word in plain_words(text) if word not in STOP_WORDS]


def letters(text: str) -> str:
    """The letters and digits of a text, in one case, without anything between them."""
    return "".join(WORD.findall(text.casefold()))


@lru_cache(maxsize=1 << 20)
def stems(run: str) -> tuple[str, ...]:
    """Snowball English stems of one run and of its camel-case parts: `DataFrames` → datafram, data, frame."""
    parts = CAMEL.split(run)
    words = [run] if len(parts) == 1 else [run, *parts]
    return tuple(dict.fromkeys(STEMMER.stemWords([word.lower() for word in words])))


def tokens(text: str) -> list[str]:
    """The stems of a text in order, those of camel-case parts after their whole."""
    return [stem for run in WORD.findall(text) for stem in stems(run)]


def in_word(char: str) -> bool:
    """Is a character one of those that words are cut from a text by?

    Letters of a script without capitals are not, each stands alone: some have no spaces between words.
    """
    return char.isalnum() and category(char) != "Lo"
