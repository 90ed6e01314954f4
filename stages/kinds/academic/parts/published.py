"""Published results: `<task>_results_<model>.csv` in a folder, as the original of this kind writes them."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.kinds.academic.parts.answering import MODELS, REFERENCE, said
from stages.kinds.academic.parts.measures import says_not
from stages.kinds.academic.parts.rows import Answer, Question
from stages.retrieval.knobs import is_none
from stages.sources.data_files import data_files, rows_of

BETWEEN = "_results_"  # task and model in the name of a file
FIELDS, RESPONSE = ("question", "answer"), "model_response"
PUBLISHED = "published"
RESERVED = (*MODELS, "held_out", "pooled", "differences", PUBLISHED)  # keys of figures


class Results(NamedTuple):
    """What is published of a task. The id of a question is its text with single spaces.

    `seconds` and `cosines` are the columns inference_speed_seconds and cosine_similarity, by model.
    """

    questions: dict[str, Question]
    answers: list[Answer]
    seconds: dict[str, list[float]]
    cosines: dict[str, list[float]]

    def told(self) -> dict[str, dict]:
        """By model the number of its answers, and the mean of the cosines that were published of them."""
        models = dict.fromkeys(row["model"] for row in self.answers)
        return {
            model: {
                "answers": sum(row["model"] == model for row in self.answers),
                "cosine": round(float(np.mean(own)), 4) if (own := self.cosines.get(model)) else None,
            }
            for model in models
        }


def one_spaced(text: str) -> str:
    return " ".join(text.split())


def read_published(folder: str) -> dict[str, Results]:
    """What is published in a folder, by task; {} for one that stands for none.

    Raises UserError for a folder without such files, a model that is called as one of ours, and with file and
    row for a field that is missing, empty or no number, and for two rows of one question.
    """
    if is_none(folder, "published"):
        return {}
    found: dict[str, Results] = {}
    for file in data_files(Path(folder), f"*{BETWEEN}*.csv"):
        task, _, model = file.stem.partition(BETWEEN)
        if model in RESERVED:
            raise UserError(f"{file}: {model!r} has a meaning of its own in figures; rename the file")
        own = found.setdefault(task, Results({}, [], defaultdict(list), defaultdict(list)))
        add(own, file, model)
    if not found:
        raise UserError(
            f"{folder}: no published results; expected files called <task>{BETWEEN}<model>.csv with the "
            f"columns {', '.join((*FIELDS, RESPONSE))}, or models/shipped/none"
        )
    return found


def add(to: Results, file: Path, model: str) -> None:
    """Add the rows of a file, and the answers of the reference model, which is the same in all of a task."""
    seen = set()
    for where, row in rows_of([file]):
        question = question_of(row, where, one_spaced(str(row.get("question"))))
        answers = {model: field_of(row, RESPONSE, where)}
        if question["id"] in seen:
            raise UserError(f"{where}: the question {question['id'][:60]!r} is there twice; delete one row")
        seen.add(question["id"])
        if question["id"] not in to.questions and (reference := question["extra"]["gpt_response"]):
            answers[REFERENCE] = reference
        to.questions.setdefault(question["id"], question)
        to.answers.extend(said(name, question, text) for name, text in answers.items())
        for field, by_model in (("inference_speed_seconds", to.seconds), ("cosine_similarity", to.cosines)):
            if cell := row.get(field):
                by_model[model].append(number_of(cell, field, where))
    if not seen:
        raise UserError(f"{file}: zero rows")


def field_of(row: dict, field: str, where: str) -> str:
    """A text of a row. Raises UserError where there is none."""
    if isinstance(text := row.get(field), str):
        return text.strip()
    known = ", ".join(filter(None, row))
    raise UserError(f"{where}: field '{field}' is missing or no text; this row has {known}")


def question_of(row: dict, where: str, name: str) -> Question:
    """The question and its reference answer in a row of a file, under an id. Raises UserError."""
    for field in FIELDS:
        if not field_of(row, field, where):
            raise UserError(f"{where}: field '{field}' is empty; fill it in or delete the row")
    return Question(
        id=name,
        question=row["question"].strip(),
        answer=row["answer"].strip(),
        source=row.get("pdf_name") or "",
        answerable=not says_not(row["answer"]),
        context="",
        extra={"gpt_response": row.get("gpt_response") or ""},
    )


def number_of(cell: str, field: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{where}: field '{field}': expected a number, found {cell!r}") from None
