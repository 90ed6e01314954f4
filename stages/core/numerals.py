"""Numbers in words as digits: what speech recognition writes, as arithmetic and timers need it."""

import re

from text_to_num import alpha2digit

TEENS = "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
UNITS = "one two three four five six seven eight nine".split()


def numerals(text: str) -> str:
    """English text with its spelled numbers in digits, and no commas in them: four thousand, 4,000 → 4000."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text))
    text = re.sub(r"\ba (?=(?:hundred|thousand|million|dozen)\b)", "one ", text)
    # "twelve hundred and forty" is no number to text2num
    thousands = rf"\b({'|'.join(TEENS)}) hundred\b"
    text = re.sub(thousands, lambda said: f"one thousand {UNITS[TEENS.index(said[1])]} hundred", text)
    return alpha2digit(text, "en", -1)
