"""PDFs that tests draw: texts at places of pages, in points from the left and the top."""

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from stages.core.errors import UserError

WIDTH, HEIGHT = 612, 792
LEFT, RIGHT = 60, 330  # of two columns
SIZE, LINE = 9, 12

Text = tuple[float, float, str, float]  # x, y, text, size


def draw(path: Path | str, pages: list[list[Text]], turned: int = 0) -> Path:
    """A PDF with these texts; `turned`: degrees."""
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(path) as pdf:
        for texts in pages:
            figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
            for x, y, text, size in texts:
                place = (x / WIDTH, 1 - y / HEIGHT)
                if turned:
                    place = (y / HEIGHT, x / WIDTH)
                figure.text(*place, text, size=size, va="baseline", rotation=turned)
            pdf.savefig(figure)
    return Path(path)


def lines(
    text: str, x: float, y: float, width: int = 44, indent: float = 0, size: float = SIZE
) -> list[Text]:
    """A text in lines of `width` characters from a place down; `|` is where it breaks, too."""
    wrapped = [line for part in text.split("|") for line in textwrap.wrap(part, width)]
    return [(x + (indent if n == 0 else 0), y + n * LINE, line, size) for n, line in enumerate(wrapped)]


def paragraph(number: int, words: int = 40) -> str:
    """Sentences that no other number has."""
    said = "the student reads what the teacher wrote about every page and learns to answer from it".split()
    text = " ".join(f"{said[n % len(said)]}" if n % 7 else f"topic{number}" for n in range(words))
    return f"Paragraph number {number} says that {text}."


def paper(path: Path | str, numbers: list[int], title: str = "A Paper Drawn for Tests") -> Path:
    """A paper of one page with these paragraphs."""
    texts: list[Text] = [(LEFT, 60, title, 16)]
    for place, number in enumerate(numbers):
        texts += lines(paragraph(number), LEFT, 110 + 80 * place, width=90, indent=12)
    return draw(path, [texts])


def read_here(read, files: list[Path]) -> list:
    """In place of `in_processes` of stages/sources/papers.py: new processes take seconds, this one none."""
    outcomes = []
    for file in files:
        try:
            outcomes.append(read(file))
        except UserError as error:
            outcomes.append(str(error))
    return outcomes
