"""Give the answers of a store to another one, as a file: export and import.

The file has requests and attempts, but no wallet and no batches: what an import brings was paid elsewhere.
Memory does not grow with the number of rows.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import atomic_path
from stages.teacher.audit.packing import COLUMNS, pack, unpack, wrong
from stages.teacher.audit.verify import (
    attempts_in,
    checksum_or_none,
    has_its_keys,
    is_sound,
    requests_in,
    snapshot,
)
from stages.teacher.identity import question_key
from stages.teacher.requests import Requests
from stages.teacher.resolve import Policy, follow_up, resolve
from stages.teacher.store.store import Store

SECRETS = r"(?<=//)[^/]*@|[?#].*"  # where an address may hold them
NOT_AS_STORED = "(checksum IS NULL OR source GLOB '*[?#@]*')"  # attempts that `_public` changes
ANY_FOLLOW_UP = Policy({"length": "retry"}, longer=2**63, repair=True)
UNFIT = (
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)  # sqlite cannot hold it


def export_store(
    store: Store, target: Path, requests: Requests | None = None, salvage: bool = False
) -> Counter[str]:
    """Write all that is stored, or what `requests` need; returns how many `request`, `attempt`, `left out`.

    What is damaged is left out with `salvage`; without, it is a UserError and nothing is written.
    """
    counts: Counter[str] = Counter()
    with snapshot(store) as connection, atomic_path(target) as temporary:
        where = "true" if requests is None else _needed(requests, store, connection)
        pack(temporary, _rows(connection, where, store.path, salvage, counts))
    return counts


def _rows(connection, where: str, path: Path, salvage: bool, counts: Counter) -> Iterator[tuple[str, dict]]:
    for kind, row, sound in _judged(connection, where):
        if sound:
            counts[kind] += 1
            yield kind, _public(row) if kind == "attempt" else row
        elif salvage:
            counts["left out"] += 1
        else:
            named = row.get("id", row["request_key"])
            raise UserError(
                f"{path}: {kind} {named} is damaged, nothing was written; `make store` tells more"
            )


def _judged(connection: sqlite3.Connection, where: str) -> Iterator[tuple[str, dict, bool]]:
    for request in requests_in(connection, where):
        yield "request", request, has_its_keys(request)
    for attempt in attempts_in(connection, where):
        yield "attempt", attempt, is_sound(attempt)


def _public(attempt: dict) -> dict:
    """The attempt as others may see it."""
    shown = {name: attempt[name] for name in COLUMNS["attempt"]}
    shown["source"] = re.sub(SECRETS, "", attempt["source"])
    return {**shown, "checksum": checksum_or_none(shown)}


def _needed(requests: Requests, store: Store, connection: sqlite3.Connection) -> str:
    """The condition for what `requests` need.

    That is what answers them, what answers the same questions under other limits on tokens, and what was
    asked because an answer failed.
    """
    connection.execute("CREATE TEMP TABLE needed (request_key TEXT PRIMARY KEY)")
    for row in requests:
        answer = resolve(row, store, Policy({})).answer
        follow = answer and follow_up(row, answer, ANY_FOLLOW_UP)
        for request in (row, follow) if follow else (row,):
            connection.execute(
                "INSERT OR IGNORE INTO temp.needed "
                "SELECT ? UNION SELECT request_key FROM requests WHERE question_key = ?",
                (request["request_key"], question_key(request)),
            )
    return "request_key IN (SELECT request_key FROM temp.needed)"


def import_store(store: Store, path: Path) -> Counter[str]:
    """Add what `path` has and the store lacks; returns how many `request`, `attempt`, `known` attempts.

    All is checked before anything is written, and waits in sqlite's temporary tables, so that other processes
    that write are held up by the last step only. Raises UserError with the line that is wrong.
    """
    with store.transaction("BEGIN") as writer, snapshot(store) as connection:
        _make_tables(writer)
        _stage(writer, path)
        _note_known(writer, connection)
    with store.transaction() as writer:
        return _add(writer)


def _make_tables(writer: sqlite3.Connection) -> None:
    for kind, names in COLUMNS.items():
        writer.execute(f"DROP TABLE IF EXISTS temp.new_{kind}")
        columns = ", ".join(names)
        writer.execute(f"CREATE TEMP TABLE new_{kind} AS SELECT {columns} FROM {kind}s WHERE false")
    writer.execute("CREATE UNIQUE INDEX temp.once ON new_attempt (checksum)")
    writer.execute("DROP TABLE IF EXISTS temp.known")
    writer.execute("CREATE TEMP TABLE known (checksum TEXT PRIMARY KEY)")


def _stage(writer: sqlite3.Connection, path: Path) -> None:
    queries = {
        kind: f"INSERT INTO temp.new_{kind} VALUES ({', '.join('?' * len(names))}) ON CONFLICT DO NOTHING"
        for kind, names in COLUMNS.items()
    }
    for kind, row, number in unpack(path):
        try:
            writer.execute(queries[kind], [row[name] for name in COLUMNS[kind]])
        except UNFIT as error:
            raise wrong(path, number, str(error)) from None


def _note_known(writer: sqlite3.Connection, connection: sqlite3.Connection) -> None:
    """The checksums under which an export of this very store has what is stored under another, or none."""
    public = ((_public(attempt)["checksum"],) for attempt in attempts_in(connection, NOT_AS_STORED))
    writer.executemany("INSERT OR IGNORE INTO temp.known VALUES (?)", public)


def _add(writer: sqlite3.Connection) -> Counter[str]:
    columns = {kind: ", ".join(names) for kind, names in COLUMNS.items()}
    requests = writer.execute(
        f"INSERT INTO requests ({columns['request']}) SELECT * FROM temp.new_request WHERE true "
        "ON CONFLICT (request_key) DO UPDATE SET request = excluded.request "
        "WHERE request IS NULL AND excluded.request IS NOT NULL"
    ).rowcount
    attempts = writer.execute(
        f"INSERT INTO attempts ({columns['attempt']}, foreign_spend) "
        "SELECT *, 1 FROM temp.new_attempt AS new "
        "WHERE NOT EXISTS (SELECT 1 FROM attempts WHERE checksum = new.checksum) "
        "AND NOT EXISTS (SELECT 1 FROM temp.known WHERE checksum = new.checksum) ORDER BY new.rowid"
    ).rowcount
    came = writer.execute("SELECT count(*) FROM temp.new_attempt").fetchone()[0]
    return Counter(request=requests, attempt=attempts, known=came - attempts)
