"""Papers from PDFs: their pages and paragraphs, each file read in a process that may die of it."""

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import regex

from stages.core.errors import UserError
from stages.core.messages import say
from stages.core.progress import Progress
from stages.core.text import count_words
from stages.kinds.academic.knobs import Pdfs
from stages.kinds.academic.parts.layout import (
    BOLDER,
    ENDED,
    LARGER,
    Block,
    Placed,
    Spelling,
    blocks,
    placed,
    without_heads,
)
from stages.kinds.academic.parts.pdf import Page, read_pages
from stages.sources.data_files import data_files

# What publishers and archives write on the page that they put before a paper; two of these make a cover.
COVER = re.compile(
    r"to cite this (article|version)|to link to this article|submit your article|view related articles"
    r"|citing articles|article views|terms (&|and) conditions|this article was downloaded|downloaded from"
    r"|see discussions, stats|author profiles for this publication|your use of the jstor|stable url"
    r"|journal homepage|full terms|published online|\bissn\b|hal is a multi-disciplinary|author manuscript",
    re.IGNORECASE,
)
COVER_WORDS = 400  # at most
REFERENCES = re.compile(
    r"[\W\d]*(references( and notes| cited)?|bibliography|literature( cited)?|works cited"
    r"|literaturverzeichnis|références|bibliographie|referencias|bibliografía)\W*",
    re.IGNORECASE,
)
APPENDIX = re.compile(
    r"(appendix|appendices|supplementa(ry|l)|supporting information|anhang)\b", re.IGNORECASE
)
CAPTION = re.compile(
    r"(figure|fig\.|table|tab\.|algorithm|scheme|listing|abbildung|tabelle)\s*[A-Z]?\d+([.:|–—]|\s*$)?",
    re.IGNORECASE,
)
SECTION = regex.compile(r"(\d+|[IVX]+|[A-Z])(\.\d+)*\.?\s+\p{Lu}")
SPELT = regex.compile(r"\p{L}{2,}|\p{Lo}")  # letters of words, not of formulas
SENTENCE = regex.compile(r"[.!?…。！？؟۔।](\s|$)")
FEWEST_WORDS = 10  # of a paragraph
PROSE = 0.6  # of a paragraph's characters
SMALLER = 0.93  # a note's height by that of the text


class PageText(NamedTuple):
    number: int  # from 1
    text: str
    warnings: list[str]


class Paragraph(NamedTuple):
    page: int  # on which it begins, from 1
    number: int  # on that page, from 1
    text: str


class Paper(NamedTuple):
    """`skipped` counts pages left out by why, `left_out` blocks of text that are no paragraphs by kind."""

    path: Path
    title: str
    pages: list[PageText]
    paragraphs: list[Paragraph]
    skipped: dict[str, int]
    left_out: dict[str, int]
    unknown: int

    @property
    def name(self) -> str:
        """What its ids begin with."""
        return name_of(self.path)


class Look(NamedTuple):
    """How a paper's text looks: what is larger or bolder is something else."""

    height: float
    bold: float
    feet: dict[tuple, float]  # of each column, by page and edges: where its last line of text ends

    def ratio(self, block: Block) -> float:
        return block.lines[0].line.height / self.height


def name_of(path: Path) -> str:
    return " ".join(path.stem.split())


def pdfs_at(path: str) -> list[Path]:
    """The PDFs at `path`, a file or a folder, by name. Raises UserError for none, and two of one name."""
    folder = Path(path)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder; set `path` to a PDF, or to a folder of PDFs")
    files = sorted(data_files(folder, "**/*.[pP][dD][fF]"), key=lambda file: (name_of(file), str(file)))
    if not files:
        raise UserError(f"{folder}: holds no PDF; put files there whose names end in .pdf")
    for one, other in pairwise(files):
        if name_of(one) == name_of(other):
            raise UserError(
                f"{one} and {other}: two PDFs of one name, which their ids begin with; rename one"
            )
    return files


def read_papers(knobs: Pdfs) -> list[Paper]:
    """The papers at `path`, by name. Raises UserError that names all files which cannot be read."""
    files = pdfs_at(knobs.path)
    read = partial(read_paper, skip=tuple(knobs.skip))
    found: dict[Path, Paper | str] = {}
    with Progress(len(files), "reading PDFs", "file") as shown:
        for alone in (False, True):  # a file that ends a process ends others' work: each again, by itself
            todo = [file for file in files if file not in found]
            for group in [[file] for file in todo] if alone else [todo]:
                found |= in_processes(read, group, shown)
                for file in group if alone else ():
                    found.setdefault(file, f"{file}: ends the process that reads it; it is broken")
    problems = [outcome for outcome in found.values() if isinstance(outcome, str)]
    if problems:
        them = "it" if len(problems) == 1 else f"these {len(problems)} of {len(files)} files"
        raise UserError(f"{'; '.join(problems)}. Replace {them}, or rename to end in .bak to go on without")
    return [paper for file in files if isinstance(paper := found[file], Paper)]


def in_processes(read, files: Sequence[Path], shown: Progress) -> dict[Path, Paper | str]:
    """A paper, or what is wrong with it, for each file; files are lacking whose process died."""
    found: dict[Path, Paper | str] = {}
    context = multiprocessing.get_context("spawn")
    if not files:
        return found
    with ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), len(files)), context) as pool:
        waiting = {file: pool.submit(read, file) for file in files}
        for file, future in waiting.items():
            try:
                found[file] = future.result()
            except UserError as error:
                found[file] = str(error)
            except BrokenProcessPool:
                continue
            shown.update()
    return found


def read_paper(path: Path, skip: tuple[str, ...]) -> Paper:
    """Raises UserError for a file that cannot be read, and for one without text."""
    pages, named = read_pages(path)
    kept, heads = without_heads(pages)
    lines, skipped = placed(kept), Counter[str]()
    if "covers" in skip and is_cover(pages):
        skipped["covers"] = 1
        lines = [one for one in lines if one.page > 1]
    if "references" in skip:
        before = len(lines)
        lines, skipped["references"] = without_references(lines)
        if before and not lines:
            raise UserError(f"{path}: holds nothing but references; set skip to covers to keep them")
    skipped["empty"] = sum(page.readable and not page.lines for page in pages)
    skipped["unreadable"] = sum(not page.readable for page in pages)
    spelling = Spelling([one.line.text for one in lines])
    made, look = blocks(lines), look_of(lines)
    title, made_title = title_of(made, look, spelling)
    paragraphs, left_out = paragraphs_of(made, look, made_title, spelling)
    left_out["heads"] = heads
    return Paper(
        path,
        title or " ".join(named.split()) or name_of(path),
        page_texts(made, pages, spelling),
        paragraphs,
        dict(skipped),
        dict(left_out),
        sum(page.unknown for page in pages),
    )


def is_cover(pages: Sequence[Page]) -> bool:
    text = " ".join(line.text for line in pages[0].lines)
    marks = {found[0].lower() for found in COVER.finditer(text)}
    return len(pages) > 1 and len(marks) > 1 and count_words(text) <= COVER_WORDS


def without_references(lines: list[Placed]) -> tuple[list[Placed], int]:
    """(lines less the last list of references, up to an appendix, the number of pages that had some)."""
    starts = [place for place, one in enumerate(lines) if REFERENCES.fullmatch(one.line.text)]
    if not starts:
        return lines, 0
    start = starts[-1]
    more = (place for place in range(start, len(lines)) if APPENDIX.match(lines[place].line.text))
    end = next(more, len(lines))
    return lines[:start] + lines[end:], len({one.page for one in lines[start:end]})


def look_of(lines: Sequence[Placed]) -> Look:
    """Most letters are of the text: its height, a weight that is bold beside it, where it ends on a page."""
    letters: Counter[float] = Counter()
    for one in lines:
        letters[round(one.line.height, 1)] += len(one.line.text)
    height = letters.most_common(1)[0][0] if letters else 1.0
    feet: dict[tuple, float] = {}
    for page, line, left, right in ((one.page, one.line, one.left, one.right) for one in lines):
        if line.height >= SMALLER * height:
            feet[page, left, right] = min(line.bottom, feet.get((page, left, right), line.bottom))
    return Look(height, BOLDER * median(one.line.weight for one in lines) if lines else 0, feet)


def title_of(made: Sequence[Block], look: Look, spelling: Spelling) -> tuple[str, list[Block]]:
    """The title and its blocks: the largest text of the first page, where it is larger than others."""
    first = [block for block in made if block.page == made[0].page]
    largest = max((look.ratio(block) for block in first), default=0)
    if largest <= LARGER:
        return "", []
    own = [block for block in first if look.ratio(block) * LARGER > largest]
    return " ".join(spelling.joined(one.line.text for one in block.lines) for block in own), own


def paragraphs_of(
    made: Sequence[Block], look: Look, title: Sequence[Block], spelling: Spelling
) -> tuple[list[Paragraph], Counter[str]]:
    """Paragraphs in reading order, and counts of what is none. One may go on behind a figure or a note."""
    found: list[Block] = []
    left_out: Counter[str] = Counter()
    for block in made:
        text = spelling.joined(one.line.text for one in block.lines)
        kind = "titles" if block in title else kind_of(block, text, look)
        # of the last two: one may be a note to a table
        open_ones = [one for one in found[-2:] if not ENDED.search(one.lines[-1].line.text)]
        of_text = kind in ("paragraphs", "fragments") and abs(look.ratio(block) - 1) < LARGER - 1
        if open_ones and of_text and text[:1].islower():
            open_ones[-1].lines.extend(block.lines)
        elif kind == "paragraphs":
            found.append(Block(list(block.lines)))
        else:
            left_out[kind] += 1
    numbers: Counter[int] = Counter()
    paragraphs = []
    for block in found:
        numbers[block.page] += 1
        text = spelling.joined(one.line.text for one in block.lines)
        paragraphs.append(Paragraph(block.page, numbers[block.page], text))
    return paragraphs, left_out


def kind_of(block: Block, text: str, look: Look) -> str:
    """paragraphs, headings, captions, formulas, notes or fragments, by look and words."""
    ratio, count, ended = look.ratio(block), count_words(text), bool(ENDED.search(text))
    stands_out = ratio > LARGER or block.lines[0].line.weight > look.bold
    caption = CAPTION.match(text)
    if caption and (caption[2] is not None or stands_out or ratio < SMALLER):
        return "captions"
    spelt = sum(map(len, SPELT.findall(text))) / len("".join(text.split()))
    if spelt < PROSE:
        return "formulas"
    if not ended and len(block.lines) < 4 and (stands_out or (SECTION.match(text) and count < 12)):
        return "headings"
    first = block.lines[0]
    foot = look.feet.get((first.page, first.left, first.right))
    if ratio < SMALLER and foot is not None and first.line.top <= foot:
        return "notes"
    return "paragraphs" if count >= FEWEST_WORDS and SENTENCE.search(text) else "fragments"


def page_texts(made: Sequence[Block], pages: Sequence[Page], spelling: Spelling) -> list[PageText]:
    """The text of each page that has some, its blocks apart by an empty line."""
    of_page: dict[int, list[str]] = {}
    for block in made:
        for number in sorted({one.page for one in block.lines}):
            own = [one.line.text for one in block.lines if one.page == number]
            of_page.setdefault(number, []).append(spelling.joined(own))
    texts = []
    for number, parts in sorted(of_page.items()):
        unknown = pages[number - 1].unknown
        warnings = [f"{unknown} glyphs without a meaning left out"] if unknown else []
        texts.append(PageText(number, "\n\n".join(parts), warnings))
    return texts


def warn(stage: str, dataset: str, papers: Sequence[Paper]) -> None:
    """Say which papers have glyphs without a meaning, and which lack pages."""
    for paper in papers:
        lacking = paper.skipped["empty"] + paper.skipped["unreadable"]
        what = {
            "glyphs without a meaning left out": paper.unknown,
            "pages without text that can be read": lacking,
        }
        said = ", ".join(f"{count:,} {name}" for name, count in what.items() if count)
        if said:
            say(f"{stage} {dataset}: warning: {paper.path}: {said}")
