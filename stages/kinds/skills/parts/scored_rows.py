"""Scoring students on the rows of any file: requests with the calls that are right for them.

A file is a JSON array, JSON lines, or several of these with lines of other text between them. A row is
`{user, answer}`, `{input, output}` or `{input, target}`; what else it holds is not read.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.records import Document
from stages.core.stage import valid
from stages.core.strict_json import next_value, why_no_json
from stages.kinds.kind import Blocks
from stages.kinds.skills import places
from stages.kinds.skills.evaluate_calls import label
from stages.kinds.skills.knobs import EvaluateCallsKnobs
from stages.kinds.skills.parts.briefs import request_document
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.runs import STUDENTS, score_students, scored
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.scoring import by_skill, confusion

PAIRS = (("user", "answer"), ("input", "output"), ("input", "target"))
EXPECTED = " or ".join(f"{{{user}, {answer}}}" for user, answer in PAIRS)
BETWEEN = re.compile(r"[\s,]*")  # values
SHOWN = """normalised_match_macro normalised_match ast_match valid_call other_recall other_precision
    latency_ms_p50""".split()


class GoldRequest(NamedTuple):
    """`number` counts the rows of the file from 1; `gold` is the text of the call that is right."""

    number: int
    user: str
    gold: str


class RowsOfFile(NamedTuple):
    requests: list[GoldRequest]
    skipped_lines: list[int]  # numbers of those that are no JSON, from 1


TeacherOf = Callable[[list[Document]], list[dict]]  # requests → the teacher's answer to each


# Reading


def read_rows(path: Path) -> RowsOfFile:
    """Raises UserError with file, line or row, and field for broken JSON, what is no such row, and no row."""
    skipped: list[int] = []
    requests = [_request(path, number, value) for number, value in enumerate(_values(path, skipped), start=1)]
    if not requests:
        raise UserError(f"{path}: no row; expected {EXPECTED}, as a JSON array or one a line")
    return RowsOfFile(requests, skipped)


def _values(path: Path, skipped: list[int]) -> Iterator[object]:
    """The items of every array, and every object outside them; lines of other text go to `skipped`."""
    text, place = read_text(path), 0
    while place < len(text):
        end = text.find("\n", place) + 1 or len(text)
        start = end - len(text[place:end].lstrip())
        if start < end and text[start] not in "[{":
            skipped.append(_line(text, start))
        elif start < end:
            try:
                value, end = next_value(text, start)
            except (ValueError, RecursionError) as error:
                line = _line(text, getattr(error, "pos", start))
                raise UserError(f"{path}, line {line}: not valid JSON ({why_no_json(error)})") from None
            yield from value if isinstance(value, list) else [value]
            end = BETWEEN.match(text, end).end()
        place = end


def _line(text: str, place: int) -> int:
    """The number of the line, from 1, in which a place of the text lies."""
    return text.count("\n", 0, place) + 1


def _request(path: Path, number: int, value: object) -> GoldRequest:
    """The row `number` of the file. Raises UserError for what is none."""
    where = f"{path}, row {number}"
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected {EXPECTED}, found {type(value).__name__}")
    pair = next((pair for pair in PAIRS if pair[0] in value and pair[1] in value), None)
    if pair is None:
        raise UserError(f"{where}: expected {EXPECTED}; this row has {', '.join(value) or 'nothing'}")
    for field in pair:
        if not isinstance(value[field], str) or not value[field].strip():
            raise UserError(f"{where}: field '{field}' is no text: {value[field]!r}; expected some")
    user, gold = (value[field].strip() for field in pair)
    return GoldRequest(number, user, gold)


def obeying(requests: Iterable[GoldRequest], skills: Skills) -> tuple[list[GoldRequest], list[dict]]:
    """(requests with a call that obeys the schema, the others with what is wrong with theirs)."""
    valid: list[GoldRequest] = []
    left_out: list[dict] = []
    for row in requests:
        try:
            skills.checked(row.gold)
        except ValueError as error:
            left_out.append({"row": row.number, "user": row.user, "answer": row.gold, "problem": str(error)})
        else:
            valid.append(row)
    return valid, left_out


# Scoring


def evaluate_rows(
    dataset: str, file: Path, blocks: Blocks, systems: list[str] | None, ask: TeacherOf | None
) -> dict:
    """The scores of the systems (of runs.STUDENTS; None: all) and of the teacher, if it is to be asked.

    Raises UserError for rows or models that cannot be read.
    """
    names = list(STUDENTS) if systems is None else systems
    if unknown := [name for name in names if name not in STUDENTS]:
        expected = ", ".join(STUDENTS)
        raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {expected}")
    stage = "evaluate_calls"
    knobs = valid(EvaluateCallsKnobs, blocks[stage].get(dataset, {}), f"params.yaml, {stage}.{dataset}")
    skills, read = read_skills(places.skills(dataset)), read_rows(file)
    rows, left_out = obeying(read.requests, skills)
    if not rows:
        raise UserError(f"{file}: no row with a call of {dataset}; row 1: {left_out[0]['problem']}")
    documents = [request_document(row.user, skills, f"row {row.number}") for row in rows]
    gold = [row.gold for row in rows]
    scores = score_students(dataset, knobs, documents, gold, skills, names)
    if ask:
        scores["teacher"] = scored([label(row) for row in ask(documents)], gold, skills, knobs)
    return {
        "file": file.name,
        "rows": len(read.requests),
        "scored": len(rows),
        "left_out": left_out,
        "lines_skipped": len(read.skipped_lines),
        "systems": {
            name: own.measures
            | {"per_skill": by_skill(own.judged), "confusion": confusion(own.judged, skills)}
            for name, own in scores.items()
        },
        "predictions": [
            {"user": row.user, "gold": row.gold} | {name: own.texts[place] for name, own in scores.items()}
            for place, row in enumerate(rows)
        ],
    }


def table(scores: dict) -> str:
    """The means of SHOWN, a column for each system, and how many rows were scored."""
    lines = [f"{'':24}" + "".join(f"{system:>16}" for system in scores["systems"])]
    for measure in SHOWN:
        values = (figures[measure] for figures in scores["systems"].values())
        means = ("–" if value["mean"] is None else f"{value['mean']:.3f}" for value in values)
        lines.append(f"{measure:24}" + "".join(f"{mean:>16}" for mean in means))
    summary = f"{scores['scored']:,} of {scores['rows']:,} rows scored"
    if scores["left_out"]:
        first = scores["left_out"][0]
        summary += f"; row {first['row']} is the first left out: {first['problem']}"
    if scores["lines_skipped"]:
        summary += f"; {scores['lines_skipped']:,} lines are no JSON"
    return "\n".join([*lines, summary])
