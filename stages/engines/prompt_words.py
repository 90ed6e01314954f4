"""The terminal PROMPT_WORDS of a grammar: whole words of the prompt, one after the other, as they stand."""

import json
import re
from itertools import groupby

from stages.core.text import in_word

TERMINAL = re.compile(r"^PROMPT_WORDS: .*$", re.M)
UNIT = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.S)  # an escape of JSON, or a character


def put_into(grammar: str, text: str) -> str:
    """The grammar with the words of `text`, the prompt as it would stand in a string of JSON.

    llguidance makes a suffix automaton of them, whose size grows with the number of words.
    """
    part = json.dumps({"substring_chunks": chunks(text)}, ensure_ascii=False)
    # Some tokenizers begin a text with a space that their decoders take off.
    own = f"PROMPT_WORDS: / ?/ PROMPT_PART\nPROMPT_PART: %regex {part}"
    return TERMINAL.sub(lambda _: own, grammar)


def chunks(text: str) -> list[str]:
    """The parts of a text between which a value may begin and end; together they are the text."""
    runs = groupby(UNIT.findall(text), key=lambda unit: len(unit) == 1 and in_word(unit))
    return [part for word, run in runs for part in (["".join(run)] if word else run)]
