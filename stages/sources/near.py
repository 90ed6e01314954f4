"""Near-duplicate texts: pairs whose sets of shingles have a Jaccard similarity of at least some bound.

Three questions about one measure, |A ∩ B| / |A ∪ B|: which texts of a list repeat an earlier one
(`near_repeated`), which text of a list is most like another (`nearest`), and which documents of a corpus
hang together (`near_duplicate_groups`). The first two compare all pairs, exactly, by products of sparse
incidence matrices. The third has too many pairs for that and compares those that MinHash (Broder 1997) with
banding points to (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import regex
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import csr_matrix

from stages.core.text import UNSPACED, comparable, words_of

SHINGLE_CHARACTERS = 3  # of a short text: its words are shingles, too
SHINGLE_WORDS = 4  # of a document
# Of a document, whose texts may be code: a name with underscores is one word.
WORD = regex.compile(rf"{UNSPACED}\p{{M}}*|[\w--{UNSPACED}]+", regex.V1)
BANDS, BAND_ROWS = 48, 2  # finds a pair of Jaccard 0.3 with probability 0.99, one of 0.5 practically always
REACH = 8  # neighbours compared within a bucket, which keeps the work linear in the number of documents
MARGIN = 0.12  # signatures estimate Jaccard within about 0.05; pairs further below the bound are not verified
ROWS_AT_ONCE = 512  # sets whose signatures, or pairs that are compared, at once: they fit the cache
CELLS_AT_ONCE = 1 << 22  # of a product of incidence matrices, which is nearly dense: 32 MB


def shingles(text: str) -> set[str]:
    """The words of a text and its runs of three characters; as texts are compared, without punctuation."""
    words = words_of(comparable(text))
    joined = " ".join(words)
    starts = range(len(joined) - SHINGLE_CHARACTERS + 1)
    return {*words, *(joined[start : start + SHINGLE_CHARACTERS] for start in starts)}


def near_repeated(texts: Sequence[str], bound: float) -> list[bool]:
    """For each text: is its similarity to an earlier one, itself no repeat, at least `bound` (0 to 1)?

    Of the sets of `shingles`; texts without any are equal to each other. Exact, and faster than to rule pairs
    out by MinHash signatures: 0.8 ms for 10 texts, 0.2 s for 3,000, in place of 1.4 ms and 1.1 s.
    """
    incidence = _incidence(map(shingles, texts), {})
    repeated = np.zeros(len(texts), dtype=bool)
    for start, common, union in _overlaps(incidence, incidence):
        for row, earlier in zip(*np.nonzero(common >= bound * union), strict=True):  # row by row, in order
            if earlier < start + row and not repeated[earlier]:
                repeated[start + row] = True
    return repeated.tolist()


def nearest(
    texts: Sequence[str], others: Sequence[str], shingles_of: Callable[[str], Iterable[str]] = shingles
) -> list[tuple[float, str]]:
    """For each text its similarity to the most similar of `others`, the first of equals, and that one.

    (0, "") without `others`. A text without shingles is like none.
    """
    if not others:
        return [(0.0, "")] * len(texts)
    columns: dict[str, int] = {}
    right = _incidence(map(shingles_of, others), columns)
    left = _incidence(map(shingles_of, texts), columns)
    pairs: list[tuple[float, str]] = []
    for _, common, union in _overlaps(left, right):
        similarity = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        scores, places = similarity.max(axis=1).tolist(), similarity.argmax(axis=1).tolist()
        pairs += [(score, others[place]) for score, place in zip(scores, places, strict=True)]
    return pairs


def _incidence(sets: Iterable[Iterable[str]], columns: dict[str, int]) -> csr_matrix:
    """Which set holds which shingle: float32 (sets, shingles); new shingles are added to `columns`."""
    indices: list[int] = []
    ends = [0]
    for shingle_set in sets:
        indices.extend({columns.setdefault(shingle, len(columns)) for shingle in shingle_set})
        ends.append(len(indices))
    ones = np.ones(len(indices), dtype=np.float32)
    return csr_matrix((ones, indices, ends), shape=(len(ends) - 1, len(columns)))


def _overlaps(left: csr_matrix, right: csr_matrix) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Sizes of the intersection and union of each row of `left` with each row of `right`, in blocks.

    Yields the first row of `left` in a block and two float64 (rows of the block, rows of `right`). `left` may
    have columns after those of `right`.
    """
    sizes, by_shingle = np.diff(right.indptr), right.T.tocsr()
    rows = max(CELLS_AT_ONCE // max(right.shape[0], 1), 1)
    for start in range(0, left.shape[0], rows):
        block = left[start : start + rows]
        common = (block[:, : right.shape[1]] @ by_shingle).toarray().astype(np.float64)
        yield start, common, np.diff(block.indptr)[:, None] + sizes - common


def near_duplicate_groups(documents: Sequence[dict], bound: float = 0.3) -> list[str]:
    """The group id of each document {id, text, metadata}: the smallest document id of its group.

    Two documents are linked when people see the same words in them, when they are parts of one source
    (`metadata.part_of`), or when the Jaccard similarity of their word 4-gram sets is at least `bound`, unless
    that is 0. Groups are the connected components. Work and memory grow linearly with the documents.

    MinHash misses a few links just above the bound: 30 of pydoc's 10,084 documents are in another group than
    comparing all pairs would put them. Which ones is a matter of the hashes below, and so are the splits that
    models were trained on: another implementation, such as datasketch's, regroups 65 documents. It also took
    1.6 s where this takes 1.0, and 9 s with its MinHashLSH, which looks at whole buckets.
    """
    order = sorted(range(len(documents)), key=lambda index: documents[index]["id"])
    sets = DisjointSet(range(len(order)))  # of places in `order`
    first: dict[tuple, int] = {}  # the place of the first document with some text, or of some source
    distinct, hashes = [], []
    word_hashes: dict[str, int] = {}
    for place, index in enumerate(order):
        words = WORD.findall(comparable(documents[index]["text"]))
        part_of = documents[index]["metadata"].get("part_of")
        if part_of is not None:
            sets.merge(place, first.setdefault(("part", part_of), place))
        text = ("text", blake2b(" ".join(words).encode(), digest_size=16).digest())
        if text not in first:
            distinct.append(place)
            hashes.append(_word_shingles(words, word_hashes))
        sets.merge(place, first.setdefault(text, place))
    for left, right in _candidates(hashes, bound) if bound else ():
        # most pairs within a group need no verification: they hang together already
        if not sets.connected(distinct[left], distinct[right]):
            shared = np.intersect1d(hashes[left], hashes[right], assume_unique=True).size
            if shared >= bound * (hashes[left].size + hashes[right].size - shared):
                sets.merge(distinct[left], distinct[right])
    groups = [""] * len(documents)
    smallest: dict[int, str] = {}
    for place, index in enumerate(order):
        groups[index] = smallest.setdefault(sets[place], documents[index]["id"])
    return groups


def _word_shingles(words: list[str], word_hashes: dict[str, int]) -> np.ndarray:
    """Sorted distinct uint32 hashes of the runs of four words; a shorter text is one shingle.

    `word_hashes` remembers the words seen so far.
    """
    for word in (word for word in words if word not in word_hashes):
        word_hashes[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
    hashes = np.fromiter(map(word_hashes.__getitem__, words), dtype=np.uint64, count=len(words))
    if not words:
        hashes = np.zeros(1, dtype=np.uint64)
    size = min(SHINGLE_WORDS, hashes.size)
    mixed = np.zeros(hashes.size - size + 1, dtype=np.uint64)
    for offset in range(size):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + mixed.size]
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    ordered = np.sort((mixed >> np.uint64(32)).astype(np.uint32))
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))]  # np.unique without its overhead


def _candidates(hashes: list[np.ndarray], bound: float) -> Iterator[tuple[int, int]]:
    """Pairs of places that share a band, at most REACH apart in it, and may reach `bound`; sorted."""
    count, signatures = len(hashes), _signatures(hashes)
    pairs = [np.empty(0, dtype=np.int64)]  # left * count + right
    for band in signatures.reshape(count, BANDS, BAND_ROWS).astype(np.uint64).swapaxes(0, 1):
        keys = (band[:, 0] << np.uint64(32)) | band[:, 1]
        order = np.argsort(keys, kind="stable")
        for step in range(1, min(REACH, count - 1) + 1):
            same = keys[order[:-step]] == keys[order[step:]]
            left, right = order[:-step][same], order[step:][same]
            pairs.append(np.minimum(left, right) * count + np.maximum(left, right))
    distinct = np.unique(np.concatenate(pairs))
    for start in range(0, distinct.size, ROWS_AT_ONCE):
        left, right = np.divmod(distinct[start : start + ROWS_AT_ONCE], count)
        likely = (signatures[left] == signatures[right]).mean(axis=1) >= bound - MARGIN
        yield from zip(left[likely].tolist(), right[likely].tolist(), strict=True)


def _signatures(hashes: list[np.ndarray]) -> np.ndarray:
    """MinHash signatures of sets of uint32: uint32 (sets, BANDS * BAND_ROWS)."""
    generator = np.random.Generator(np.random.PCG64(20240229))
    size = BANDS * BAND_ROWS
    factors = generator.integers(1, 2**63, size, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = generator.integers(0, 2**63, size, dtype=np.uint64)
    signatures = np.empty((len(hashes), size), dtype=np.uint32)
    for start in range(0, len(hashes), ROWS_AT_ONCE):
        block = hashes[start : start + ROWS_AT_ONCE]
        flat = np.concatenate(block).astype(np.uint64)
        offsets = np.cumsum([0] + [one.size for one in block[:-1]])
        for column in range(size):
            permuted = ((flat * factors[column] + shifts[column]) >> np.uint64(32)).astype(np.uint32)
            signatures[start : start + len(block), column] = np.minimum.reduceat(permuted, offsets)
    return signatures
