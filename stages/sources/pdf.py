"""The lines of a PDF's pages and their places, read by pdfium: not for threads, it has one state for all."""

import ctypes
import math
import re
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import pypdfium2
from pypdfium2 import raw

from stages.core.errors import UserError

MOST_PAGES = 2000  # of a paper
HEAD = 1024  # bytes in which the mark of a PDF has to be
HYPHEN = "\u00ad"  # one that a line broke a word with, or may have
PDFIUM_HYPHENS = str.maketrans({"\x02": HYPHEN, "\ufffe": HYPHEN})
# Without a meaning that anybody agreed upon: private use, control characters, "replaced" and not a character.
UNKNOWN = re.compile(
    r"[\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffd\uffff\ud800-\udfff]"
)
FORMS = re.compile(r"[\ufb00-\ufb4f\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc]+")  # ligatures, shapes of letters
WORD = re.compile(rf"[^\s{HYPHEN}]*{HYPHEN}|[^\s{HYPHEN}]+")
FLAT = 0.1  # points: what a letter is high at least, also where a broken font says none
GAP = 1.5  # heights of a line; further apart, words stand in two columns
TURN = math.pi / 2


class Line(NamedTuple):
    """A line of text in one column. Its box is in points from the left and the bottom of the page.

    `weight` is the lesser of its first and its last word's: about 400 for plain fonts, 700 for bold ones.
    """

    text: str
    left: float
    bottom: float
    right: float
    top: float
    weight: int

    @property
    def height(self) -> float:
        return max(self.top - self.bottom, FLAT)


class Page(NamedTuple):
    """Its lines in the order of the file, and where it begins and ends: bottom and top, in points.

    `unknown` counts glyphs without a meaning, which are left out.
    """

    lines: list[Line]
    bottom: float = 0
    top: float = 0
    unknown: int = 0


class Word(NamedTuple):
    """Its box is as a line's; `start` is the number of its first letter on the page."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    start: int


def read_pages(path: Path) -> tuple[list[Page], str]:
    """(the pages, the title in the file's metadata or ""). Raises UserError for what cannot be read."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise UserError(f"{path}: is empty")
    if b"%PDF-" not in head:
        raise UserError(f"{path}: is no PDF, it begins with {head[:8]!r}")
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            raise UserError(f"{path}: is encrypted; save it without a password") from None
        raise UserError(f"{path}: is broken, or cut off: pdfium finds no pages in it") from None
    with closing(document):
        if len(document) > MOST_PAGES:
            raise UserError(f"{path}: has {len(document):,} pages, expected at most {MOST_PAGES:,}; split it")
        pages = [read_page(document, number) for number in range(len(document))]
        title = document.get_metadata_value("Title")
    if not any(page.lines for page in pages):
        raise UserError(f"{path}: has no text: a scan, or broken; have its text recognised (OCR)")
    return pages, title


def read_page(document: pypdfium2.PdfDocument, number: int) -> Page:
    """Page `number`, from 0; one that is broken has no lines.

    Handles are closed in order: pdfium frees what a later one still needs.
    """
    try:
        with closing(document[number]) as page, closing(page.get_textpage()) as text:
            return page_of(text, page)
    except pypdfium2.PdfiumError:
        return Page([])


def page_of(text: pypdfium2.PdfTextPage, page: pypdfium2.PdfPage) -> Page:
    """The page as it is read: turned so that most of its lines are upright, without the others.

    Others are the words along a margin, as the stamp of an archive.
    """
    words = words_of(text)
    turned: dict[int, list[list[Word]]] = defaultdict(list)
    for line in lines_of(words):
        clockwise = round(raw.FPDFText_GetCharAngle(text, line[0].start) / TURN)
        turned[-clockwise % 4].append(line)
    turn = max(turned, key=lambda one: sum(map(len, turned[one])), default=0)
    lines = turned[turn]
    if turn:
        lines = lines_of([upright(word, turn) for line in lines for word in line])
    edges = upright(Word("", *page.get_bbox(), 0), turn)
    unknown = len(UNKNOWN.findall("".join(word.text for word in words)))
    made = (line_of(text, line) for line in lines)
    return Page([line for line in made if line.text], edges.bottom, edges.top, unknown)


def words_of(page: pypdfium2.PdfTextPage) -> list[Word]:
    """The words of a page in the order of the file; a hyphen that pdfium takes for one ends a word.

    Most of the time goes into calls. So only the first and the last letter of a word are asked for their
    places, and all letters are asked for at once: alone only where some have no code, or two.
    """
    count, text, handle = page.count_chars(), page.get_text_range(), page.raw
    if len(text) != count:
        text = "".join(chr(raw.FPDFText_GetUnicode(handle, index)) for index in range(count))
    box = raw.FS_RECTF()
    place, get_box = ctypes.byref(box), raw.FPDFText_GetLooseCharBox
    words = []
    for found in WORD.finditer(text.translate(PDFIUM_HYPHENS)):
        start, end = found.span()
        get_box(handle, start, place)
        left, bottom, right, top = box.left, box.bottom, box.right, box.top
        get_box(handle, end - 1, place)
        words.append(
            Word(
                found[0],
                min(left, box.left),
                min(bottom, box.bottom),
                max(right, box.right),
                max(top, box.top),
                start,
            )
        )
    return words


def upright(word: Word, turn: int) -> Word:
    """A word with its place on a page that is turned back by quarters."""
    text, left, bottom, right, top, start = word
    for _ in range(turn):
        left, bottom, right, top = bottom, -right, top, -left
    return Word(text, left, bottom, right, top, start)


def lines_of(words: list[Word]) -> list[list[Word]]:
    """Words that follow each other in the file, on one line and not far apart."""
    lines: list[list[Word]] = []
    left = right = bottom = top = 0.0
    for word in words:
        gap = max(word.left - right, left - word.right)
        if (
            not lines
            or not bottom <= (word.bottom + word.top) / 2 <= top
            or gap > GAP * min(top - bottom, word.top - word.bottom)
        ):
            lines.append([])
            _, left, bottom, right, top, _ = word
        lines[-1].append(word)
        left, right = min(left, word.left), max(right, word.right)
    return lines


def line_of(page: pypdfium2.PdfTextPage, words: list[Word]) -> Line:
    """Its height is that of most letters: a word of another font, or an exponent, does not count."""
    heights: Counter[tuple[float, float]] = Counter()
    for word in words:
        heights[word.bottom, word.top] += len(word.text)
    bottom, top = max(heights, key=heights.__getitem__)
    joined = " ".join(word.text for word in words).replace(f"{HYPHEN} ", "")
    text = joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    left, right = min(word.left for word in words), max(word.right for word in words)
    weight = min(raw.FPDFText_GetFontWeight(page, word.start) for word in (words[0], words[-1]))
    return Line(clean(text), left, bottom, right, top, weight)


def clean(text: str) -> str:
    """A line without what has no meaning, its ligatures and shaped letters as plain ones."""
    if text.isascii() and text.isprintable():
        return text
    text = " ".join(UNKNOWN.sub("", text).replace("\ufeff", "").replace("\u200b", "").split())
    return normalize("NFC", FORMS.sub(lambda found: normalize("NFKC", found[0]), text))
