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

import orjson

from stages.core.errors import UserError
from stages.core.files import not_utf8

BLOCK = 1 << 20  # characters of an array that are read at once
LONGEST_ROW = 1 << 26  # bytes: more without an end is not a row but a file of another kind
TSV_COLUMNS = ("docid", "url", "title", "body")  # of msmarco-docs.tsv, which has no header
BETWEEN = re.compile(r"[\s,]*")  # the elements of an array

Numbered = tuple[int, Any]


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file. A line ends at a line feed only. Raises UserError."""
    return (line for _, line in _checked(path, _lines(path)))


def records(path: Path) -> Iterator[tuple[int, dict]]:
    """(number of its row, object) for each object of a file, whose ending says how it is read.

    That is .jsonl, .tsv, or .json, which may hold JSON lines (as the XC repository's trn.json.gz) or one
    array (as SKIM's metadata.json). Raises UserError.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in READERS:
        raise UserError(
            f"{path}: cannot read this kind of file; save it as .jsonl, .json or .tsv, or with .gz"
        )
    for row, record in _checked(path, READERS[kind](path)):
        if type(record) is not dict:
            raise UserError(f"{path}, row {row}: expected an object with fields, found {str(record)[:40]!r}")
        yield row, record


def _checked(path: Path, rows: Iterator[Numbered]) -> Iterator[Numbered]:
    """`rows`; what their bytes cannot be read for becomes a UserError that names the row."""
    last: Numbered = (0, None)
    try:
        for last in rows:
            yield last
        return
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}, row {last[0] + 1}", error) from None
    except json.JSONDecodeError as error:
        why = f", row {last[0] + 1}: not valid JSON ({error.msg})"
    except EOFError:
        why = f", after row {last[0]}: the gzip file ends too early; copy or download it again"
    except (gzip.BadGzipFile, zlib.error) as error:
        why = f", after row {last[0]}: not valid gzip ({error})"
    raise UserError(f"{path}{why}")


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with _opened(path) as stream:
        for row, raw in enumerate(iter(partial(stream.readline, LONGEST_ROW), b""), start=1):
            if len(raw) == LONGEST_ROW:
                raise UserError(f"{path}, row {row}: no line break in {len(raw):,} bytes; is it text?")
            line = raw.decode("utf-8").removesuffix("\n")
            yield row, line.removeprefix("\ufeff") if row == 1 else line


def _json_lines(path: Path) -> Iterator[Numbered]:
    return ((row, orjson.loads(line)) for row, line in _lines(path))


def _json(path: Path) -> Iterator[Numbered]:
    with _opened(path) as stream:
        is_array = stream.read(BLOCK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    yield from (_array if is_array else _json_lines)(path)


def _array(path: Path) -> Iterator[Numbered]:
    """The elements of one array, without holding it: a decoder finds where each ends."""
    decoder, row = json.JSONDecoder(), 1
    with TextIOWrapper(_opened(path), "utf-8-sig", errors="surrogateescape") as stream:
        text = stream.read(BLOCK)
        place = text.find("[") + 1
        while not text.startswith("]", place := BETWEEN.match(text, place).end()):  # type: ignore[union-attr]  # matches nothing, too
            try:
                value, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError:
                more = stream.read(BLOCK)
                if place == len(text) and not more:
                    raise UserError(f"{path}, row {row}: the array has no end") from None
                if not more or len(text) - place > LONGEST_ROW:
                    raise
                text, place = text[place:] + more, 0
                continue
            try:
                orjson.dumps(value)
            except TypeError:  # Python's decoder lets both through, and no file could hold them again
                raise UserError(
                    f"{path}, row {row}: holds a byte that is not UTF-8, or half of a character (\\ud800 …); "
                    "remove it"
                ) from None
            yield row, value
            row += 1


def _tsv(path: Path) -> Iterator[tuple[int, dict]]:
    """Objects from tab-separated lines; a first line with `url`, `title` or `body` names the columns."""
    columns: tuple[str, ...] = TSV_COLUMNS
    for row, line in _lines(path):
        cells = tuple(line.rstrip("\r").split("\t"))
        if row == 1 and not {"url", "title", "body", "doc_body"}.isdisjoint(cells):
            columns = cells
        elif len(cells) == len(columns):
            yield row, dict(zip(columns, cells, strict=True))
        else:
            raise UserError(
                f"{path}, row {row}: {len(cells)} fields between tabs, expected {len(columns)} "
                f"({', '.join(columns)})"
            )


READERS = {".jsonl": _json_lines, ".json": _json, ".tsv": _tsv}
