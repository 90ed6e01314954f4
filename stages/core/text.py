"""Which characters make a word."""

from unicodedata import category


def in_word(char: str) -> bool:
    """Is a character one of those that words are cut from a text by?

    Letters of a script without capitals are not, each stands alone: some have no spaces between words.
    """
    return char.isalnum() and category(char) != "Lo"
