"""What the embedded teacher says of an answer to a question: a rule that counts words, no judgement.

It sees neither a changed number nor a negation.
"""

import re

from stages.core.text import content_words

ASKED = re.compile(r"\[\[correct\]\].*\[\[incorrect\]\]", re.S)
TEXT = re.compile(r"<(reference|answer)>\s*(.*?)\s*</\1>", re.S)
SHARE = 0.5  # of the reference's words that a correct answer has


def asks_for_verdict(texts: list[str]) -> bool:
    """Whether a chat request says how a verdict is to be written, and shows reference and answer."""
    return bool(ASKED.search("\n".join(texts))) and dict(TEXT.findall(texts[-1])).keys() == {
        "reference",
        "answer",
    }


def verdict(prompt: str) -> str:
    texts = dict(TEXT.findall(prompt))
    wanted, own = (set(content_words(texts[name])) for name in ("reference", "answer"))
    share = len(wanted & own) / max(1, len(wanted))
    said = "correct" if share >= SHARE else "incorrect"
    return f"The answer has {share:.0%} of the reference's words.\nCorrectness: [[{said}]]"
