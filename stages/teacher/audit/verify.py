"""Check a store against what was written to it, and take out what is damaged.

Every attempt has a checksum of its fields; every request has the key that its content hashes to.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.teacher.identity import key_of, limit_of, question_key
from stages.teacher.store.schema import NO_DELETE
from stages.teacher.store.store import ATTEMPT, FIX_FILE, FIX_ROWS, SHOWN, Store, is_damage, is_sound

REQUEST = ("request_key", "question_key", "token_limit", "model", "request")


@dataclass
class Damage:
    """What is not as it was written.

    `file`: what sqlite says about the file. `attempts`: id and request_key of each that fails its checksum.
    `requests`: the request_key of each that does not hash to it. `unchecked`: how many attempts are older
    than checksums, which is no damage by itself.
    """

    file: list[str] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    unchecked: int = 0

    def __bool__(self) -> bool:
        return bool(self.file or self.attempts or self.requests)

    def as_dict(self) -> dict:
        return asdict(self)

    def message(self, path: Path) -> str:
        """One line: the damage of the store at `path` and how to fix it."""
        attempts = [f"{bad['id']} (request {bad['request_key']})" for bad in self.attempts]
        lists = {
            "sqlite says": self.file,
            "attempts that fail their checksum": attempts,
            "requests that do not have their key": self.requests,
        }
        parts = [f"{what} ({len(names):,}): {_first(names)}" for what, names in lists.items() if names]
        fix = FIX_FILE if self.file else FIX_ROWS
        return f"{path} is damaged. {'. '.join(parts)}. {fix.format(path=path)}"


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", … (--json lists all)" if len(names) > SHOWN else "")


@contextmanager
def snapshot(store: Store) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment of the store, whoever writes meanwhile."""
    with closing(store.connect()) as connection:
        connection.execute("BEGIN")
        yield connection


def verify(connection: sqlite3.Connection) -> Damage:
    """The damage of the file, the attempts and the requests that a `snapshot` sees."""
    damage = Damage()
    try:
        lines = [line for (line,) in connection.execute("PRAGMA integrity_check")]
        damage.file = [] if lines == ["ok"] else lines
        for attempt in _rows(connection, "attempts", ("id", *ATTEMPT)):
            damage.unchecked += attempt["checksum"] is None
            if not is_sound(attempt):
                damage.attempts.append({name: attempt[name] for name in ("id", "request_key")})
        requests = _rows(connection, "requests", REQUEST)
        damage.requests = [row["request_key"] for row in requests if not has_its_keys(row)]
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        damage.file.append(str(error))
    return damage


def _rows(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of `table` as dicts of `columns`, in the order of the first of them."""
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]}"):
        yield dict(zip(columns, row, strict=True))


def has_its_keys(row: dict[str, Any]) -> bool:
    """Whether a request has the keys that stand beside it. True for one of which only the keys are known."""
    if row["request"] is None:
        return True
    try:
        request = json.loads(row["request"])
        expected = (key_of(request), question_key(request), limit_of(request), request["model"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return False
    return expected == tuple(row[name] for name in REQUEST[:4])


def remove(store: Store, damage: Damage) -> Path:
    """Remove damaged rows from the store in one transaction; other processes may go on using it.

    Returns the copy of the whole file that was written before, beside the store. What counts against caps
    stays. Raises UserError where the copy exists already, or where a damaged request waits in an open batch.
    """
    copy = store.path.with_name(f"{store.path.name}.damaged")
    # Bytes, because a damaged key may be text that sqlite does not take as a parameter.
    keys = [(key.encode("utf-8", "surrogateescape"),) for key in damage.requests]
    in_batches = (
        "SELECT batch FROM batch_rows JOIN batches ON name = batch WHERE state NOT IN ('collected', 'void') "
        "AND CAST(request_key AS BLOB) = ?"
    )
    for key in keys:
        if open_batch := store.reader.execute(in_batches, key).fetchone():
            raise UserError(
                f"{store.path}: a damaged request is in the open batch {open_batch[0]}; give that up first: "
                "`python -m stages collect DATASET --forget`"
            )
    if copy.exists():
        raise UserError(f"{copy} exists: move it away, it is the copy of an earlier SALVAGE")
    store.writer.execute("VACUUM INTO ?", (str(copy),))
    with store.transaction() as writer:
        writer.execute("DROP TRIGGER IF EXISTS no_delete")
        writer.executemany("DELETE FROM attempts WHERE id = ?", [(row["id"],) for row in damage.attempts])
        writer.executemany("DELETE FROM requests WHERE CAST(request_key AS BLOB) = ?", keys)
        writer.execute(NO_DELETE)
    return copy
