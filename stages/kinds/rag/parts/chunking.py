"""Documents cut into passages by tokens, and which passage holds an answer."""

import re
import string
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stages.core.tokenizer import TextCodec
from stages.kinds.rag.knobs import Chunks
from stages.kinds.rag.parts.rows import Passage

# A cut is behind the last of these in the latter half of what a passage may hold: the first kind there is.
BREAKS = tuple(map(re.compile, (r"\n[^\S\n]*\n\s*", r"\n\s*", r"[.!?…。！？]['\")\]]*\s+|[。！？]", r"\s+")))
ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Cutter:
    """Cuts texts as the knobs say. Raises UserError for a directory without a tokenizer."""

    def __init__(self, knobs: Chunks):
        self.tokenizer = TextCodec(Path(knobs.tokenizer)).tokenizer
        self.most, self.overlap = knobs.chunk, knobs.overlap

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of pieces of at most `chunk` tokens that cover all but the blanks of a text.

        A piece begins up to `overlap` tokens before the end of the last one. A character is never cut, and
        a word only where it is longer than a piece.
        """
        places = [start for start, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]
        start = 0
        while start < len(text):
            end = self._end(text, places, start)
            piece = text[start:end].strip()
            if piece:
                first = text.index(piece, start)
                yield first, first + len(piece)
            if end == len(text):
                return
            start = self._next(text, places, start, end)

    def passages(self, source: str, title: str, text: str) -> list[Passage]:
        """The passages of a document, `source` is its id."""
        return [
            Passage(
                id=f"{source}#{seq}",
                title=title,
                text=text[start:end],
                source=source,
                seq=seq,
                start=start,
                end=end,
            )
            for seq, (start, end) in enumerate(self.spans(text))
        ]

    def _end(self, text: str, places: list[int], start: int) -> int:
        first = bisect_left(places, start)
        last = first + self.most
        while True:
            limit = places[last] if last < len(places) else len(text)
            limit = max(limit, start + 1)
            # Alone, the piece may be a token or two longer than within the whole.
            if limit == start + 1 or self._count(text[start:limit].strip()) <= self.most:
                break
            last -= 1
        if limit == len(text):
            return limit
        middle = (start + limit) // 2
        for kind in BREAKS:
            if ends := [found.end() for found in kind.finditer(text, middle, limit)]:
                return ends[-1]
        return limit

    def _next(self, text: str, places: list[int], start: int, end: int) -> int:
        """Where the piece after text[start:end] begins: at the first sentence, else word, that may be repeated."""
        earliest = places[max(0, bisect_left(places, end) - self.overlap)] if self.overlap else end
        if earliest <= start:
            return end
        for kind in BREAKS[1:]:
            if found := kind.search(text, earliest, end):
                return found.end()
        return end

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def squad_words(text: str) -> list[str]:
    """Words as SQuAD's evaluation compares them: lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def coverage(answer: str, text: str) -> float:
    """The share of an answer's words, each as often as it stands there, that are in a text."""
    wanted = Counter(squad_words(answer))
    return (wanted & Counter(squad_words(text))).total() / max(1, wanted.total())


def holding(answer: str, passages: Sequence[Passage]) -> str:
    """The id of the passage that covers most of an answer, the first of several; `passages` are some."""
    return max(passages, key=lambda passage: coverage(answer, passage["text"]))["id"]


def by_source(passages: Iterable[Passage]) -> Mapping[str, list[Passage]]:
    """The passages of each document."""
    found: dict[str, list[Passage]] = {}
    for passage in passages:
        found.setdefault(passage["source"], []).append(passage)
    return found
