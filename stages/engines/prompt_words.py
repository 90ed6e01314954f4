"""The terminal PROMPT_WORDS of a grammar: whole words of the prompt, one after the other, as they stand."""

import json
import re
from itertools import groupby
from unicodedata import category

TERMINAL = re.compile(r"^PROMPT_WORDS: .*$", re.M)
CHUNK = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|[^\W_]+|.", re.S)  # an escape of JSON, a word, any other character


def put_into(grammar: str, text: str) -> str:
    """The grammar with the words of `text`, the prompt as it would stand in a string of JSON.

    llguidance makes a suffix automaton of them, whose size grows with the number of words.
    """
    part = json.dumps({"substring_chunks": chunks(text)}, ensure_ascii=False)
    # Some tokenizers begin a text with a space that their decoders take off.
    own = f"PROMPT_WORDS: / ?/ PROMPT_PART\nPROMPT_PART: %regex {part}"
    return TERMINAL.sub(lambda _: own, grammar)


def chunks(text: str) -> list[str]:
    """The parts of a text between which a value may begin and end; together they are the text.

    Letters of a script without capitals are parts of their own: some have no spaces between words.
    """
    runs = (groupby(part, key=lambda letter: category(letter) == "Lo") for part in CHUNK.findall(text))
    return [part for own in runs for alone, run in own for part in (run if alone else ["".join(run)])]
