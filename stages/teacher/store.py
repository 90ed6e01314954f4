"""The permanent store of teacher answers: one sqlite file for all datasets, append-only, never cleaned.

Every attempt is one row, written before its body is parsed: it is the answer and the ledger line in one.
Several processes may use the store at once. It must lie on a local disk (sqlite's WAL mode needs that).
"""

import errno
import fcntl
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stages.support.errors import UserError
from stages.support.files import iter_jsonl
from stages.teacher.outcomes import OUTCOMES, Answer, imported, read_answer

VERSION = 1
WAIT_S = 120
SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY,
    request_key TEXT NOT NULL,
    at TEXT NOT NULL,          -- UTC
    source TEXT NOT NULL,      -- base_url, or 'import'
    seconds REAL,
    status INTEGER,            -- of HTTP; null when no answer came
    error TEXT,                -- class of the failure; null when a body came
    raw TEXT                   -- the whole body as it came
);
CREATE INDEX IF NOT EXISTS answers ON attempts (request_key) WHERE raw IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON attempts
BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE VIEW IF NOT EXISTS ledger AS
SELECT id, request_key, at, source, seconds, status, error,
    CASE WHEN json_valid(raw) THEN json_extract(raw, '$.usage.prompt_tokens') END AS prompt_tokens,
    CASE WHEN json_valid(raw) THEN json_extract(raw, '$.usage.completion_tokens') END AS completion_tokens
FROM attempts WHERE source != 'import';
"""


@dataclass(frozen=True)
class Attempt:
    """One request sent once. `raw` is the body of a 200, else None."""

    request_key: str
    source: str
    seconds: float | None = None
    status: int | None = None
    error: str | None = None
    raw: str | None = None


class Store:
    """Append attempts, look answers up. `append` may run in another thread than the rest."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer, self.reader = self._open(), self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, check_same_thread=False)
        # Two processes that switch a new file to WAL together get "locked" at once, whatever the timeout.
        with open(self.path.with_name(self.path.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version > VERSION:
                    raise UserError(
                        f"{self.path}: written by a newer version of this project; update your checkout"
                    )
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")  # paid for: survives a power cut too
                if version < VERSION:
                    connection.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION};")
            except sqlite3.DatabaseError as error:
                raise UserError(
                    f"{self.path}: cannot be opened ({error}); if it is damaged, move it away: "
                    "it is filled again from responses.jsonl"
                ) from None
        return connection

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_) -> None:
        self.writer.close()
        self.reader.close()

    def append(self, attempts: Iterable[Attempt]) -> None:
        """Save all in one transaction; durable on return. Raises OSError (ENOSPC) when the disk is full."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = [(a.request_key, at, a.source, a.seconds, a.status, a.error, a.raw) for a in attempts]
        try:
            with self.writer:
                self.writer.executemany(
                    "INSERT INTO attempts (request_key, at, source, seconds, status, error, raw) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, "disk full", str(self.path)) from None
            raise

    def answer(self, request_key: str) -> Answer | None:
        """The answer to a request, or None. The first one counts, so an answer never changes."""
        query = "SELECT raw FROM attempts WHERE request_key = ? AND raw IS NOT NULL ORDER BY id"
        for (raw,) in self.reader.execute(query, (request_key,)):
            answer = read_answer(raw)
            if answer.outcome != "error":
                return answer
        return None

    def refill(self, responses: Path) -> int:
        """Take over answers of a `responses.jsonl` that the store lacks; returns how many."""
        fields = ("request_key", "outcome", "response", "usage", "model")
        known = set(OUTCOMES) - {"error"}
        new = {
            row["request_key"]: Attempt(row["request_key"], "import", raw=imported(row))
            for row in iter_jsonl(responses, fields)
            if row["outcome"] in known and self.answer(row["request_key"]) is None
        }
        self.append(new.values())
        return len(new)
