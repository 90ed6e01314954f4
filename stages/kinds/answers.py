"""The teacher's answers, as the stages after `collect` read them: rows of `responses.jsonl`."""

from typing import Any

from stages.core.records import Response
from stages.kinds.kind import Task


def document_of(row: Response) -> str:
    """The id of the document that was asked about."""
    return row.get("document_id", row["id"])


def is_first(row: Response) -> bool:
    """Is it the first of a document's answers? Only that one stands for the teacher on held-out pages."""
    return not row.get("sample") and not row.get("choice")


def answer_of(row: Response, task: Task) -> Any:
    """What the task reads in an accepted answer. Raises ValueError where it is not in its form."""
    return task.parse_answer(row["response"] or "", row.get("form", "text"), row["outcome"] == "length")


def lines_of(row: Response, task: Task) -> list[str]:
    """The texts in an accepted answer. Raises ValueError where it is not in the form that was asked for."""
    return task.flat(answer_of(row, task))
