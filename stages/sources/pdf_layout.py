"""From lines with places to blocks in reading order: columns, running heads, paragraphs, hyphens."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import regex

from stages.sources.pdf import HYPHEN, Line, Page

FEWEST = 3  # lines of a column
MARGIN = 0.1  # of a page's height, where running heads and page numbers stand
EDGE = 2  # lines there, at most
PAGE_NUMBER = re.compile(r"[\W_]*(\d{1,4}|[ivxl]{1,6})[\W_]*", re.IGNORECASE)
RIGHT_TO_LEFT = regex.compile(r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]")
LETTER = regex.compile(r"\p{L}")
WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*(?:-\p{L}[\p{L}\p{M}]*)*")
HYPHENS = ("-", "\u2010", HYPHEN)
BROKEN = regex.compile(r"([\p{L}\p{N}][\p{L}\p{M}\p{N}-]*).$")  # before one of them
ENDED = regex.compile(r"[.!?:;…。！？؟۔।][\p{Pe}\p{Pf}\p{Po}\p{Sk}\d]*$")  # digits: of a note
END = 80  # characters in which the end of a text is looked at: the longest word
LARGER = 1.08  # a line so many times as high as another is of another size
BOLDER = 1.25
BREAKS = 0.04  # of lines break a word, at least, where a typesetter does: 6% in one paper, 1 to 3% elsewhere
FEW = 100  # lines, which say nothing about that
SPACE = 0.25  # of a line's height, beyond what usually parts lines
INDENT = 0.7  # of a line's height


class Placed(NamedTuple):
    """A line of page `page` (from 1) and the edges of its column."""

    line: Line
    page: int
    left: float
    right: float


class Block(NamedTuple):
    """Lines that belong together: a paragraph, a heading, a formula."""

    lines: list[Placed]

    @property
    def page(self) -> int:
        return self.lines[0].page


def ended(text: str) -> bool:
    """Does a text end as a sentence does?"""
    return bool(ENDED.search(text[-END:]))


def broken_word(text: str) -> regex.Match | None:
    """The word at the end of a line, and its hyphen, if it ends in one."""
    return BROKEN.search(text[-END:]) if text.endswith(HYPHENS) else None


def without_heads(pages: Sequence[Page]) -> tuple[list[list[Line]], int]:
    """(the lines of each page less its running heads and page numbers, how many lines these are).

    Such is a line in the margin that says the same on another page but for its numbers, or is a number alone.
    """
    edges = [set(edge_lines(page)) for page in pages]
    seen = Counter(same for lines in edges for same in {spelling(line) for line in lines})
    kept = []
    for page, own in zip(pages, edges, strict=True):
        heads = {one for one in own if seen[spelling(one)] > 1 or PAGE_NUMBER.fullmatch(one.text)}
        kept.append([line for line in page.lines if line not in heads] or page.lines)
    return kept, sum(len(page.lines) for page in pages) - sum(map(len, kept))


def edge_lines(page: Page) -> Iterator[Line]:
    """The outermost lines in the upper and the lower margin."""
    margin = MARGIN * (page.top - page.bottom)
    ordered = sorted(page.lines, key=lambda line: line.top)
    heights = sorted({round(line.top) for line in ordered})
    for line in ordered:
        place = heights.index(round(line.top))
        at_foot = place < EDGE and line.bottom < page.bottom + margin
        if at_foot or (place >= len(heights) - EDGE and line.top > page.top - margin):
            yield line


def spelling(line: Line) -> str:
    return re.sub(r"\d+", "0", line.text).casefold()


def columns(lines: Sequence[Line], from_right: bool) -> list[list[Line]]:
    """The columns of a page in reading order, each from top to bottom; lines across them part them.

    A line's left edge parts columns where fewest lines lie across it, and some on either side; then the same
    is done on each side. In the manner of recursive cuts of white space (Ha, Haralick and Phillips 1995).
    """
    best = None
    for edge in sorted({round(line.left, 1) for line in lines}):
        before = [line for line in lines if line.right <= edge + 1]
        behind = [line for line in lines if line.left >= edge - 1 and line.right > edge + 1]
        across = len(lines) - len(before) - len(behind)
        if min(len(before), len(behind)) >= FEWEST and (best is None or across < best[0]):
            best = across, edge
    if best is None:
        return [in_rows(lines, from_right)] if lines else []
    edge, made = best[1], []
    sides: tuple[list[Line], list[Line]] = [], []
    whole: list[Line] = []

    def flush() -> None:
        for side in sides[::-1] if from_right else sides:
            made.extend(columns(side, from_right))
            side.clear()

    for line in in_rows(lines, from_right):
        if line.right > edge + 1 and line.left < edge - 1:
            flush()
            whole.append(line)
            continue
        if whole:
            made.append(whole)
            whole = []
        sides[line.right > edge + 1].append(line)
    flush()
    return [*made, whole] if whole else made


def in_rows(lines: Sequence[Line], from_right: bool) -> list[Line]:
    """Lines from top to bottom, those of one height in reading order."""
    ordered = sorted(lines, key=lambda line: -line.top)
    rows: list[list[Line]] = []
    for line in ordered:
        if not rows or (line.bottom + line.top) / 2 < rows[-1][0].bottom:
            rows.append([])
        rows[-1].append(line)
    sign = -1 if from_right else 1
    return [line for row in rows for line in sorted(row, key=lambda line: sign * line.left)]


def placed(pages: Iterable[Sequence[Line]]) -> list[Placed]:
    """All lines of a paper in reading order."""
    found = []
    for number, lines in enumerate(pages, start=1):
        text = "".join(line.text for line in lines)
        turned = len(RIGHT_TO_LEFT.findall(text)) if not text.isascii() else 0
        from_right = turned > 0 and turned > len(LETTER.findall(text)) / 2
        for column in columns(lines, from_right):
            left, right = min(line.left for line in column), max(line.right for line in column)
            found += [Placed(line, number, left, right) for line in column]
    return found


def blocks(lines: Sequence[Placed]) -> list[Block]:
    """Lines in reading order as blocks, which may go on in the next column."""
    between = [
        (above.line.bottom - below.line.top) / below.line.height
        for above, below in pairwise(lines)
        if (above.page, above.left) == (below.page, below.left)
    ]
    usual = median(between) if between else 0
    weight = median(one.line.weight for one in lines) if lines else 0
    made: list[Block] = []
    for one in lines:
        if not made or begins(made[-1].lines, one, usual, weight * BOLDER):
            made.append(Block([]))
        made[-1].lines.append(one)
    return made


def begins(before: Sequence[Placed], one: Placed, usual: float, bold: float) -> bool:
    """Does a line begin another block? `usual` is the space between lines in their heights."""
    last = before[-1]
    above, below = last.line, one.line
    small, large = sorted((above.height, below.height))
    if large > LARGER * small or (above.weight > bold) != (below.weight > bold):
        return True
    short = last.right - above.right > 2 * above.height
    if last.page != one.page or below.bottom > above.top:  # it goes on at the top
        return (short or below.left - one.left > INDENT * below.height) and ended(above.text)
    if above.bottom <= (below.bottom + below.top) / 2 <= above.top:  # the same row
        return False
    if (above.bottom - below.top) / below.height > usual + SPACE:
        return True
    moved = (below.left - above.left) / below.height
    # All lines of an entry but the first may be indented; then the next one begins further left.
    return (moved > INDENT and (short or ended(above.text))) or (moved < -INDENT and len(before) > 1)


class Spelling:
    """How a paper spells what line ends break: `words` counts those that stand whole in its lines."""

    def __init__(self, lines: Sequence[str]):
        self.words: Counter[str] = Counter()
        breaks, head = 0, None
        for line in lines:
            rest = WORD.match(line) if head else None
            breaks += rest is not None
            broken = broken_word(line)
            whole = line[rest.end() if rest else 0 : -len(broken[0]) if broken else None]
            self.words.update(word.lower() for word in WORD.findall(whole))
            head = broken[1] if broken else None
        self.breaks_words = breaks >= BREAKS * len(lines) or len(lines) < FEW

    def known(self, head: str, rest: str) -> str | None:
        """The hyphen between the parts of a word, or "", as is it spelt elsewhere; None if it is not."""
        whole, parted = (self.words[f"{head}{between}{rest}".lower()] for between in ("", "-"))
        return None if whole == parted else "" if whole > parted else "-"

    def hyphen(self, head: str, rest: str) -> str:
        """The hyphen between the parts of a word, or "" where it only broke a line.

        Where the paper does not say, one stays behind a digit, before a capital, between what are words, and
        in a paper that breaks none.
        """
        if (known := self.known(head, rest)) is not None:
            return known
        words = self.words[head.rpartition("-")[2].lower()] and self.words[rest.lower()]
        stays = head[-1].isdigit() or rest[0].isupper() or words or not self.breaks_words
        return "-" if stays else ""

    def joined(self, lines: Iterable[str]) -> str:
        """Lines as one text."""
        parts = [""]
        for line in lines:
            broken = broken_word(parts[-1])
            if broken and (rest := WORD.match(line)):
                parts[-1] = parts[-1][:-1] + self.hyphen(broken[1], rest[0])
            elif parts[-1].endswith(HYPHEN):
                parts[-1] = parts[-1][:-1] + "-"
            elif len(parts) > 1:
                parts.append(" ")
            parts.append(line)
        return "".join(parts).replace(HYPHEN, "-")
