"""Rows to score from any file: requests with the calls that are right for them.

A file is a JSON array, JSON lines, or several of these with lines of other text between them. A row is
`{user, answer}`, `{input, output}` or `{input, target}`; what else it holds is not read.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import UserError
from stages.core.files import read_text, why_no_json
from stages.kinds.skills.parts.schema import Skills

PAIRS = (("user", "answer"), ("input", "output"), ("input", "target"))
BETWEEN = re.compile(r"[\s,]*")  # values
LONE = re.compile("[\ud800-\udfff]")  # surrogates: no encoding has them
EXPECTED = " or ".join(f"{{{user}, {answer}}}" for user, answer in PAIRS)


class Row(NamedTuple):
    """`number` counts the rows of the file from 1; `gold` is the text of the call that is right."""

    number: int
    user: str
    gold: str


class Rows(NamedTuple):
    rows: list[Row]
    skipped: list[int]  # lines that are no JSON


def read_rows(path: Path) -> Rows:
    """Raises UserError with file, line or row, and field for broken JSON, what is no such row, and no row."""
    path, skipped = Path(path), []
    found = [row_of(path, number, value) for number, value in enumerate(values(path, skipped), start=1)]
    if not found:
        raise UserError(f"{path}: no row; expected {EXPECTED}, as a JSON array or one a line")
    return Rows(found, skipped)


def values(path: Path, skipped: list[int]) -> Iterator[object]:
    """The items of every array, and every object outside them; lines of other text go to `skipped`."""
    text, decode, place = read_text(path).removeprefix("\ufeff"), json.JSONDecoder().raw_decode, 0
    while place < len(text):
        end = text.find("\n", place) + 1 or len(text)
        start = end - len(text[place:end].lstrip())
        if start < end and text[start] not in "[{":
            skipped.append(line_of(text, start))
        elif start < end:
            try:
                value, end = decode(text, start)
            except (ValueError, RecursionError) as error:
                line = line_of(text, getattr(error, "pos", start))
                raise UserError(f"{path}, line {line}: not valid JSON ({why_no_json(error)})") from None
            yield from value if isinstance(value, list) else [value]
            end = BETWEEN.match(text, end).end()
        place = end


def line_of(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def row_of(path: Path, number: int, value: object) -> Row:
    where = f"{path}, row {number}"
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected {EXPECTED}, found {type(value).__name__}")
    pair = next((pair for pair in PAIRS if pair[0] in value and pair[1] in value), None)
    if pair is None:
        raise UserError(f"{where}: expected {EXPECTED}; this row has {', '.join(value) or 'nothing'}")
    for field in pair:
        if not isinstance(value[field], str) or not value[field].strip():
            raise UserError(f"{where}: field '{field}' is no text: {value[field]!r}; expected some")
        if LONE.search(value[field]):
            raise UserError(f"{where}: field '{field}' has half a character: {value[field]!r}; mend it")
    user, gold = (value[field].strip() for field in pair)
    return Row(number, user, gold)


def judged(rows: Iterable[Row], skills: Skills) -> tuple[list[Row], list[dict]]:
    """(rows with a call that obeys the schema, the others with what is wrong with theirs)."""
    sound, left_out = [], []
    for row in rows:
        try:
            skills.checked(row.gold)
        except ValueError as error:
            left_out.append({"row": row.number, "user": row.user, "answer": row.gold, "problem": str(error)})
        else:
            sound.append(row)
    return sound, left_out
