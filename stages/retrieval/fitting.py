"""Texts that are put into a prompt, as many as fit: they give way, and nothing else of it is cut."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stages.core.tokenizer import TextCodec

SEAM = 4  # where pieces join, a token or two may be more


class Fitted(NamedTuple):
    """A prompt, the texts in it, and how many tokens it is still over, which is more than 0 without texts."""

    prompt: str
    texts: list[str]
    over: int


def fitted(codec: TextCodec, texts: Sequence[str], room: int, render: Callable[[list[str]], str]) -> Fitted:
    """The prompt that `render` makes of texts, in at most `room` tokens: the last is cut, then left out."""
    kept = list(texts)
    while True:
        prompt = render(kept)
        over = len(codec.prompts([prompt])[0]) - room
        if over <= 0 or not kept:
            return Fitted(prompt, kept, over)
        last = kept.pop()
        left = len(codec.tokenizer.encode(last, add_special_tokens=False).ids) - over - SEAM
        if left > 0:
            kept.append(codec.clipped(last, left))
