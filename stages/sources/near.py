"""Near-duplicate texts, by the similarity of their sets of words and runs of characters."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

from stages.core.text import plain_words

if TYPE_CHECKING:
    import numpy as np


PERMUTATIONS = 128


MARGIN = 0.15  # over three standard errors of a similarity estimated with so many permutations


SHINGLE = 3  # characters


def near_repeated(texts: Sequence[str], bound: float) -> list[bool]:
    """Is a text's Jaccard similarity to an earlier one that stays at least `bound`?

    Of the sets of their words and runs of three characters. MinHash signatures (Broder 1997) rule out most
    pairs, the sets themselves decide on the others.
    """
    import numpy as np

    sets = [shingles(text) for text in texts]
    signatures = np.array([signature(own) for own in sets]).reshape(-1, PERMUTATIONS)
    kept: list[int] = []
    for place, own in enumerate(sets):
        estimates = (signatures[kept] == signatures[place]).mean(axis=1)
        candidates = (sets[kept[n]] for n in np.flatnonzero(estimates >= bound - MARGIN))
        if not any(len(own & other) >= bound * len(own | other) for other in candidates):
            kept.append(place)
    staying = set(kept)
    return [place not in staying for place in range(len(texts))]


def signature(parts: Iterable[str]) -> "np.ndarray":
    """uint32 (PERMUTATIONS): the least hash of `parts` under each permutation; the same everywhere."""
    sketch = _sketch()
    sketch.clear()
    sketch.update_batch(part.encode() for part in parts)
    return sketch.digest()


@cache
def _sketch():
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashfunc=crc32)


def shingles(text: str) -> set[str]:
    words = plain_words(text)
    joined = " ".join(words)
    return {*words, *(joined[start : start + SHINGLE] for start in range(len(joined) - SHINGLE + 1))}
