"""Published results: `<task>_results_<model>.csv` in a folder, as the original of this kind writes them."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from stages.core.errors import UserError
from stages.evaluation.people import one_spelling
from stages.kinds.academic.parts.answering import MODELS, REFERENCE, said
from stages.kinds.academic.parts.questions import read_questions
from stages.kinds.academic.parts.rows import Answer, Question
from stages.retrieval.knobs import is_none
from stages.sources.data_files import data_files

BETWEEN = "_results_"  # task and model in the name of a file
RESPONSE, REFERENCE_RESPONSE = "model_response", "gpt_response"
SECONDS, COSINE = "inference_speed_seconds", "cosine_similarity"
PUBLISHED = "published"
RESERVED = (*MODELS, "held_out", "pooled", "differences", PUBLISHED)  # keys of figures


class Results(NamedTuple):
    """What is published of a task. The id of a question is its text as it is compared.

    `seconds` and `cosines` are the columns SECONDS and COSINE, by model.
    """

    questions: dict[str, Question]
    answers: list[Answer]
    seconds: dict[str, list[float]]
    cosines: dict[str, list[float]]

    def told(self) -> dict[str, float]:
        """By model the mean of the cosines that were published of it."""
        return {model: round(fmean(own), 4) for model, own in self.cosines.items()}


def read_published(folder: str) -> dict[str, Results]:
    """What is published in a folder, by task; {} for one that stands for none.

    Raises UserError for a folder without such files, a model that is called as one of ours, and rows that
    `read_questions` refuses, that have no answer of the model, or a cell that is no number.
    """
    if is_none(folder, PUBLISHED):
        return {}
    found: dict[str, Results] = {}
    for file in data_files(Path(folder), f"*{BETWEEN}*.csv"):
        task, _, model = file.stem.partition(BETWEEN)
        if model in RESERVED:
            raise UserError(f"{file}: {model!r} has a meaning of its own in figures; rename the file")
        add(found.setdefault(task, Results({}, [], defaultdict(list), defaultdict(list))), file, model)
    if not found:
        raise UserError(
            f"{folder}: no published results; expected files called <task>{BETWEEN}<model>.csv with the "
            f"columns question, answer, {RESPONSE}, or models/shipped/none"
        )
    return found


def add(to: Results, file: Path, model: str) -> None:
    """Add the rows of a file, and the answers of the reference model, which is the same in all of a task."""
    for row in read_questions(file):
        question: Question = {**row, "id": one_spelling(row["question"])}
        cells = row["extra"]
        if RESPONSE not in cells:
            known = ", ".join(("question", "answer", *cells))
            raise UserError(f"{file}: no column {RESPONSE!r}; there are {known}")
        to.answers.append(said(model, question, cells[RESPONSE]))
        if question["id"] not in to.questions and cells.get(REFERENCE_RESPONSE):
            to.answers.append(said(REFERENCE, question, cells[REFERENCE_RESPONSE]))
        to.questions.setdefault(question["id"], question)
        for column, by_model in ((SECONDS, to.seconds), (COSINE, to.cosines)):
            if cell := cells.get(column):
                try:
                    by_model[model].append(float(cell))
                except ValueError:
                    raise UserError(
                        f"{file}, {row['id']}: field '{column}': expected a number, found {cell!r}"
                    ) from None
