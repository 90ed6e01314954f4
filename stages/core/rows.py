"""Rows of text files of any size, one at a time: lines, JSON lines, JSON arrays, TSV.

A name that ends in .gz is decompressed on the way. Rows count from 1. Errors (UserError) name file and row.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from functools import partial
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import BOM, not_utf8
from stages.core.strict_json import BLANKS, next_value, parse_json, why_no_json
from stages.core.tables import check_names

BLOCK = 1 << 20  # characters of an array that are read at once
LONGEST_ROW = 1 << 26  # bytes: more without an end is not a row but a file of another kind
TSV_COLUMNS = ("docid", "url", "title", "body")  # of msmarco-docs.tsv, which has no header
BETWEEN = re.compile(f"[{BLANKS}]*")
KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}

Numbered = tuple[int, Any]


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file. A line ends at a line feed only. Raises UserError."""
    return (line for _, line in _checked(path, _lines(path)))


def records(path: Path) -> Iterator[tuple[int, dict]]:
    """(number of its row, object) for each object of a file, whose ending says how it is read.

    That is .jsonl, .tsv, or .json, which may hold JSON lines (as the XC repository's trn.json.gz) or one
    array (as SKIM's metadata.json). Blank lines count, and are no rows. Raises UserError.
    """
    reader = READERS.get(ending(path).removesuffix(".gz"))
    if reader is None:
        raise UserError(
            f"{path}: cannot read this kind of file; save it as .jsonl, .json or .tsv, or with .gz"
        )
    for row, record in _checked(path, reader(path)):
        if type(record) is not dict:
            raise UserError(f"{path}, row {row}: expected an object with fields, found {kind_of(record)}")
        yield row, record


def ending(path: Path) -> str:
    """What the name of a file says about its kind, in small letters: `.csv`, `.jsonl.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix + (".gz" if name.endswith(".gz") else "")


def kind_of(value: object) -> str:
    """What a value is, in words for people."""
    return KINDS.get(type(value), type(value).__name__)


def as_text(value: object) -> str | None:
    """A text as it is, and a whole number in digits; None for what is neither.

    A float is such a number while it is exact: beyond, two ids may have become one.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _checked(path: Path, rows: Iterator[Numbered]) -> Iterator[Numbered]:
    """`rows`; what their bytes cannot be read for becomes a UserError that names the row."""
    last: Numbered = (0, None)
    try:
        for last in rows:
            yield last
        return
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}, row {last[0] + 1}", error) from None
    except EOFError:
        why = "the gzip file ends too early; copy or download it again"
    except (gzip.BadGzipFile, zlib.error) as error:
        why = f"not valid gzip ({error})"
    raise UserError(f"{path}, after row {last[0]}: {why}")


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with _opened(path) as stream:
        for row, raw in enumerate(iter(partial(stream.readline, LONGEST_ROW), b""), start=1):
            if len(raw) == LONGEST_ROW:
                raise UserError(f"{path}, row {row}: no line break in {len(raw):,} bytes; is it text?")
            line = raw.decode("utf-8").removesuffix("\n")
            yield row, line.removeprefix(BOM) if row == 1 else line


def _json_lines(path: Path) -> Iterator[Numbered]:
    for row, line in _lines(path):
        line = line.removeprefix(BOM)  # files that were joined have it amid their rows
        if line.strip(BLANKS):
            try:
                yield row, parse_json(line)
            except (ValueError, RecursionError) as error:
                raise _no_json(path, row, why_no_json(error)) from None


def _no_json(path: Path, row: int, why: str) -> UserError:
    return UserError(f"{path}, row {row}: not valid JSON ({why})")


def _json(path: Path) -> Iterator[Numbered]:
    with _opened(path) as stream:
        is_array = stream.read(BLOCK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    yield from (_array if is_array else _json_lines)(path)


def _array(path: Path) -> Iterator[Numbered]:
    """The elements of one array, without holding it: a decoder finds where each ends."""
    with TextIOWrapper(_opened(path), "utf-8-sig", errors="surrogateescape") as stream:
        text, place = _next(stream, "", 0)
        text, place = _next(stream, text, place + 1)
        row, goes_on = 0, not text.startswith("]", place)
        while goes_on:
            row += 1
            value, text, place = _element(path, row, stream, text, place)
            yield row, value
            text, place = _next(stream, text, place)
            if goes_on := text.startswith(",", place):
                text, place = _next(stream, text, place + 1)
        if place == len(text):
            raise UserError(f"{path}, row {row + 1}: the array has no end")
        if text[place] != "]":
            raise _no_json(path, row + 1, f"expected a comma or ] before {text[place]!r}")
        text, place = _next(stream, text, place + 1)
        if place < len(text):
            raise UserError(f"{path}, after row {row}: text after the end of the array; make it one array")


def _element(path: Path, row: int, stream: TextIOWrapper, text: str, place: int) -> tuple[Any, str, int]:
    """(an element that begins at a place of a text, the text, the place after it); reads on as it must."""
    while True:
        try:
            value, end = next_value(text, place)
            text[place:end].encode()
            return value, text, end
        except UnicodeEncodeError as error:
            byte = error.object[error.start].encode(errors="surrogateescape").hex()
            raise UserError(
                f"{path}, row {row}: holds a byte that is not UTF-8, 0x{byte}; save the file as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            size = len(text) - place
            may_be_cut = isinstance(error, json.JSONDecodeError) and size <= LONGEST_ROW
            more = stream.read(max(BLOCK, size)) if may_be_cut else ""
            if not more and not size:
                raise UserError(f"{path}, row {row}: the array has no end") from None
            if not more:
                raise _no_json(path, row, why_no_json(error)) from None
            text, place = text[place:] + more, 0


def _next(stream: TextIOWrapper, text: str, place: int) -> tuple[str, int]:
    """(a text, the place in it of the next character that is not blank); reads on where the text ends."""
    while (place := BETWEEN.match(text, place).end()) == len(text) and (more := stream.read(BLOCK)):  # type: ignore[union-attr]  # matches nothing, too
        text, place = more, 0
    return text, place


def _tsv(path: Path) -> Iterator[tuple[int, dict]]:
    """Objects from tab-separated lines; a first line with `url`, `title` or `body` names the columns."""
    columns: tuple[str, ...] = TSV_COLUMNS
    for row, line in _lines(path):
        cells = tuple(line.rstrip("\r").split("\t"))
        if row == 1 and not {"url", "title", "body", "doc_body"}.isdisjoint(cells):
            check_names(path, columns := cells)
        elif len(cells) == len(columns):
            yield row, dict(zip(columns, cells, strict=True))
        else:
            raise UserError(
                f"{path}, row {row}: {len(cells)} fields between tabs, expected {len(columns)} "
                f"({', '.join(columns)})"
            )


READERS = {".jsonl": _json_lines, ".json": _json, ".tsv": _tsv}
