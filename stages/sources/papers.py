"""Papers from PDFs: their pages and paragraphs, each file read in a process, which may die of it."""

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
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
from stages.sources.data_files import data_files
from stages.sources.pdf import Page, read_pages
from stages.sources.pdf_layout import (
    BOLDER,
    LARGER,
    Block,
    Placed,
    Spelling,
    blocks,
    ended,
    placed,
    without_heads,
)

# What publishers and archives write on the page that they put before a paper; two of these make a cover.
COVER = re.compile(
    r"to cite this (?:article|version)|to link to this article|submit your article|view related articles"
    r"|citing articles|article views|terms (?:&|and) conditions|this article was downloaded|downloaded from"
    r"|see discussions, stats|author profiles for this publication|your use of the jstor|stable url"
    r"|journal homepage|published online|\bissn\b|hal is a multi-disciplinary|author manuscript",
    re.IGNORECASE,
)
COVER_WORDS = 400  # at most
REFERENCES = re.compile(
    r"[\W\d]*(references( and notes| cited)?|bibliography|literature( cited)?|works cited"
    r"|literaturverzeichnis|références|bibliographie|referencias|bibliografía)\W*",
    re.IGNORECASE,
)
APPENDIX = re.compile(r"(appendix|appendices|supplementa(ry|l)|supporting|anhang)\b", re.IGNORECASE)
CAPTION = re.compile(
    r"(figure|fig\.|table|tab\.|algorithm|scheme|listing|abbildung|tabelle)\s*[A-Z]?\d+([.:|–—]|\s*$)?",
    re.IGNORECASE,
)
SECTION = regex.compile(r"(\d+|[IVX]+|[A-Z])(\.\d+)*\.?\s+\p{Lu}")
SPELT = regex.compile(r"\p{L}[\p{L}\p{M}]+|\p{Lo}")  # letters of words, not of formulas
SENTENCE = regex.compile(r"[.!?…。！？؟۔।](\s|$)")
FEWEST_WORDS = 10  # of a paragraph
PROSE = 0.6  # of a paragraph's characters are letters of words
SMALLER = 0.93  # a note's height by that of the text
SHOWN = 10  # problems


class PageText(NamedTuple):
    number: int  # from 1
    text: str
    unknown: int  # glyphs without a meaning, left out


class Paragraph(NamedTuple):
    page: int  # on which it begins, from 1
    number: int  # on that page, from 1
    text: str


class Paper(NamedTuple):
    """`skipped` counts pages left out by why, `left_out` lines of heads and blocks that are no paragraphs."""

    path: Path
    title: str
    pages: list[PageText]
    paragraphs: list[Paragraph]
    skipped: Counter[str]
    left_out: Counter[str]

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
            raise UserError(f"{one} and {other}: two PDFs of one name, with which ids begin; rename one")
    return files


def read_papers(stage: str, path: str, skip: Sequence[str]) -> list[Paper]:
    """The papers at `path`, by name; `stage` warns of what is lacking in them.

    `skip` are covers, references, both or none. Raises UserError that names all files which cannot be read.
    """
    files = pdfs_at(path)
    outcomes = in_processes(partial(read_paper, skip=tuple(skip)), files)
    if problems := [outcome for outcome in outcomes if isinstance(outcome, str)]:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{'; '.join(problems[:SHOWN])}{more} ({len(problems):,} of {len(files):,} files); mend or "
            "replace these, or rename them to end in .bak to go on without"
        )
    papers = [outcome for outcome in outcomes if isinstance(outcome, Paper)]
    for paper in papers:
        unknown = sum(page.unknown for page in paper.pages)
        lacking = {"glyphs without a meaning": unknown, "pages without text": paper.skipped["empty"]}
        if said := ", ".join(f"{count:,} {what}" for what, count in lacking.items() if count):
            say(f"{stage}: warning: {paper.path}: {said}, which are left out")
    return papers


def in_processes(read: Callable[[Path], Paper], files: Sequence[Path]) -> list[Paper | str]:
    """A paper, or what is wrong with it, for each file.

    A file that ends its process ends the work of others: these are read again, each in a process of its own.
    """
    outcomes: dict[Path, Paper | str] = {}
    with Progress(len(files), "reading PDFs", "file") as shown:
        for group in (files, *([file] for file in files)):
            todo = [file for file in group if file not in outcomes]
            if not todo:
                continue
            workers = min(len(os.sched_getaffinity(0)), len(todo))
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                for file, reading in [(file, pool.submit(read, file)) for file in todo]:
                    try:
                        outcomes[file] = reading.result()
                    except UserError as error:
                        outcomes[file] = str(error)
                    except BrokenProcessPool:
                        if len(group) > 1:
                            continue
                        outcomes[file] = f"{file}: is broken: the process that reads it dies"
                    shown.update()
    return [outcomes[file] for file in files]


def read_paper(path: Path, skip: tuple[str, ...]) -> Paper:
    """Raises UserError for a file that cannot be read, and for one without text."""
    pages, named = read_pages(path)
    kept, heads = without_heads(pages)
    lines, skipped = placed(kept), Counter(empty=sum(not page.lines for page in pages))
    if "covers" in skip and len(pages) > 1 and is_cover(pages[0]):
        skipped["covers"] = 1
        lines = [one for one in lines if one.page > 1]
    if "references" in skip:
        lines, skipped["references"] = without_references(lines)
    if not lines:
        raise UserError(f"{path}: holds nothing but a cover and references; set skip to keep them")
    spelling, look = Spelling([one.line.text for one in lines]), look_of(lines)
    made = [(block, spelling.joined(one.line.text for one in block.lines)) for block in blocks(lines)]
    title = title_of(made, look)
    paragraphs, left_out = paragraphs_of(made, look, title, spelling)
    left_out["heads"] = heads
    return Paper(
        path,
        title or " ".join(named.split()) or name_of(path),
        page_texts(made, pages, spelling),
        paragraphs,
        skipped,
        left_out,
    )


def is_cover(page: Page) -> bool:
    text = " ".join(line.text for line in page.lines)
    return len(set(COVER.findall(text.lower()))) > 1 and count_words(text) <= COVER_WORDS


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
    height = letters.most_common(1)[0][0]
    feet: dict[tuple, float] = {}
    for line, *column in lines:
        if SMALLER * height <= line.height <= LARGER * height:
            feet[tuple(column)] = min(line.bottom, feet.get(tuple(column), line.bottom))
    return Look(height, BOLDER * median(one.line.weight for one in lines), feet)


def title_of(made: Sequence[tuple[Block, str]], look: Look) -> str:
    """The largest text of the first page, if it is larger than others, else ""."""
    ratios = {text: look.ratio(block) for block, text in made if block.page == made[0][0].page}
    largest = max(ratios.values())
    return " ".join(text for text, ratio in ratios.items() if ratio * LARGER > largest > LARGER)


def paragraphs_of(
    made: Sequence[tuple[Block, str]], look: Look, title: str, spelling: Spelling
) -> tuple[list[Paragraph], Counter[str]]:
    """Paragraphs in reading order, and counts of what is none. One may go on behind a figure or a note."""
    found: list[Block] = []
    left_out: Counter[str] = Counter()
    for block, text in made:
        kind = "titles" if text in title else kind_of(block, text, look)
        # Of the last two: one may be a note to a table.
        unended = [one for one in found[-2:] if not ended(one.lines[-1].line.text)]
        of_text = kind in ("paragraphs", "fragments") and abs(look.ratio(block) - 1) < LARGER - 1
        if unended and of_text and text[0].islower():
            unended[-1].lines.extend(block.lines)
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
    ratio, count, first = look.ratio(block), count_words(text), block.lines[0]
    stands_out = ratio > LARGER or first.line.weight > look.bold
    caption = CAPTION.match(text)
    if caption and (caption[2] is not None or stands_out or ratio < SMALLER):
        return "captions"
    if sum(map(len, SPELT.findall(text))) < PROSE * len("".join(text.split())):
        return "formulas"
    named = SECTION.match(text) and count < FEWEST_WORDS
    if not ended(text) and len(block.lines) < 4 and (stands_out or named):
        return "headings"
    if ratio < SMALLER and first.line.top <= look.feet.get(first[1:], 0):
        return "notes"
    return "paragraphs" if count >= FEWEST_WORDS and SENTENCE.search(text) else "fragments"


def page_texts(
    made: Sequence[tuple[Block, str]], pages: Sequence[Page], spelling: Spelling
) -> list[PageText]:
    """The text of each page that has some, its blocks apart by an empty line."""
    of_page: dict[int, list[str]] = {}
    for block, _ in made:
        for number in sorted({one.page for one in block.lines}):
            own = [one.line.text for one in block.lines if one.page == number]
            of_page.setdefault(number, []).append(spelling.joined(own))
    return [
        PageText(number, "\n\n".join(texts), pages[number - 1].unknown)
        for number, texts in sorted(of_page.items())
    ]
