"""The permanent store of teacher answers: one sqlite file for all datasets, append-only, never cleaned.

Every attempt is one row, written before its body is parsed: it is the answer and the ledger line in one, with
the price of the day, from which the `ledger` view counts tokens and dollars. Online requests and batches
share it. Several processes may use it at once. It must lie on a local disk (sqlite's WAL mode needs that).
"""

import errno
import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.core.errors import UserError
from stages.core.files import atomic_path, iter_jsonl
from stages.core.hashing import canonical_json, sha256_json
from stages.core.records import KeyedRequest, RequestKeys
from stages.core.stage import explain
from stages.teacher.identity import limit_of, question_key
from stages.teacher.outcomes import Answer, answer_in, imported, read_answers
from stages.teacher.store.costs import BILLED, cost_of, enter_costs
from stages.teacher.store.schema import MIGRATIONS, VERSION

WAIT_S = 120
IMPORT = "import"  # the source of what was taken over
SHOWN = 10  # rows that a message names
ANSWER = ("response", "usage", "model")
FIX_ROWS = (
    "To fix it, put a backup of {path} in its place, or run `make store SALVAGE=1`: it copies the file and "
    "removes the damaged rows; `collect` takes what they held over from responses.jsonl, or asks again"
)
FIX_FILE = (
    "To fix it, put a backup of {path} in its place, or run `make store SALVAGE=1`: it copies what can be "
    "read to {path}.salvaged and says how to go on with that"
)
FIX_LOST = (
    "To fix it, put a backup of {path} in its place. Without one, move {path}* away: `collect` takes over "
    "the answers in responses.jsonl"
)
FIELDS = "request_key at source seconds status error raw dataset mode request_id price".split()
REQUEST = ("model", "messages", "params", "sample", "tools", "response_format")
ATTEMPT = (*FIELDS, "checksum")
COUNTS = "raw IS NOT NULL AND attempts.id NOT IN (SELECT attempt FROM disowned)"  # it may be an answer
CHECKED = ("request_key", "at", "source", "dataset", "mode", "status", "error", "request_id", "price", "raw")


class Damaged(UserError):
    """The file of a store is one that sqlite cannot read in full."""


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
        # Two processes that switch a new file to WAL together get "locked" at once, whatever the timeout.
        with open(self.path.with_name(self.path.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.path.is_file() and not self.path.stat().st_size:
                raise UserError(f"{self.path} is damaged: it has 0 bytes. {FIX_LOST.format(path=self.path)}")
            connection = None
            try:
                if not self.path.exists():  # renamed when it has its tables: a kill leaves no empty file
                    with atomic_path(self.path) as new, closing(sqlite3.connect(new)) as made:
                        made.executescript("".join(("BEGIN;", *MIGRATIONS, "COMMIT;")))
                connection = sqlite3.connect(
                    self.path, timeout=WAIT_S, check_same_thread=False, isolation_level=None
                )
                # What damage made of a text must be readable to fail its checksum.
                connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
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
                if connection:  # a traceback would keep it, and with it the lock of a failed migration
                    connection.close()
                if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
                    raise self._damaged(error) from None
                raise UserError(
                    f"{self.path}: cannot be opened ({error}); if it is damaged, move it away: "
                    "it is filled again from responses.jsonl"
                ) from None
        return connection

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file. Raises Damaged where sqlite found it damaged in the block.

        Of other failures of sqlite, such as a lock or a disk, `core.errors.message_about` tells.
        """
        self.writer.close()
        self.reader.close()
        if is_damage(error):
            raise self._damaged(error) from None

    def _damaged(self, error: BaseException | None) -> Damaged:
        return Damaged(f"{self.path} is damaged: {error}. {FIX_FILE.format(path=self.path)}")

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
        """The raw body of each stored answer to `request` itself, oldest first, but for those disowned.

        Raises UserError for one that is not as it was written, as do the next two.
        """
        return [attempt["raw"] for attempt in self._answering("request_key = ?", request["request_key"])]

    def answers(self, request: KeyedRequest) -> list[list[Answer] | None]:
        """What came of `request` in each of its `bodies`: None for one that is no completion."""
        return [
            _read(attempt, request) for attempt in self._answering("request_key = ?", request["request_key"])
        ]

    def other_limits(self, request: KeyedRequest) -> list[tuple[list[Answer] | None, int | None]]:
        """(answers, limit) of each body for the same question under another limit on tokens."""
        keys = question_key(request), request["request_key"]
        attempts = self._answering("question_key = ? AND request_key != ?", *keys)
        return [(_read(attempt, request), attempt["token_limit"]) for attempt in attempts]

    def _answering(self, where: str, *values: str) -> Iterator[dict[str, Any]]:
        """The attempts that brought a body, oldest first, each checked before it is used."""
        query = (
            f"SELECT attempts.id, {', '.join(ATTEMPT)}, token_limit FROM attempts "
            f"LEFT JOIN requests USING (request_key) WHERE {where} AND {COUNTS} ORDER BY attempts.id"
        )
        for row in self.reader.execute(query, values):
            attempt = dict(zip(("id", *ATTEMPT, "token_limit"), row, strict=True))
            if not is_sound(attempt):
                what = f"attempt {attempt['id']} fails its checksum, and is not used as an answer"
                raise UserError(f"{self.path} is damaged: {what}. {FIX_ROWS.format(path=self.path)}")
            yield attempt

    def knows(self, key: str) -> int:
        """How many bodies are stored for a request key, but for those that were disowned."""
        query = f"SELECT count(*) FROM attempts WHERE request_key = ? AND {COUNTS}"
        return self.reader.execute(query, (key,)).fetchone()[0]

    def disown(self, name: str) -> int:
        """Let answers count no longer, so that `collect` asks again; what they cost stays spent.

        `name` is the question_key of a row of `responses.jsonl`, for all answers to that question under any
        limit on tokens, its request_key, or the number of an attempt. Returns how many answers it names.
        """
        query = (
            f"SELECT attempts.id FROM attempts LEFT JOIN requests USING (request_key) WHERE {COUNTS} "
            "AND (question_key = ? OR request_key = ? OR attempts.id = ?)"
        )
        with self.transaction() as writer:
            ids = writer.execute(query, (name, name, name)).fetchall()
            writer.executemany("INSERT INTO disowned VALUES (?, ?)", ((id_, utc_now()) for (id_,) in ids))
        return len(ids)

    def _is_disowned(self, row: "_RowKeys") -> bool:
        """Whether an answer to the request, or to its question under another limit, was disowned."""
        query = (
            "SELECT 1 FROM disowned JOIN attempts ON attempt = attempts.id "
            "LEFT JOIN requests USING (request_key) WHERE request_key = ? OR question_key = ?"
        )
        return self.reader.execute(query, (row.request_key, row.question_key)).fetchone() is not None

    def _is_answered(self, key: str) -> bool:
        """Whether one of the bodies stored for a request key is a completion."""
        anything: KeyedRequest = {"request_key": key, "model": "", "messages": [], "params": {}}
        return any(answers is not None for answers in self.answers(anything))

    def spent(self, dataset: str) -> tuple[float, int]:
        """(dollars that `dataset` has spent as far as is known, number of its attempts of unknown cost)."""
        query = (
            "SELECT coalesce(sum(dollars), 0), count(*) - count(dollars) FROM ledger "
            "WHERE dataset = ? AND NOT foreign_spend"
        )
        return self.reader.execute(query, (dataset,)).fetchone()

    def refill(self, responses: Path) -> int:
        """Take over answers of a `responses.jsonl` that the store lacks; returns how many requests.

        Raises UserError, before anything is stored, where a row cannot be one that was written by `collect`.
        """
        new: dict[str, list[dict[str, Any]]] = {}
        problems: dict[int, str] = {}
        for number, row in enumerate(iter_jsonl(responses, ("request_key", "outcome", *ANSWER)), start=1):
            try:
                keys = _RowKeys.model_validate(row)
                outcome = answer_in(row).outcome
            except ValidationError as error:
                problems[number] = explain(error, f"{responses}, row {number}")[:300]
                continue
            key = keys.request_key
            # The very answer that was disowned may stand in the file.
            if outcome != "error" and not self._is_answered(key) and not self._is_disowned(keys):
                new.setdefault(key, []).append(row)
        if problems:
            rows = ", ".join(map(str, list(problems)[:SHOWN])) + (", …" if len(problems) > SHOWN else "")
            raise UserError(
                f"{next(iter(problems.values()))}. Rows that no `collect` wrote: {len(problems):,} ({rows}); "
                "nothing was taken over: restore the file, or delete it to ask for its answers again"
            )
        firsts = (rows[0] for rows in new.values())
        self.append(
            (Attempt(key, IMPORT, raw=imported(rows), mode="import") for key, rows in new.items()),
            keys=(cast(RequestKeys, {"token_limit": None, **row}) for row in firsts if "question_key" in row),
        )
        return len(new)


Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _RowKeys(BaseModel):
    """What a row of `responses.jsonl` says of its request, beside the answer."""

    model_config = ConfigDict(strict=True)
    request_key: Key
    question_key: Key = ""
    token_limit: int | None = Field(None, ge=0, lt=1 << 63)
    choice: int = Field(0, ge=0)


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


def is_damage(error: BaseException | None) -> bool:
    """Whether sqlite says by an error that its file is damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what makes it more precise
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def utc_now() -> str:
    """The time as the store has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def checksum(attempt: Mapping[str, Any]) -> str:
    """sha256 of what an attempt is, by which damage is detected."""
    return sha256_json([attempt[name] for name in CHECKED])


def is_sound(attempt: Mapping[str, Any]) -> bool:
    """Is an attempt as it was written? True for one from before checksums."""
    try:
        expected = checksum(attempt)
    except (TypeError, ValueError):  # a value of a kind that is never written, such as text that is not UTF-8
        return False
    return attempt["checksum"] in (expected, None)


def _read(attempt: Mapping[str, Any], request: KeyedRequest) -> list[Answer] | None:
    return read_answers(attempt["raw"], request, taken_over=attempt["source"] == IMPORT)
