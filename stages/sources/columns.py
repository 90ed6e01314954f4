"""A guess at which files and columns of a folder are what: knobs of `corpus` for `make new` to write down.

By the names of columns first, in English and German, then by what they hold.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from stages.core.errors import UserError
from stages.core.rows import ending
from stages.sources.data_files import READERS, data_files, rows_of
from stages.sources.markup import holds_html, without_html

ROWS = 10_000  # that are looked at
FEW = 1000  # documents, of which the usual shares hold out next to none
USUALLY_SKIPPED, MOST_SKIPPED = 0.01, 0.2  # share of unusable rows: more are no slip but the wrong column
# Names of columns, lower-case and without spaces, - and _.
OF = "(product|produkt|article|artikel|item|document|doc|)"
ID = f"{OF}(id|nr|number|nummer)|sku|asin|url"
TITLE = f"{OF}(title|titel|name|headline|heading|subject|bezeichnung)"
TEXT = f"{OF}(text|description|beschreibung|body|content|inhalt|abstract|html)"
QUERY = "query|queries|question|frage|search.*|such.*|anfrage|keywords?|q|text"
TO_BE_SAVED_ANEW = (".xlsx", ".xls", ".ods", ".numbers", ".txt", ".xml")  # data, but not for this program
QUERY_FILE = re.compile(r"quer|question|search|frage|such", re.IGNORECASE)

DEFAULTS = {
    "id_field": "id",
    "title_field": "title",
    "text_field": "text",
    "query_field": "query",
    "document_field": "document_id",
}

QUERY_KNOBS = ("query_field", "document_field")

Columns = dict[str, list[str]]  # the cells of a column, top to bottom; a list in a cell is several
Names = dict[str, tuple[str, str]]  # knob: (the column that it names, why)
Guesses = dict[str, tuple[str | float, str]]  # knob: (value, why)


def guess(folder: Path) -> Guesses:
    """The knobs of `corpus` that the files of `folder` need beside its path, as far as can be told.

    Raises UserError with every file that cannot be read, and for queries that name no document.
    """
    knobs: Guesses = {}
    rows, asked_rows = _read(*_choose(folder, knobs))
    columns, asked = _columns(rows), _columns(asked_rows)
    names = _names(columns, asked)
    if asked and "document_field" not in names and len(rows) < ROWS:
        raise UserError(
            f"{folder}: no column of the queries ({', '.join(asked)}) says which document each is about; add "
            "one that holds ids of documents, or move the queries to another folder"
        )
    if 0 < len(rows) < FEW:
        knobs |= {"val_share": (0.1, "few documents"), "test_share": (0.2, "few documents")}
    if "text_field" in names:
        cells_of = {
            knob: (asked if knob in QUERY_KNOBS else columns)[name] for knob, (name, _) in names.items()
        }
        knobs |= _exceptions(rows, cells_of)
    return knobs | {knob: name for knob, name in names.items() if name[0] != DEFAULTS[knob]}


def _choose(folder: Path, knobs: Guesses) -> tuple[list[Path], list[Path]]:
    """The files of documents and those of queries; adds the knobs that name them."""
    files = [file for file in data_files(folder, "*") if ending(file) in (*READERS, *TO_BE_SAVED_ANEW)]
    chosen = {}
    for knob, others in (
        ("queries", [file for file in files if QUERY_FILE.search(file.stem)]),
        ("documents", [file for file in files if not QUERY_FILE.search(file.stem)]),
    ):
        chosen[knob] = data_files(folder, f"{knob}.*")
        if not chosen[knob] and others:
            readable = [file for file in others if ending(file) in READERS] or others
            first, *rest = sorted(readable, key=lambda file: file.stat().st_size, reverse=True)
            left = f"; not read: {', '.join(file.name for file in rest)}" if rest else ""
            chosen[knob], knobs[knob] = [first], (first.name, f"the file that looks like it{left}")
    return chosen["documents"], chosen["queries"]


def _read(*sources: list[Path]) -> list[list[dict]]:
    """The first ROWS rows of each source. Raises UserError with all that cannot be read."""
    rows, problems = [], []
    for files in sources:
        try:
            rows.append([row for _, row in islice(rows_of(files), ROWS)])
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return rows


def _columns(rows: list[dict]) -> Columns:
    """The columns of rows; only those of texts or whole numbers."""
    columns: Columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row.get(name) for row in rows]
        flat = [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]
        if all(one is None or isinstance(one, str | int) for one in flat):
            columns[name] = ["" if one is None else str(one).strip() for one in flat]
    return columns


def _exceptions(rows: list[dict], cells_of: Columns) -> Guesses:
    """The knobs for rows that `corpus` would refuse, or read with their tags; `cells_of` is keyed by knob."""
    knobs: Guesses = {}
    texts = cells_of["text_field"]
    if tagged := sum(map(holds_html, texts)):
        knobs["html"] = ("strip", f"{tagged} of {len(rows)} texts hold tags or entities")
        texts = [without_html(text) for text in texts]
    unusable = {"rows have no text": (texts.count(""), len(rows))}
    ids = cells_of.get("id_field", ())
    if len(ids) == len(texts) == len(rows) < ROWS:
        distinct = {(name, str(row)): name for name, row, text in zip(ids, rows, texts, strict=True) if text}
        known = set(distinct.values())
        if repeated := len(distinct) - len(known):
            knobs["repeated_id"] = ("parts", f"{repeated} rows repeat an id with other cells")
        about = cells_of.get("document_field", ())
        unusable["pairs are about no document"] = (sum(name not in known for name in about), len(about))
    few = {
        f"{count} of {total} {what}": count / total
        for what, (count, total) in unusable.items()
        if count and count <= MOST_SKIPPED * total
    }
    if few and max(few.values()) > USUALLY_SKIPPED:
        knobs["skip_share"] = (math.ceil(100 * max(few.values())) / 100, ", ".join(few))
    return knobs


def _names(columns: Columns, asked: Columns) -> Names:
    """Which column is what, of documents and of queries."""
    found: Names = {}
    _add(found, "text_field", columns, TEXT, _letters, "the longest texts")
    _add(found, "title_field", columns, TITLE)
    texts, _ = found.get("text_field", ("", ""))
    if key := _key({name: cells for name, cells in columns.items() if name != texts}, asked):
        found |= {
            "id_field": (key[0], "the queries name it"),
            "document_field": (key[1], "holds ids of documents"),
        }
    _add(found, "id_field", columns, ID, _identifies, "short, and another in each row")
    _add(found, "title_field", columns, "", _titles, "short texts that differ")
    about: Names = {"document_field": (key[1], "holds ids of documents")} if key else {}
    _add(about, "document_field", asked, ID)
    _add(about, "query_field", asked, QUERY, _letters, "the longest texts")
    return found | about


def _key(columns: Columns, asked: Columns) -> tuple[str, str] | None:
    """The columns of documents and of queries that hold the same, which then are ids; None for none."""
    keys = {}
    for name, cells in columns.items():
        ids = set(cells) - {""}
        if len(ids) > 0.8 * len(cells) or re.fullmatch(ID, _bare(name)):
            for other, named in asked.items():
                share = sum(cell in ids for cell in named) / max(1, len(named))
                # An `id` of queries is likely their own, which counts up as that of documents does.
                keys[name, other] = (share > 0.5, _bare(other) != "id", share, name == other)
    best = max(keys, key=lambda key: keys[key], default=None)
    return best if best and keys[best][0] else None


def _add(
    found: Names,
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
    named = [name for name in free if re.fullmatch(pattern, _bare(name))]
    if named:
        usual = DEFAULTS[knob]
        found[knob] = (usual if usual in named else named[0], "by its name")
        return
    scores = {name: score(cells) for name, cells in free.items()}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is not None and scores[best] > 0:
        found[knob] = (best, why)


def _bare(name: str) -> str:
    """The name of a column as the patterns have it."""
    return re.sub(r"[\W_]", "", name).lower()


def _letters(cells: Sequence[str]) -> float:
    """The mean number of letters."""
    return sum(sum(map(str.isalpha, cell)) for cell in cells) / max(1, len(cells))


def _identifies(cells: Sequence[str]) -> bool:
    """Whether the cells could be ids."""
    return _short(cells, 40) and len(set(cells)) == len(cells) and all(cells)


def _titles(cells: Sequence[str]) -> bool:
    return _short(cells, 120) and _letters(cells) > 4 and len(set(cells)) > 0.8 * len(cells)


def _short(cells: Iterable[str], length: int) -> bool:
    return max(map(len, cells), default=0) <= length
