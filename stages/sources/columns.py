"""A guess at which files and columns of a folder are what: knobs of `corpus` for `make new` to write down.

By the names of columns first, in English and German, then by what they hold.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from stages.sources.data_files import READERS, data_files, rows_of

ROWS = 10_000  # that are looked at
FEW = 1000  # documents, of which the usual shares hold out next to none
MOST_SKIPPED = 0.2  # more rows without text are no slip but the wrong column
# Names of columns, lower-case and without spaces, - and _.
OF = "(product|produkt|article|artikel|item|document|doc|)"
ID = f"{OF}(id|nr|number|nummer)|sku|asin|url"
TITLE = f"{OF}(title|titel|name|headline|heading|subject|bezeichnung)"
TEXT = f"{OF}(text|description|beschreibung|body|content|inhalt|abstract|html)"
QUERY = "query|queries|question|frage|search.*|such.*|anfrage|keywords?|q|text"
QUERY_FILE = re.compile(r"quer|question|search|frage|such", re.IGNORECASE)

DEFAULTS = {
    "id_field": "id",
    "title_field": "title",
    "text_field": "text",
    "query_field": "query",
    "document_field": "document_id",
}

Columns = dict[str, list[str]]  # the cells of a column, top to bottom; a list in a cell is several
Guesses = dict[str, tuple[str | float, str]]  # knob: (value, why)


def guess(folder: Path) -> Guesses:
    """The knobs of `corpus` that the files of `folder` need beside its path, as far as can be told.

    Raises UserError for a file that cannot be read.
    """
    knobs: Guesses = {}
    documents, queries = _choose(folder, knobs)
    count, columns = _columns(documents)
    names = _document_columns(columns)
    if "text_field" in names:
        empty = sum(not cell.strip() for cell in columns[names["text_field"][0]])
        if 0.01 < empty / count <= MOST_SKIPPED:
            knobs["skip_share"] = (
                math.ceil(100 * empty / count) / 100,
                f"{empty} of {count} rows have no text",
            )
    if 0 < count < FEW:
        knobs |= {"val_share": (0.1, "few documents"), "test_share": (0.2, "few documents")}
    _, asked = _columns(queries)
    ids = set(columns.get(names["id_field"][0], ())) if "id_field" in names else set()
    names |= _query_columns(asked, ids)
    return knobs | {knob: name for knob, name in names.items() if name[0] != DEFAULTS[knob]}


def _choose(folder: Path, knobs: Guesses) -> tuple[list[Path], list[Path]]:
    """The files of documents and those of queries; adds the knobs that name them."""
    files = [file for file in data_files(folder, "*") if file.suffix.lower() in READERS]
    chosen = {}
    for knob, others in (
        ("queries", [file for file in files if QUERY_FILE.search(file.stem)]),
        ("documents", [file for file in files if not QUERY_FILE.search(file.stem)]),
    ):
        chosen[knob] = [file for file in files if file.stem == knob]
        if not chosen[knob] and others:
            largest = max(others, key=lambda file: file.stat().st_size)
            chosen[knob], knobs[knob] = [largest], (largest.name, "the file that looks like it")
    return chosen["documents"], chosen["queries"]


def _columns(files: list[Path]) -> tuple[int, Columns]:
    """(how many, columns) of the first ROWS rows; only columns of texts or whole numbers."""
    rows = [row for _, row in islice(rows_of(files), ROWS)]
    columns: Columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row.get(name) for row in rows]
        flat = [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]
        if all(one is None or isinstance(one, str | int) for one in flat):
            columns[name] = ["" if one is None else str(one) for one in flat]
    return len(rows), columns


def _document_columns(columns: Columns) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    _add(found, "text_field", columns, TEXT, _letters, "the longest texts")
    _add(found, "title_field", columns, TITLE)
    _add(found, "id_field", columns, ID, _identifies, "short, and another in each row")
    _add(found, "title_field", columns, "", _titles, "short texts that differ")
    return found


def _query_columns(columns: Columns, ids: set[str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}

    def known(cells: Sequence[str]) -> float:
        share = sum(cell.strip() in ids for cell in cells) / max(1, len(cells))
        return share if share > 0.5 else 0

    _add(found, "document_field", columns, "", known, "holds ids of documents")
    _add(found, "document_field", columns, ID)
    _add(found, "query_field", columns, QUERY, _letters, "the longest texts")
    return found


def _add(
    found: dict[str, tuple[str, str]],
    knob: str,
    columns: Columns,
    pattern: str,
    score: Callable[[Sequence[str]], float] = lambda cells: 0,
    why: str = "",
) -> None:
    """Find the column for `knob` among those that no other knob has: by name, else that of the best score."""
    if knob in found:
        return
    taken = {name for name, _ in found.values()}
    free = {name: cells for name, cells in columns.items() if name not in taken}
    named = [name for name in free if re.fullmatch(pattern, re.sub(r"[\W_]", "", name).lower())]
    if named:
        usual = DEFAULTS[knob]
        found[knob] = (usual if usual in named else named[0], "by its name")
        return
    scores = {name: score(cells) for name, cells in free.items()}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is not None and scores[best] > 0:
        found[knob] = (best, why)


def _letters(cells: Sequence[str]) -> float:
    """The mean number of letters."""
    return sum(sum(map(str.isalpha, cell)) for cell in cells) / max(1, len(cells))


def _identifies(cells: Sequence[str]) -> bool:
    """Whether the cells could be ids."""
    return _short(cells, 40) and len(set(cells)) == len(cells) and all(map(str.strip, cells))


def _titles(cells: Sequence[str]) -> bool:
    return _short(cells, 120) and _letters(cells) > 4 and len(set(cells)) > 0.8 * len(cells)


def _short(cells: Iterable[str], length: int) -> bool:
    return max(map(len, cells), default=0) <= length
