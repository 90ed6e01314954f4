"""Candidates and decisions as a CSV file for a spreadsheet, and back.

A cell that a spreadsheet would run as a formula or turn into a number has an apostrophe before it, which
reading takes away (CSV injection: https://owasp.org/www-community/attacks/CSV_Injection).
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.kinds.skills.parts.review.decisions import KINDS, Change, decided
from stages.kinds.skills.parts.schema import Skills

COLUMNS = "id skill variety origin notes user call decision new_user new_call".split()
NEEDED = "id user call decision new_user new_call".split()
CLEAR = "clear"  # in the column `decision`: takes back what was decided
BOM = "\ufeff"  # without it Excel does not read UTF-8
# What a spreadsheet takes for a formula or a number.
CHANGED = re.compile(r"(?:[=+\-@\t\r＝＋－＠]|[\d.,]+(?:[eE]\d+)?$)")


def guarded(text: str) -> str:
    return f"'{text}" if CHANGED.match(text.lstrip("'")) else text


def unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and CHANGED.match(cell.lstrip("'")) else cell


def write_csv(path: Path, candidates: list[dict], decisions: dict[str, dict]) -> None:
    """Write a row for each candidate with its decision."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for row in candidates:
        own = decisions.get(row["id"], {})
        cells = {**row, "notes": "; ".join(row["notes"]), **{key: own.get(key, "") for key in COLUMNS[-3:]}}
        writer.writerow([guarded(cells[column]) for column in COLUMNS])
    write_text(path, BOM + stream.getvalue())


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(number in the spreadsheet, where the header is row 1; cells by column) of the rows of a table.

    Commas, semicolons and tabs can part the columns; columns that are not ours are left out. Raises
    UserError for what is not UTF-8, no table, or lacks a column.
    """
    text = read_text(path).removeprefix(BOM)
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        names, *rows = list(reader) or [[]]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    names = [name.strip().lower() for name in names]
    if missing := [name for name in NEEDED if names.count(name) != 1]:
        raise UserError(f"{path}, row 1: expected one column '{missing[0]}'; export the table again")
    found = []
    for number, cells in enumerate(rows, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(names):
            raise UserError(f"{path}, row {number}: expected {len(names)} cells, found {len(cells)}")
        own = dict(zip(names, cells, strict=True))
        found.append((number, {name: unguarded(own[name].replace("\r\n", "\n")) for name in NEEDED}))
    return found


def changes(
    path: Path, candidates: Iterable[dict], decisions: dict[str, dict], skills: Skills
) -> tuple[list[Change], Counter]:
    """(what a table changes in the decisions, how many of its rows are new, changed, cleared or as before).

    An empty decision says nothing: only `clear` takes one back. Raises UserError with file, row and column
    for the first row that is not right: an id that is unknown or there twice, a user or call that is not the
    candidate's, a decision that is none, new texts without `edit`, a call that breaks the schema.
    """
    known = {row["id"]: row for row in candidates}
    found, counts, numbers = [], Counter(), {}
    for number, row in read_csv(path):
        where = f"{path}, row {number}, column"
        candidate = known.get(row["id"].strip())
        if candidate is None:
            raise UserError(f"{where} id: no candidate is called {row['id']!r}; export the table again")
        if (first := numbers.setdefault(candidate["id"], number)) != number:
            raise UserError(f"{where} id: row {first} has the same id; delete one of the two")
        wanted, seen = _wanted(row, candidate, decisions, skills, where), decisions.get(candidate["id"])
        if wanted == seen:
            counts["as before"] += 1
            continue
        counts["cleared" if wanted is None else "new" if seen is None else "changed"] += 1
        found.append(Change(candidate["id"], wanted, seen))
    return found, counts


def _wanted(row: dict, candidate: dict, decisions: dict, skills: Skills, where: str) -> dict | None:
    """The decision of a row, None to have none."""
    for column in ("user", "call"):
        if row[column] != candidate[column]:
            raise UserError(
                f"{where} {column}: expected {candidate[column]!r}, found {row[column]!r}; to change what a "
                f"candidate says, restore this cell and write decision edit and new_{column}"
            )
    kind = row["decision"].strip().lower()
    if kind not in (*KINDS, CLEAR, ""):
        raise UserError(
            f"{where} decision: expected accept, reject, edit, clear or nothing, found {row['decision']!r}"
        )
    for column in ("new_user", "new_call"):
        if row[column].strip() and kind != "edit":
            raise UserError(f"{where} {column}: only the decision edit has one; write edit or empty the cell")
    if kind == "":
        return decisions.get(candidate["id"])
    if kind == CLEAR:
        return None
    if kind == "edit" and not (row["new_user"].strip() or row["new_call"].strip()):
        raise UserError(f"{where} decision: an edit needs new_user or new_call, or both")
    user, call = row["new_user"].strip() or candidate["user"], row["new_call"].strip() or candidate["call"]
    try:
        return decided(candidate, kind, user, call, skills)
    except ValueError as error:
        raise UserError(f"{where} new_call: {call}: {error}") from None
