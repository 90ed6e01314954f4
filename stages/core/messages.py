"""What people are told on their terminal."""

import re
import sys

# Control characters but tab and line feed, those that turn the direction of writing, and halves of a pair.
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with every character that a terminal may obey written as its escape, such as \x1b.

    Texts of servers and files go into messages, and a terminal would do what they say.
    """
    return COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


def say(*parts: object) -> None:
    """Print a line on stderr."""
    print(printable(" ".join(map(str, parts))), file=sys.stderr, flush=True)
