"""The teacher's answers, as the stages after `collect` read them: rows of `responses.jsonl`."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.records import Response
from stages.core.stage import explain
from stages.kinds.kind import Task

FIELDS = ("id", "accepted", "outcome", "response")


class _Row(BaseModel):
    """What the stages after `collect` read of a row."""

    model_config = ConfigDict(strict=True)
    id: str
    document_id: str = ""
    sample: int = 0
    choice: int = 0
    form: str = ""
    accepted: bool
    outcome: str
    response: str | None
    problem: str = ""
    model: str = ""


def read_responses(path: Path) -> Iterator[Response]:
    """The rows of a `responses.jsonl`. Raises UserError for one that no `collect` wrote."""
    for number, row in enumerate(iter_jsonl(path, FIELDS), start=1):
        try:
            _Row.model_validate(row)
        except ValidationError as error:
            told = explain(error, f"{path}, row {number}")[:300]
            raise UserError(f"{told}; run `collect` again") from None
        yield row


def document_of(row: Response) -> str:
    """The id of the document that was asked about."""
    return row.get("document_id", row["id"])


def is_first(row: Response) -> bool:
    """Is it the first of a document's answers? Only that one stands for the teacher on held-out pages."""
    return not row.get("sample") and not row.get("choice")


def first_answers(path: Path) -> tuple[dict[str, Response], Counter[str]]:
    """(the first answer about each document, by its id, how often each model answered)."""
    answers: dict[str, Response] = {}
    models: Counter[str] = Counter()
    for row in read_responses(path):
        models[row.get("model", "unknown")] += 1
        if is_first(row):
            answers[document_of(row)] = row
    return answers, models


def answer_of(row: Response, task: Task) -> Any:
    """What the task reads in an accepted answer. Raises ValueError where it is not in its form."""
    return task.parse_answer(row["response"] or "", row.get("form", "text"), row["outcome"] == "length")


def lines_of(row: Response, task: Task) -> list[str]:
    """The texts in an accepted answer; none in any other, or in one of no form that can be read."""
    try:
        return task.flat(answer_of(row, task)) if row["accepted"] else []
    except ValueError:
        return []
