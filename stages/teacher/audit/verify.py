"""What in a store is no longer as it was written: found by checksums of attempts and by keys of requests."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field

from stages.core.errors import UserError
from stages.teacher.identity import key_of, limit_of, question_key
from stages.teacher.store.store import FIELDS, Store, checksum

ATTEMPT = (*FIELDS, "checksum")
REQUEST = ("request_key", "question_key", "token_limit", "model", "request")
SHOWN = 10
MEND = (
    "Mend: put a backup of {path} in its place. Without one: `make store EXPORT=rescued.jsonl.gz SALVAGE=1` "
    "writes all that is sound; move {path}* away; `make store IMPORT=rescued.jsonl.gz`. What was damaged is "
    "asked again, and caps count from zero"
)
MEND_FILE = (
    "Mend: put a backup of {path} in its place. Without one: move {path}* away and import your last export "
    "(`make store IMPORT=`); `sqlite3 {path} .recover` may bring back more. Answers in responses.jsonl are "
    "taken over by `collect`"
)


@dataclass
class Damage:
    """`file` is what sqlite says, `unchecked` counts attempts from before checksums: no damage by itself."""

    file: list[str] = field(default_factory=list)
    attempts: list[dict] = field(default_factory=list)  # id and request_key
    requests: list[str] = field(default_factory=list)  # request_key
    unchecked: int = 0

    def __bool__(self) -> bool:
        return bool(self.file or self.attempts or self.requests)

    def as_dict(self) -> dict:
        return asdict(self)

    def told(self, path) -> str:
        """The damage and how to mend it, in one line."""
        attempts = [f"{bad['id']} (request {bad['request_key']})" for bad in self.attempts[:SHOWN]]
        lists = {
            "sqlite says": (self.file[:SHOWN], self.file),
            "attempts that fail their checksum": (attempts, self.attempts),
            "requests that do not have their key": (self.requests[:SHOWN], self.requests),
        }
        found = [f"{what} ({len(of):,}): {_listed(some, of)}" for what, (some, of) in lists.items() if of]
        mend = MEND_FILE if self.file else MEND
        return f"{path} is damaged. {'. '.join(found)}. {mend.format(path=path)}"


def _listed(some: list[str], everything: list) -> str:
    return ", ".join(some) + (", … (--json lists all)" if len(everything) > SHOWN else "")


@contextmanager
def snapshot(store: Store) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment of the store, whoever writes, and reads text that is no UTF-8.

    Raises UserError where sqlite itself cannot read the file.
    """
    with closing(store.connect()) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            raise UserError(Damage([str(error)]).told(store.path)) from None


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def attempts_in(connection: sqlite3.Connection, where: str = "true") -> Iterator[dict]:
    """Attempts by id, each a dict with its `id` and the names in ATTEMPT."""
    names = ("id", *ATTEMPT)
    for row in connection.execute(f"SELECT {', '.join(names)} FROM attempts WHERE {where} ORDER BY id"):
        yield dict(zip(names, row, strict=True))


def requests_in(connection: sqlite3.Connection, where: str = "true") -> Iterator[dict]:
    """Requests by key, each a dict with the names in REQUEST; `request` is the text as stored, or None."""
    query = f"SELECT {', '.join(REQUEST)} FROM requests WHERE {where} ORDER BY request_key"
    for row in connection.execute(query):
        yield dict(zip(REQUEST, row, strict=True))


def checksum_or_none(attempt: dict) -> str | None:
    """None where a value is of a kind that was never written, such as text that is no UTF-8."""
    try:
        return checksum(attempt)
    except (TypeError, ValueError):
        return None


def is_sound(attempt: dict) -> bool:
    found = checksum_or_none(attempt)
    return found is not None and attempt["checksum"] in (found, None)


def has_its_keys(row: dict) -> bool:
    """Does the request, where more of it is known than its keys, have the keys that stand beside it?"""
    if row["request"] is None:
        return True
    try:
        request = json.loads(row["request"])
        expected = (key_of(request), question_key(request), limit_of(request), request["model"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return expected == tuple(row[name] for name in REQUEST[:4])


def verify(connection: sqlite3.Connection) -> Damage:
    """Check the file, every attempt and every request, as a `snapshot` sees them."""
    damage = Damage()
    try:
        told = [line for (line,) in connection.execute("PRAGMA integrity_check")]
        damage.file = [] if told == ["ok"] else told
        for attempt in attempts_in(connection):
            damage.unchecked += attempt["checksum"] is None
            if not is_sound(attempt):
                damage.attempts.append({name: attempt[name] for name in ("id", "request_key")})
        damage.requests = [row["request_key"] for row in requests_in(connection) if not has_its_keys(row)]
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        damage.file.append(str(error))
    return damage
