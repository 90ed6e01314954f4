"""What a store holds and what that cost; and a check of it against what was written, which can be mended.

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
from stages.teacher.batch.store import OPEN as OPEN_STATES
from stages.teacher.identity import key_of, limit_of, question_key
from stages.teacher.store.schema import NO_DELETE
from stages.teacher.store.store import ATTEMPT, FIX_FILE, FIX_ROWS, SHOWN, Store, is_damage, is_sound

CONTENTS = """
SELECT (SELECT user_version FROM pragma_user_version) AS schema_version,
    (SELECT count(*) FROM requests) AS requests, count(*) AS attempts, count(raw) AS answers,
    coalesce(sum(source = 'import'), 0) AS taken_over,  -- from responses.jsonl: in no ledger
    (SELECT count(*) FROM disowned) AS disowned,
    min(at) AS oldest, max(at) AS newest
FROM attempts
"""
SPEND = """
SELECT dataset, mode, foreign_spend AS imported, count(*) AS attempts, count(*) - count(error) AS answers,
    count(error) AS failures, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
    coalesce(sum(cached_tokens), 0) AS cached_tokens,
    coalesce(sum(completion_tokens), 0) AS completion_tokens,
    coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens, coalesce(sum(dollars), 0) AS dollars,
    count(*) - count(dollars) AS unknown_cost
FROM ledger GROUP BY 3, 1, 2 ORDER BY 3, 1, 2
"""
OPEN = f"FROM batches WHERE state IN {OPEN_STATES}"
WALLET = f"""
SELECT dataset, sum(dollars), coalesce(sum(dollars) FILTER (WHERE run IN (SELECT name {OPEN})), 0)
FROM wallet GROUP BY dataset ORDER BY dataset
"""
BATCHES = f"SELECT name AS batch, dataset, rows, state, intended_at {OPEN} ORDER BY intended_at, name"
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


# Figures


def account(connection: sqlite3.Connection) -> dict:
    """All figures, as a `snapshot` sees them. Dollars are known ones; a cost that is unknown is counted."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")  # of damaged text, too
    connection.row_factory = sqlite3.Row
    spend = [dict(row) for row in connection.execute(SPEND)]
    for line in spend:
        line |= {"imported": bool(line["imported"]), "dollars": _rounded(line["dollars"])}
    here, there = ([line for line in spend if line["imported"] == side] for side in (False, True))
    return {
        **dict(connection.execute(CONTENTS).fetchone()),
        "spend": spend,
        "spent_here": _total(here),
        "spent_elsewhere": _total(there),
        "caps": _caps(connection, here),
        "open_batches": [dict(row) for row in connection.execute(BATCHES)],
    }


def _total(lines: list[dict]) -> dict:
    dollars = _rounded(sum(line["dollars"] for line in lines))
    return {"dollars": dollars, "unknown_cost": sum(line["unknown_cost"] for line in lines)}


def _caps(connection: sqlite3.Connection, spend: list[dict]) -> list[dict]:
    """What each dataset's runs took from its cap, and how much of it neither answers nor batches explain."""
    caps = []
    for dataset, committed, in_batches in connection.execute(WALLET):
        known = sum(line["dollars"] for line in spend if line["dataset"] == dataset)
        figures = {"committed": committed, "in_batches": in_batches, "other": committed - in_batches - known}
        caps.append({"dataset": dataset, **{name: _rounded(value) for name, value in figures.items()}})
    return caps


def _rounded(dollars: float) -> float:
    return round(dollars, 6) + 0.0  # no -0.0
