"""Candidates and decisions as a CSV file for a spreadsheet, and back.

What a spreadsheet would run as a formula or turn into a number has an apostrophe before it, which reading
takes away (CSV injection: https://owasp.org/www-community/attacks/CSV_Injection).
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import BOM, write_text
from stages.core.tables import read_table
from stages.kinds.skills import places
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.review.decisions import (
    KINDS,
    Change,
    Conflict,
    decided,
    read_candidates,
    read_decisions,
    save_decisions,
)
from stages.kinds.skills.parts.rows import Candidate, Decision
from stages.kinds.skills.parts.schema import Skills

DECIDED = "decision new_user new_call".split()
COLUMNS = ["id", "skill", "variety", "origin", "notes", "user", "call", *DECIDED]
NEEDED = ["id", "user", "call", *DECIDED]
CLEAR = "clear"  # in the column `decision`: takes back what was decided
FORMULA = "=+\\-@＝＋－＠"
# What a spreadsheet takes for a formula or a number.
CHANGED = re.compile(rf"(?:[{FORMULA}\t\r]|[\d.,]+(?:[eE]\d+)?$)")
# Where a cell begins within a text for who opens the table with another separator than the comma: quotes that
# do not begin a cell then part nothing.
INNER = re.compile(rf"""([;|\t\r\n][\s"']*)(?=[{FORMULA}])""")
INNER_GUARDED = re.compile(rf"""([;|\t\r\n][\s"']*)'(?=[{FORMULA}])""")


def guarded(text: str) -> str:
    """The cell of a text, which no spreadsheet changes or runs."""
    text = INNER.sub(r"\1'", text)
    return f"'{text}" if CHANGED.match(text.lstrip("'")) else text


def unguarded(cell: str) -> str:
    """The text of a cell."""
    text = cell[1:] if cell.startswith("'") and CHANGED.match(cell.lstrip("'")) else cell
    return INNER_GUARDED.sub(r"\1", text)


def write_csv(path: Path, candidates: Iterable[Candidate], decisions: dict[str, Decision]) -> None:
    """Write a row for each candidate with its decision."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for row in candidates:
        decision = decisions.get(row["id"], {})
        decided_cells = {column: decision.get(column, "") for column in DECIDED}
        cells = {**row, "notes": "; ".join(row["notes"]), **decided_cells}
        writer.writerow([guarded(cells[column]) for column in COLUMNS])
    write_text(path, BOM + stream.getvalue())  # without the mark Excel does not read UTF-8


def read_csv(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(number in the spreadsheet, where the header is row 1; cells by column) of the rows of a table.

    Columns that are not ours are left out. Raises UserError for what is no table, or lacks a column.
    """
    names, rows = read_table(path, first=2)
    called = [name.lower() for name in names]
    missing = [name for name in NEEDED if called.count(name) != 1]
    if missing:
        raise UserError(f"{path}, row 1: expected one column '{missing[0]}'; export the table again")
    columns = {name: names[called.index(name)] for name in NEEDED}
    return [
        (number, {name: unguarded(cells[column].replace("\r\n", "\n")) for name, column in columns.items()})
        for number, cells in rows
    ]


def changes(
    path: Path, candidates: Iterable[Candidate], decisions: dict[str, Decision], skills: Skills
) -> tuple[list[Change], Counter[str]]:
    """(what a table changes in the decisions, how many of its rows are new, changed, cleared or as before).

    An empty decision says nothing: only `clear` takes one back. Raises UserError with file, row and column
    for the first row that is not right: an id that is unknown or there twice, a user or call that is not the
    candidate's, a decision that is none, new texts without `edit`, a call that breaks the schema.
    """
    candidates_by_id = {row["id"]: row for row in candidates}
    changed: list[Change] = []
    counts: Counter[str] = Counter()
    first_rows: dict[str, int] = {}  # the number of the row in which an id first stood
    for number, row in read_csv(path):
        where = f"{path}, row {number}, column"
        candidate = candidates_by_id.get(row["id"].strip())
        if candidate is None:
            raise UserError(f"{where} id: no candidate is called {row['id']!r}; export the table again")
        first = first_rows.setdefault(candidate["id"], number)
        if first != number:
            raise UserError(f"{where} id: row {first} has the same id; delete one of the two")
        seen = decisions.get(candidate["id"])
        wanted = _wanted(row, candidate, seen, skills, where)
        if wanted == seen:
            counts["as before"] += 1
            continue
        counts["cleared" if wanted is None else "new" if seen is None else "changed"] += 1
        changed.append(Change(candidate["id"], wanted, seen))
    return changed, counts


def _wanted(
    row: dict[str, str], candidate: Candidate, seen: Decision | None, skills: Skills, where: str
) -> Decision | None:
    """The decision of a row, None to have none; `seen` where the row says nothing. Raises UserError."""
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
        return seen
    if kind == CLEAR:
        return None
    if kind == "edit" and not (row["new_user"].strip() or row["new_call"].strip()):
        raise UserError(f"{where} decision: an edit needs new_user or new_call, or both")
    user, call = row["new_user"].strip() or candidate["user"], row["new_call"].strip() or candidate["call"]
    try:
        return decided(candidate, kind, user, call, skills)
    except ValueError as error:
        raise UserError(f"{where} new_call: {call}: {error}") from None


def export_csv(dataset: str, target: Path) -> int:
    """Write the candidates of a dataset with their decisions; returns how many.

    Raises UserError for a target that is there already, and where there are no candidates.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder: name a file to write, such as {target}/{dataset}.csv")
    if target.exists():  # what was decided in it would be lost
        raise UserError(f"{target} is there already: import it and remove it, or name another file")
    candidates = read_candidates(dataset)
    write_csv(target, candidates, read_decisions(places.decisions(dataset)))
    return len(candidates)


def import_csv(dataset: str, source: Path) -> Counter[str]:
    """Save the decisions in a table, all or none; returns how many are new, changed, cleared or as before.

    Raises UserError for what `changes` refuses, and where others decided at the same time.
    """
    path, skills = places.decisions(dataset), read_skills(places.skills(dataset))
    changed, counts = changes(source, read_candidates(dataset), read_decisions(path), skills)
    try:
        save_decisions(path, changed)
    except Conflict as error:
        raise UserError(f"{path}: {error}; nothing was imported; import again") from None
    return counts
