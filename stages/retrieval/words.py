"""How texts become words, for every lexical index and measure: identifiers are split, inflections are cut."""

import re
from functools import lru_cache

RUN = re.compile(r"[^\W_]+")
CAMEL = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def plain_words(text: str) -> list[str]:
    """Lower-case runs of letters and digits: `np.read_csv` is three words, `DataFrame` one."""
    return RUN.findall(text.lower())


@lru_cache(maxsize=1 << 20)
def stems(run: str) -> tuple[str, ...]:
    """Snowball English stems of one run and of its camel-case parts: `DataFrames` → datafram, data, frame."""
    parts = CAMEL.split(run)
    words = [run] if len(parts) == 1 else [run, *parts]
    return tuple(dict.fromkeys(_stemmer().stemWords([word.lower() for word in words])))


@lru_cache(maxsize=1)
def _stemmer():
    import Stemmer

    return Stemmer.Stemmer("english")


def tokens(text: str) -> list[str]:
    """The stems of a text in order, those of camel-case parts after their whole."""
    return [stem for run in RUN.findall(text) for stem in stems(run)]
