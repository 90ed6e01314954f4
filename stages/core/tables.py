"""Tables as spreadsheets save them: CSV, its columns parted by commas, semicolons, tabs or bars."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import read_text

SEPARATORS = ",;\t|"
SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?(?:\r?\n|\r)')  # Excel's, before the header

Rows = Iterator[tuple[int, dict[str, str]]]
Mend = Callable[[list[str]], list[str]]


def read_table(path: Path, first: int = 1, mend: Mend | None = None) -> tuple[list[str], Rows]:
    """(the names of the columns, (number, cells by column) of each row below them).

    Rows count from `first`, those of empty cells too, which are left out; so are empty cells beyond the
    header. Raises UserError for what is not UTF-8, for two columns of one name, and with the number of the
    row for a quote that is not closed and for more or fewer cells than columns. `mend` makes as many cells as
    columns of a row that has more, where it is known how such rows came to be.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    text = read_text(path)
    told = SEPARATOR_LINE.match(text)
    text = text[told.end() :] if told else text
    separator = told[1] if told else separator_of(path, text)
    # Without `strict` a quote that is not closed makes one cell of all rows up to the next quote.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names = [name.strip() for name in _cells(reader, f"{path}, header") or ()]
    while names and not names[-1]:
        names.pop()
    check_names(path, names)
    return names, _rows(reader, path, names, first, mend)


def _rows(reader: Any, path: Path, names: list[str], first: int, mend: Mend | None) -> Rows:
    for number in count(first):
        where = f"{path}, row {number}"
        cells = _cells(reader, where)
        if cells is None:
            return
        if not any(map(str.strip, cells)):
            continue
        if not any(map(str.strip, cells[len(names) :])):
            cells = cells[: len(names)]
        elif mend:
            while not cells[-1].strip():
                cells.pop()
            cells = mend(cells)
        if len(cells) != len(names):
            fields = "more" if len(cells) > len(names) else "fewer"
            raise UserError(
                f"{where}: {fields} fields than the header, {len(cells)} for {len(names)}; quote texts that "
                f"hold {reader.dialect.delimiter!r}"
            )
        yield number, dict(zip(names, cells, strict=True))


def _cells(reader: Any, where: str) -> list[str] | None:
    """The next row; None after the last one."""
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(
            f"{where}: not valid CSV ({error}): a cell that begins with a quote must end with one, and a "
            'quote within it is written twice ("")'
        ) from None


def separator_of(path: Path, text: str) -> str:
    """What parts the columns of a table: of SEPARATORS that which makes most of its first line."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = io.StringIO(text, newline="").readline()
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), ())))


def check_names(path: Path, names: Sequence[str]) -> None:
    """Raise UserError for two columns of one name: one of them would be lost."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; rename or delete one")
