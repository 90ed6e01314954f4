"""Near-duplicate groups and the splits made from them, so that no text leaks from training into the test."""

import hashlib
import re
from collections.abc import Iterator

from stages.core.hashing import stable_unit

SHINGLE_WORDS = 4
LINK_JACCARD = 0.3  # verified on the shingle sets; two pages at or above it are near-duplicates
BANDS, BAND_ROWS = 48, 2  # finds a pair of Jaccard 0.3 with probability 0.99, one of 0.5 practically always
REACH = 8  # neighbours compared within a bucket, which keeps the work linear in the number of pages
MARGIN = 0.12  # signatures estimate Jaccard within about 0.05; pairs further below the bar are not verified
BLOCK = 512  # pages whose signatures are computed at once; their shingles fit the cache


def split_of(group: str, val_share: float, test_share: float) -> str:
    """train, val or test: a function of the group id only, so new pages never move old ones."""
    unit = stable_unit("split", group)
    return "test" if unit < test_share else "val" if unit < test_share + val_share else "train"


def near_duplicate_groups(documents: list[dict]) -> list[str]:
    """The group id of each document: the smallest document id of its group.

    Two documents are linked when their normalised texts are equal, when they are parts of one source
    (`metadata.part_of`), or when the Jaccard similarity of their word 4-gram sets is at least LINK_JACCARD.
    Groups are the connected components. Candidates come from MinHash with banding (Broder 1997; Leskovec,
    Rajaraman and Ullman, Mining of Massive Datasets, chapter 3); the work grows linearly with the pages.
    """
    import numpy as np

    order = sorted(range(len(documents)), key=lambda index: documents[index]["id"])
    parents = list(range(len(order)))  # positions in `order`; a root is the smallest position of its group

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    def link(a: int, b: int) -> None:
        a, b = root(a), root(b)
        parents[max(a, b)] = min(a, b)

    first: dict[tuple, int] = {}
    distinct, shingles = [], []
    word_hashes: dict[str, int] = {}
    for position, index in enumerate(order):
        words = re.findall(r"\w+", documents[index]["text"].lower())
        part_of = documents[index]["metadata"].get("part_of")
        if part_of is not None:
            link(position, first.setdefault(("part", part_of), position))
        key = ("text", hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest())
        if key in first:
            link(position, first[key])
            continue
        first[key] = position
        distinct.append(position)
        shingles.append(_shingles(words, word_hashes))
    for a, b in _candidates(shingles):
        if root(distinct[a]) != root(distinct[b]):
            shared = np.intersect1d(shingles[a], shingles[b], assume_unique=True).size
            if shared >= LINK_JACCARD * (shingles[a].size + shingles[b].size - shared):
                link(distinct[a], distinct[b])
    groups = [""] * len(documents)
    for position, index in enumerate(order):
        groups[index] = documents[order[root(position)]]["id"]
    return groups


def _shingles(words: list[str], word_hashes: dict[str, int]):
    """Sorted distinct 32-bit hashes of the word 4-grams; a shorter text is one shingle."""
    import numpy as np

    for word in (word for word in words if word not in word_hashes):
        word_hashes[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    hashes = np.fromiter(map(word_hashes.__getitem__, words), dtype=np.uint64, count=len(words))
    if not words:
        hashes = np.zeros(1, dtype=np.uint64)
    size = min(SHINGLE_WORDS, hashes.size)
    mixed = np.zeros(hashes.size - size + 1, dtype=np.uint64)
    for offset in range(size):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + mixed.size]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    found = np.sort((mixed >> np.uint64(32)).astype(np.uint32))
    return found[np.concatenate(([True], found[1:] != found[:-1]))]  # np.unique, without its overhead


def _candidates(shingles: list) -> Iterator[tuple[int, int]]:
    """Pairs that share a MinHash band and whose signatures do not rule out LINK_JACCARD; sorted."""
    import numpy as np

    if len(shingles) < 2:
        return
    signatures = _signatures(shingles)
    count = len(shingles)
    bands = []
    for band in range(BANDS):
        rows = signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)
        keys = (rows[:, 0] << np.uint64(32)) | rows[:, 1]
        order = np.argsort(keys, kind="stable")
        pairs = []
        for step in range(1, min(REACH, count - 1) + 1):
            same = keys[order[:-step]] == keys[order[step:]]
            a, b = order[:-step][same], order[step:][same]
            pairs.append(np.minimum(a, b) * count + np.maximum(a, b))
        bands.append(np.concatenate(pairs))
    found = np.unique(np.concatenate(bands))
    for start in range(0, found.size, BLOCK):
        a, b = np.divmod(found[start : start + BLOCK], count)
        likely = (signatures[a] == signatures[b]).mean(axis=1) >= LINK_JACCARD - MARGIN
        yield from zip(a[likely].tolist(), b[likely].tolist(), strict=True)


def _signatures(shingles: list):
    """MinHash signatures, uint32 (pages, BANDS * BAND_ROWS)."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(20240229))
    size = BANDS * BAND_ROWS
    factors = generator.integers(1, 2**63, size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = generator.integers(0, 2**63, size, dtype=np.uint64)
    signatures = np.empty((len(shingles), size), dtype=np.uint32)
    for start in range(0, len(shingles), BLOCK):
        block = shingles[start : start + BLOCK]
        flat = np.concatenate(block).astype(np.uint64)
        offsets = np.cumsum([0] + [page.size for page in block[:-1]])
        for column in range(size):
            hashed = ((flat * factors[column] + shifts[column]) >> np.uint64(32)).astype(np.uint32)
            signatures[start : start + len(block), column] = np.minimum.reduceat(hashed, offsets)
    return signatures
