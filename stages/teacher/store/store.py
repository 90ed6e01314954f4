"""The permanent store of teacher answers: one sqlite file for all datasets, append-only, never cleaned.

Every attempt is one row, written before its body is parsed: it is the answer and the ledger line in one, with
the price of the day, from which the `ledger` view counts tokens and dollars. Online requests and batches
share it. Several processes may use it at once. It must lie on a local disk (sqlite's WAL mode needs that).
"""

import errno
import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.hashing import canonical_json, sha256_json
from stages.core.records import KeyedRequest, RequestKeys
from stages.teacher.identity import limit_of, question_key
from stages.teacher.outcomes import OUTCOMES, imported, read_answers
from stages.teacher.store.costs import BILLED, cost_of, enter_costs
from stages.teacher.store.schema import MIGRATIONS, VERSION

WAIT_S = 120
FIELDS = "request_key at source seconds status error raw dataset mode request_id price".split()
REQUEST = ("model", "messages", "params", "sample", "tools", "response_format")
CHECKED = ("request_key", "at", "source", "dataset", "mode", "status", "error", "request_id", "price", "raw")


@dataclass(frozen=True)
class Attempt:
    """One request sent once. `raw` is the body of a 200, else None; `price` the JSON of its Price or None."""

    request_key: str
    source: str  # base_url, or 'import'
    seconds: float | None = None
    status: int | None = None  # of HTTP; None when no answer came
    error: str | None = None  # class of the failure; None when a body came
    raw: str | None = None
    dataset: str | None = None
    mode: str = "online"  # online, batch or import
    request_id: str | None = None
    price: str | None = None
    at: str | None = None  # UTC; None = now

    @cached_property
    def dollars(self) -> float | None:
        """What it cost; None where nobody knows."""
        return cost_of(**{name: getattr(self, name) for name in BILLED}).dollars


class Store:
    """Append attempts, and read what is stored. `append` may run in another thread than the rest."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer, self.reader = self.connect(), self.connect()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, check_same_thread=False, isolation_level=None)
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
                    connection.executescript("".join(("BEGIN IMMEDIATE;", *MIGRATIONS[version:])))
                    enter_costs(connection)
                    connection.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                connection.close()  # a traceback would keep it, and with it the lock of a failed migration
                raise UserError(
                    f"{self.path}: cannot be opened ({error}); if it is damaged, move it away: "
                    "it is filled again from responses.jsonl"
                ) from None
        return connection

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: Any) -> None:
        self.writer.close()
        self.reader.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The writing connection, in a new transaction; what it wrote is durable after the block.

        Raises OSError (ENOSPC) when the disk is full.
        """
        try:
            self.writer.execute("BEGIN IMMEDIATE")
            with self.writer:
                yield self.writer
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, "disk full", str(self.path)) from None
            raise

    def append(
        self,
        attempts: Iterable[Attempt],
        requests: Iterable[KeyedRequest] = (),
        keys: Iterable[RequestKeys] = (),
    ) -> None:
        """Save all in one transaction: attempts, and the requests, or only their keys, that they answer."""
        with self.transaction() as writer:
            insert_requests(writer, requests, keys)
            insert_attempts(writer, attempts)

    def bodies(self, request: KeyedRequest) -> list[str]:
        """The raw body of each stored answer to `request` itself, oldest first."""
        query = "SELECT raw FROM attempts WHERE request_key = ? AND raw IS NOT NULL ORDER BY id"
        return [raw for (raw,) in self.reader.execute(query, (request["request_key"],))]

    def other_limits(self, request: KeyedRequest) -> list[tuple[str, int | None]]:
        """(raw body, limit) of each answer to the same question under another limit on tokens."""
        query = (
            "SELECT raw, token_limit FROM requests JOIN attempts USING (request_key) "
            "WHERE question_key = ? AND request_key != ? AND raw IS NOT NULL ORDER BY attempts.id"
        )
        return self.reader.execute(query, (question_key(request), request["request_key"])).fetchall()

    def knows(self, key: str) -> int:
        """How many bodies are stored for a request key."""
        query = "SELECT count(*) FROM attempts WHERE request_key = ? AND raw IS NOT NULL"
        return self.reader.execute(query, (key,)).fetchone()[0]

    def _is_answered(self, key: str) -> bool:
        """Whether one of the bodies stored for a request key is a completion."""
        anything: KeyedRequest = {"request_key": key, "model": "", "messages": [], "params": {}}
        return any(read_answers(raw, anything) is not None for raw in self.bodies(anything))

    def spent(self, dataset: str) -> tuple[float, int]:
        """(dollars that `dataset` has spent as far as is known, number of its attempts of unknown cost)."""
        query = (
            "SELECT coalesce(sum(dollars), 0), count(*) - count(dollars) FROM ledger "
            "WHERE dataset = ? AND NOT foreign_spend"
        )
        return self.reader.execute(query, (dataset,)).fetchone()

    def refill(self, responses: Path) -> int:
        """Take over answers of a `responses.jsonl` that the store lacks; returns how many requests."""
        fields = ("request_key", "outcome", "response", "usage", "model")
        outcomes = set(OUTCOMES) - {"error"}
        new: dict[str, list[dict[str, Any]]] = {}
        for row in iter_jsonl(responses, fields):
            if row["outcome"] in outcomes and not self._is_answered(row["request_key"]):
                new.setdefault(row["request_key"], []).append(row)
        firsts = (rows[0] for rows in new.values())
        self.append(
            (Attempt(key, "import", raw=imported(rows), mode="import") for key, rows in new.items()),
            keys=(cast(RequestKeys, row) for row in firsts if "question_key" in row),
        )
        return len(new)


def insert_requests(
    writer: sqlite3.Connection, requests: Iterable[KeyedRequest], keys: Iterable[RequestKeys] = ()
) -> None:
    """Remember requests, and `keys` of which only that is known; those are filled in once it is more."""
    rows: list[tuple] = [
        (row["request_key"], row["question_key"], row["token_limit"], row["model"], None) for row in keys
    ]
    for request in requests:
        fields: Mapping[str, Any] = request
        content = canonical_json({name: fields[name] for name in REQUEST if fields.get(name) is not None})
        key, question = request["request_key"], question_key(request)
        rows.append((key, question, limit_of(request), request["model"], content))
    writer.executemany(
        "INSERT INTO requests (request_key, question_key, token_limit, model, request) "
        "VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (request_key) DO UPDATE SET request = excluded.request WHERE request IS NULL",
        rows,
    )


def insert_attempts(writer: sqlite3.Connection, attempts: Iterable[Attempt]) -> None:
    now, rows = utc_now(), []
    for attempt in attempts:
        row = {name: getattr(attempt, name) for name in FIELDS} | {"at": attempt.at or now}
        rows.append((*row.values(), checksum(row)))
    marks = ", ".join("?" * (len(FIELDS) + 1))
    writer.executemany(f"INSERT INTO attempts ({', '.join(FIELDS)}, checksum) VALUES ({marks})", rows)
    enter_costs(writer)


def utc_now() -> str:
    """The time as the store has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def checksum(attempt: Mapping[str, Any]) -> str:
    """sha256 of what an attempt is, by which damage is detected."""
    return sha256_json([attempt[name] for name in CHECKED])
