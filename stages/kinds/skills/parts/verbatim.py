"""Where the words of a value stand in a text."""

from stages.core.text import in_word


def span(value: str, text: str) -> tuple[int, int] | None:
    """Where a value stands in a text in whole words, whatever its case and spacing; None where not."""
    letters = [
        (place, part) for place, char in enumerate(text) if not char.isspace() for part in char.casefold()
    ]
    sought = "".join(value.casefold().split())
    joined = "".join(part for _, part in letters)
    start = joined.find(sought) if sought else -1
    while start >= 0:
        first, last = letters[start][0], letters[start + len(sought) - 1][0]
        if not (_joined(text, first - 1, first) or _joined(text, last, last + 1)):
            return first, last + 1
        start = joined.find(sought, start + 1)
    return None


def is_verbatim(value: str, text: str) -> bool:
    """Is a value empty, or words of the text, whatever their case?"""
    found = span(value, text)
    there = text[found[0] : found[1]] if found else ""
    return there.casefold().split() == value.casefold().split()


def _joined(text: str, left: int, right: int) -> bool:
    """Are these two neighbours inside one word?"""
    return 0 <= left and right < len(text) and in_word(text[left]) and in_word(text[right])
