"""Texts in a prompt: as many as fit, and nothing else is cut."""

import pytest

from stages.core.tokenizer import TextCodec
from stages.retrieval.fitting import fitted
from tests.helpers.tiny import tokenizer_folder


@pytest.fixture(scope="module")
def codec():
    class Plain(TextCodec):  # a directory of a tokenizer alone names no end of text
        def _eos_id(self, directory):
            return 1

    return Plain(tokenizer_folder())


TEXTS = ["sort values along axis", "plot a line histogram", "read csv file into data frame"]


def rendered(texts):
    return "\n\n".join([*texts, "how to compute the variance"])


@pytest.mark.parametrize("room", range(1, 40))
def test_the_last_texts_give_way_until_the_prompt_fits(codec, room):
    prompt, kept, over = fitted(codec, TEXTS, room, rendered)
    assert prompt == rendered(kept) and len(codec.prompts([prompt])[0]) - room == over
    assert (over <= 0) or not kept
    whole = kept[:-1]
    assert whole == TEXTS[: len(whole)] and all(TEXTS[len(whole)].startswith(text) for text in kept[-1:])
    if len(codec.prompts([rendered(TEXTS)])[0]) <= room:
        assert kept == TEXTS
