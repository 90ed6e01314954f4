"""Rows of text files of any size, in batches and in constant memory: lines, JSON lines, JSON arrays, TSV.

A name that ends in .gz is decompressed on the way. Rows count from 1. Errors (UserError) name file and row.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import orjson

from stages.core.errors import UserError
from stages.core.files import not_utf8

BOM = codecs.BOM_UTF8
BLOCK = 1 << 20  # bytes read at once; larger ones leave the cache and take twice the time
LONGEST_ROW = 1 << 26  # bytes: more without an end is not a row but a file of another kind
TSV_COLUMNS = ("docid", "url", "title", "body")  # of msmarco-docs.tsv, which has no header

Batch = tuple[int, list]
Stream = gzip.GzipFile | BufferedReader


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number of its first row, whole lines without the last line break)."""
    first, rest = 1, b""
    with _opened(path) as stream:
        while block := _read(stream, path, first):
            rest += block
            if b"\n" in block:
                head, _, rest = rest.rpartition(b"\n")
                yield first, head.removeprefix(BOM) if first == 1 else head
                first += head.count(b"\n") + 1
            if len(rest) > LONGEST_ROW:
                raise UserError(f"{path}, row {first}: no line break in {len(rest):,} bytes; is it text?")
    if rest:
        yield first, rest.removeprefix(BOM) if first == 1 else rest


def _opened(path: Path) -> Stream:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def _read(stream: Stream, path: Path, first: int) -> bytes:
    try:
        return stream.read(BLOCK)
    except EOFError:
        why = "the gzip file ends too early; copy or download it again"
    except (gzip.BadGzipFile, zlib.error) as error:
        why = f"not valid gzip ({error})"
    raise UserError(f"{path}, after row {first - 1}: {why}")


def lines(path: Path) -> Iterator[Batch]:
    """(number of the first row, lines) in batches. A line ends at a line feed only. Raises UserError."""
    for first, block in _blocks(path):
        try:
            yield first, block.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            row = first + block[: error.start].count(b"\n")
            raise not_utf8(f"{path}, row {row}", error) from None


def records(path: Path) -> Iterator[Batch]:
    """(number of the first row, objects) in batches, by the file's ending.

    That is .jsonl, .tsv, or .json, which may hold JSON lines (as the XC repository's trn.json.gz) or one
    array (as SKIM's metadata.json). Raises UserError.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind == ".tsv":
        return _tsv(path)
    if kind == ".jsonl":
        return _json_lines(path)
    if kind == ".json":
        return _json_array(path) if _is_array(path) else _json_lines(path)
    raise UserError(f"{path}: cannot read this kind of file; save it as .jsonl, .json or .tsv, or with .gz")


def _json_lines(path: Path) -> Iterator[Batch]:
    for first, block in _blocks(path):
        raw = block.split(b"\n")
        try:
            rows = [orjson.loads(line) for line in raw]
        except orjson.JSONDecodeError:
            raise _bad_line(path, first, raw) from None
        _check_objects(path, first, rows)
        yield first, rows


def _bad_line(path: Path, first: int, raw: list[bytes]) -> UserError:
    for row, line in enumerate(raw, start=first):
        try:
            line.decode("utf-8")
            orjson.loads(line)
        except UnicodeDecodeError as error:
            return not_utf8(f"{path}, row {row}", error)
        except orjson.JSONDecodeError as error:
            return UserError(f"{path}, row {row}: not valid JSON ({error.msg})")
    raise AssertionError("every line is valid alone")


def _check_objects(path: Path, first: int, rows: list) -> None:
    if {*map(type, rows)} <= {dict}:
        return
    row, value = next((n, row) for n, row in enumerate(rows, start=first) if not isinstance(row, dict))
    raise UserError(f"{path}, row {row}: expected an object with fields, found {str(value)[:40]!r}")


def _is_array(path: Path) -> bool:
    with _opened(path) as stream:
        return _read(stream, path, 1).removeprefix(BOM).lstrip()[:1] == b"["


def _json_array(path: Path) -> Iterator[Batch]:
    """The elements of one array, without holding it: a decoder finds where each ends."""
    decoder, row, problem = json.JSONDecoder(), 0, "the array has no end"
    with _opened(path) as stream:
        decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        text = _decoded(decode, _read(stream, path, 1), path, 0).lstrip()[1:]
        while True:
            values: list[Any] = []
            place = 0
            while (place := _next(text, place)) < len(text) and text[place] != "]":
                try:
                    value, place = decoder.raw_decode(text, place)
                except json.JSONDecodeError as error:
                    problem = f"not valid JSON: {error.msg}"
                    break
                values.append(value)
            if values:
                _check_objects(path, row + 1, values)
                _check_characters(path, row + 1, values)
                yield row + 1, values
            row, text = row + len(values), text[place:]
            if text.startswith("]"):
                return
            more = _decoded(decode, _read(stream, path, row + 1), path, row)
            if not more or len(text) > LONGEST_ROW:
                raise UserError(f"{path}, row {row + 1}: {problem if text else 'the array has no end'}")
            text += more


def _decoded(decode: Callable[..., str], block: bytes, path: Path, row: int) -> str:
    try:
        return decode(block, final=not block)
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}, after row {row}", error) from None


def _check_characters(path: Path, first: int, rows: list) -> None:
    """Python's decoder lets half of a surrogate pair through, which no file could hold again."""
    for row, value in enumerate(rows, start=first):
        try:
            orjson.dumps(value)
        except TypeError:
            raise UserError(f"{path}, row {row}: holds half of a character (\\ud800 …); remove it") from None


def _next(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def _tsv(path: Path) -> Iterator[Batch]:
    """Objects from tab-separated lines; a first line with `url`, `title` or `body` names the columns."""
    columns = TSV_COLUMNS
    for first, batch in lines(path):
        cells = [line.rstrip("\r").split("\t") for line in batch]
        if first == 1 and {"url", "title", "body", "doc_body"} & set(cells[0]):
            columns, cells, first = tuple(cells[0]), cells[1:], 2
        try:
            yield first, [dict(zip(columns, row, strict=True)) for row in cells]
        except ValueError:
            row, bad = next((n, row) for n, row in enumerate(cells, start=first) if len(row) != len(columns))
            raise UserError(
                f"{path}, row {row}: {len(bad)} fields between tabs, expected {len(columns)} "
                f"({', '.join(columns)})"
            ) from None
