"""Documents cut into passages by tokens."""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

from stages.core.tokenizer import TextCodec
from stages.retrieval.knobs import Cut

# A cut is behind the last of these in the latter half of what a passage may hold: the first kind there is.
BREAKS = tuple(map(re.compile, (r"\n[^\S\n]*\n\s*", r"\n\s*", r"[.!?…。！？]['\")\]]*\s+|[。！？]", r"\s+")))


class Passage(TypedDict):
    """A piece of a document. `start` and `end` are its place there in characters, `seq` its number, from 0.

    `source` is the id, or address, of the document: passages of one are a cluster.
    """

    id: str
    title: str
    text: str
    source: str
    seq: int
    start: int
    end: int


class Piece(NamedTuple):
    """A document, or a part of one: its `source` is the id or address of the whole."""

    source: str
    title: str
    text: str


class Cutter:
    """Cuts texts as the knobs say. Raises UserError for a directory without a tokenizer."""

    def __init__(self, knobs: Cut):
        self.tokenizer = TextCodec(Path(knobs.tokenizer)).tokenizer
        self.most, self.overlap = knobs.chunk, knobs.overlap

    def passages(self, documents: Iterable[Piece]) -> list[Passage]:
        numbers: Counter[str] = Counter()
        return [
            passage_of(document._replace(text=document.text[start:end]), start, numbers)
            for document in documents
            for start, end in self.spans(document.text)
        ]

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of pieces of at most `chunk` tokens that cover all but the blanks of a text.

        A piece begins up to `overlap` tokens before the end of the last one. A character is never cut, and
        a word only where it is longer than a piece.
        """
        places = [start for start, _ in self.tokenizer.encode(text, add_special_tokens=False).offsets]
        start = end = 0
        while end < len(text):
            last, end = end, self._end(text, places, start, end)
            if not text[last:end].strip():  # blanks alone, or what is repeated leaves no room for more
                start = end = last if start < last else end
                continue
            piece = text[start:end].strip()
            first = text.index(piece, start)
            yield first, first + len(piece)
            start = self._next(text, places, start, end)

    def _end(self, text: str, places: list[int], start: int, before: int) -> int:
        """Where the piece from `start` ends, if it can be behind `before`."""
        last = bisect_left(places, start) + self.most
        while True:
            limit = max(places[last] if last < len(places) else len(text), start + 1)
            # Alone, the piece may be a token or two longer than within the whole.
            if limit == start + 1 or self._count(text[start:limit].strip()) <= self.most:
                break
            last -= 1
        if limit == len(text):
            return limit
        least = max(before, (start + limit) // 2)
        for kind in BREAKS:
            if ends := [found.end() for found in kind.finditer(text, least, limit)]:
                return ends[-1]
        return limit

    def _next(self, text: str, places: list[int], start: int, end: int) -> int:
        """Where the piece after text[start:end] begins: at the first line, else sentence, else word."""
        earliest = places[max(0, bisect_left(places, end) - self.overlap)] if self.overlap else end
        breaks = [found.end() for kind in BREAKS[1:] if (found := kind.search(text, earliest, end))]
        return breaks[0] if breaks and earliest > start else end

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def passage_of(piece: Piece, start: int, numbers: Counter[str]) -> Passage:
    """A passage that begins at a place of its document, with the next of `numbers` of its source."""
    seq = numbers[piece.source]
    numbers[piece.source] += 1
    return {
        "id": f"{piece.source}#{seq}",
        **piece._asdict(),
        "seq": seq,
        "start": start,
        "end": start + len(piece.text),
    }  # type: ignore[typeddict-item]


def by_source(passages: Iterable[Passage]) -> dict[str, list[Passage]]:
    """The passages of each document."""
    found: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        found[passage["source"]].append(passage)
    return dict(found)


def titled(passage: Mapping) -> str:
    """A passage as retrievers read it."""
    return f"{passage['title']}\n{passage['text']}"
