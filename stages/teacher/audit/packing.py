"""The file in which a store travels: gzip JSONL that tells when it is torn, changed or too new.

A header, a line for each request and each attempt, and an end with the sha256 of all lines before it. Equal
rows give equal bytes.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from stages.core.errors import UserError
from stages.core.hashing import canonical_json
from stages.teacher.audit.verify import ATTEMPT, REQUEST, checksum_or_none, has_its_keys

HEADER = {"format": "retort.store", "version": 1}
LEVEL = 5  # of gzip: 9 takes several times as long for a file that is hardly smaller
COLUMNS = {"request": REQUEST, "attempt": tuple(name for name in ATTEMPT if name != "foreign_spend")}
TEXT = ("request_key", "question_key", "at", "source", "checksum")  # never null


class Unfit(Exception):
    """What is wrong with a line."""


def pack(path: Path, rows: Iterable[tuple[str, dict]]) -> None:
    """Write rows, each with its kind: 'request' or 'attempt'."""
    digest = hashlib.sha256()
    with open(path, "wb") as stream, gzip.GzipFile("", "wb", LEVEL, stream, mtime=0) as packed:
        for row in chain([HEADER], ({kind: row} for kind, row in rows)):
            line = (canonical_json(row) + "\n").encode()
            digest.update(line)
            packed.write(line)
        packed.write((canonical_json({"end": digest.hexdigest()}) + "\n").encode())


def unpack(path: Path) -> Iterator[tuple[str, dict, int]]:
    """The rows with kind and line number, each checked. Raises UserError, also after the last row."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    number = 0
    try:
        with gzip.open(path, "rb") as stream:
            digest, kind = hashlib.sha256(), None
            for number, line in enumerate(stream, 1):
                kind, row = _read(line, kind, digest.hexdigest())
                digest.update(line)
                if kind in COLUMNS:
                    yield kind, row, number
        if kind != "end":
            raise Unfit("the end is missing, the file is torn")
    except Unfit as error:
        raise wrong(path, number, str(error)) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise wrong(path, number + 1, f"torn, or not written by gzip ({error})") from None


def wrong(path: Path, number: int, what: str) -> UserError:
    return UserError(
        f"{path}, line {number}: {what}. Nothing was imported; get the file from its source again"
    )


def _read(line: bytes, before: str | None, digest: str) -> tuple[str, dict]:
    """(kind, row) of a line; `before` is the kind of the line before, `digest` that of all before."""
    try:
        found = json.loads(line)
        ((kind, row),) = [("header", found)] if before is None else found.items()
    except (AttributeError, ValueError):
        raise Unfit("not a line of an export") from None
    if kind == "header":
        _check_header(row)
    elif kind in COLUMNS and before != "end":
        _check_row(kind, row)
    elif kind != "end" or before == "end" or row != digest:
        raise Unfit("lines before this one were added, lost or changed")
    return kind, row


def _check_header(row) -> None:
    if not isinstance(row, dict) or row.get("format") != HEADER["format"]:
        raise Unfit("not an export of a store; `make store EXPORT=file` writes one")
    if row.get("version") != HEADER["version"]:
        raise Unfit(
            f"the format has version {row.get('version')}, this checkout reads {HEADER['version']}; update it"
        )


def _check_row(kind: str, row) -> None:
    if not isinstance(row, dict) or set(row) != set(COLUMNS[kind]):
        raise Unfit(f"expected {kind} with {', '.join(COLUMNS[kind])}")
    if not all(isinstance(row[name], str) for name in TEXT if name in row):
        raise Unfit(f"expected text for {', '.join(name for name in TEXT if name in row)}")
    if kind == "request" and not has_its_keys(row):
        raise Unfit("the request was changed: it does not have its key")
    if kind == "attempt" and checksum_or_none(row) != row["checksum"]:
        raise Unfit("the attempt was changed: its checksum differs")
