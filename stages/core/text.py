"""Text as words: for indexes and measures, for comparing and cutting texts, and for a tokenizer's boundaries.

Where a script has no spaces between words (Chinese, Japanese, Thai, ...), each letter counts as a word.
"""

import re
from functools import lru_cache
from itertools import islice
from unicodedata import category, normalize

import regex
import Stemmer

SCRIPTS = r"\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Bopomofo}\p{Yi}\p{Tibetan}\p{Line_Break=SA}"
UNSPACED = rf"[\p{{L}}&&[{SCRIPTS}]]"  # a letter that stands alone
ALONE = regex.compile(UNSPACED, regex.V1)
WORD = regex.compile(
    rf"{UNSPACED}\p{{M}}*|[[\p{{L}}\p{{N}}]--{UNSPACED}][[\p{{L}}\p{{M}}\p{{N}}]--{UNSPACED}]*", regex.V1
)
ASCII_WORD = re.compile(r"[A-Za-z0-9]+")  # the same of most texts, in a third of the time
STRETCH = regex.compile(rf"{UNSPACED}[^\s\p{{L}}\p{{N}}]*|[\S--{UNSPACED}]+", regex.V1)  # with punctuation
UNSEEN = regex.compile(r"[\p{Cf}\p{Default_Ignorable_Code_Point}]")
# Those that spell nothing: soft hyphens, marks of direction; but not joiners of letters and emoji.
LAYOUT = regex.compile(r"[[\p{Cf}&&\p{Default_Ignorable_Code_Point}]--[\u200c\u200d]]", regex.V1)
CAMEL = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
STOP_WORDS = frozenset(
    """a about all an and any are as at be between by can do does each for from get give given has have how i
    if in into is it its me my no not of on one or our over same so some such than that the their them then
    there these they this those to up use used using via was we what when where which while who why will with
    within without you your""".split()
)
STEMMER = Stemmer.Stemmer("english")


def comparable(text: str) -> str:
    """A text as it is compared: NFKC, in one case, without characters that nobody sees."""
    return text.casefold() if text.isascii() else normalize("NFKC", UNSEEN.sub("", text)).casefold()


def words_of(text: str) -> list[str]:
    """The runs of letters and digits, as they are written."""
    return (ASCII_WORD if text.isascii() else WORD).findall(text)


def count_words(text: str) -> int:
    """How many words a text has, by the spaces between them where its script has spaces."""
    return len(text.split()) if text.isascii() else len(STRETCH.findall(text))


def clip_words(text: str, limit: int) -> str:
    """The first `limit` words of `text`, line breaks kept."""
    end = 0
    for match in islice(STRETCH.finditer(text), max(limit, 0)):
        end = match.end()
    return text[:end]


def plain_words(text: str) -> list[str]:
    """Lower-case runs of letters and digits: `np.read_csv` is three words, `DataFrame` one."""
    return words_of(text.lower())


def content_words(text: str) -> list[str]:
    """Lower-case words of letters and digits, less stop words; `read_csv` and `np.sum` give two each."""
    return [word for word in plain_words(text) if word not in STOP_WORDS]


def letters(text: str) -> str:
    """The letters and digits of a text as they are compared, without anything between them."""
    return "".join(words_of(comparable(text)))


@lru_cache(maxsize=1 << 20)
def stems(run: str) -> tuple[str, ...]:
    """Snowball English stems of one run and of its camel-case parts: `DataFrames` → datafram, data, frame."""
    parts = CAMEL.split(run)
    words = [run] if len(parts) == 1 else [run, *parts]
    return tuple(dict.fromkeys(STEMMER.stemWords([word.lower() for word in words])))


def tokens(text: str) -> list[str]:
    """The stems of a text in order, those of camel-case parts after their whole."""
    return [stem for run in words_of(text) for stem in stems(run)]


def in_word(char: str) -> bool:
    """Is a character one of those that words are cut from a text by?

    Letters of a script without capitals are not, each stands alone: some have no spaces between words.
    """
    return char.isalnum() and category(char) != "Lo"
