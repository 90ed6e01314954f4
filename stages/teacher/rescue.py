"""Copy what can still be read of a store whose file is damaged, row by row, to a new one."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.teacher.audit import OPEN, has_its_keys
from stages.teacher.store.costs import enter_costs
from stages.teacher.store.store import FIX_LOST, WAIT_S, Store, is_sound

# `costs` is counted anew. A row that can be read may hold something else than was written.
TABLES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "requests": has_its_keys,
    "attempts": is_sound,
    "disowned": bool,
    "wallet": bool,
    "batch_events": bool,
    "batch_rows": bool,
}
COSTS = "costs"
LEAST = 64  # bytes of a row: each holds a name or a key


@dataclass
class Rescued:
    """What is in the file at `path`: rows by table, and of what was in the store before that is not there.

    `lost` attempts are those whose cost was entered; `broken` are the tables that could not be read in full;
    `batches` are open, and requests in them are lost.
    """

    path: Path
    rows: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    broken: set[str] = field(default_factory=set)
    batches: list[str] = field(default_factory=list)


def rescue(path: Path) -> Rescued:
    """Copy all sound rows of the store at `path`, of any version, to a new one beside it.

    Raises UserError where that file exists already, or where not even the names of the tables can be read.
    """
    rescued = Rescued(path.with_name(f"{path.name}.salvaged"))
    if rescued.path.exists():
        raise UserError(f"{rescued.path} exists: move it away, it is of an earlier SALVAGE")
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as old:
        old.execute("PRAGMA writable_schema = ON")  # else nothing is read of a file that was cut off
        try:
            old.execute("BEGIN")
            columns = {table: _columns(old, table) for table in (*TABLES, COSTS)}
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path} is damaged: {error}. {FIX_LOST.format(path=path)}") from None
        with Store(rescued.path) as new, new.transaction() as writer:
            _copy(old, columns, writer, rescued)
    rescued.path.with_name(f"{rescued.path.name}.lock").unlink()
    return rescued


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]


def _copy(
    old: sqlite3.Connection, columns: dict[str, list[str]], writer: sqlite3.Connection, rescued: Rescued
) -> None:
    for table, is_whole in TABLES.items():
        names = _columns(writer, table)
        readable = _readable(old, table, columns[table], rescued.broken)
        rows = ({**dict.fromkeys(names), **row} for row in readable)
        marks = ", ".join(f":{name}" for name in names)
        insert = f"INSERT OR IGNORE INTO {table} VALUES ({marks})"
        writer.executemany(insert, (row for row in rows if is_whole(row)))
        rescued.rows[table] = writer.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    writer.execute("DELETE FROM disowned WHERE attempt NOT IN (SELECT id FROM attempts)")
    enter_costs(writer)
    kept = {number for (number,) in writer.execute("SELECT id FROM attempts")}
    known = {row["attempt"] for row in _readable(old, COSTS, columns[COSTS], rescued.broken)}
    rescued.lost = len(known - kept)
    unknown = "request_key NOT IN (SELECT request_key FROM requests WHERE request IS NOT NULL)"
    query = f"SELECT DISTINCT batch FROM batch_rows WHERE {unknown} AND batch IN (SELECT name {OPEN})"
    rescued.batches = [name for (name,) in writer.execute(query)]


def _readable(
    connection: sqlite3.Connection, table: str, columns: list[str], broken: set[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a table, by column, in the order of their rowid, past all that sqlite cannot read.

    Only the tree of the table itself is read, none of an index. Where that breaks off, each rowid is tried as
    the next place to go on from, up to as many as the file has room for. The steps grow with what is skipped,
    so that at most a thousandth more is lost: one by one, the broken end of a file of 19 MB took 30 s.
    """
    file_size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    (size,) = connection.execute(file_size).fetchone()
    query = (
        f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT 1"
    )
    place = after = 0
    most = size // LEAST if columns else -1  # earlier versions had fewer tables
    while place <= most:
        try:  # a row at a time: sqlite3 loses the last one before the break of a longer result
            row = connection.execute(query, (place,)).fetchone()
        except sqlite3.DatabaseError:
            broken.add(table)
            place += 1 + (place - after) // 1000
            continue
        if row is None:
            return
        if row[0] <= most:  # else the number is damaged, too
            place = max(place, row[0])
        place = after = place + 1
        yield dict(zip(columns, row[1:], strict=True))
