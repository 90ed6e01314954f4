"""Scoring a dataset's models on the rows of any file with `question` and `answer`, and answers that it has.

Chunks are those of the dataset. Answers in the column `model_response` are those of a model called `given`,
and those in `gpt_response` the reference model's.
"""

from collections.abc import Callable
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.prompts import Template
from stages.core.stage import valid
from stages.engines.load import resolve
from stages.kinds.academic.knobs import BenchmarkKnobs, EvaluatePapersKnobs
from stages.kinds.academic.parts.answering import (
    FIRST_WORDS,
    REFERENCE,
    Model,
    first_words,
    models_of,
    read_chunks,
    retrieved,
    said,
)
from stages.kinds.academic.parts.published import REFERENCE_RESPONSE, RESPONSE
from stages.kinds.academic.parts.questions import read_questions
from stages.kinds.academic.parts.scoring import Scores, asked_of
from stages.kinds.kind import Blocks
from stages.retrieval.likeness import Likeness

GIVEN = "given"
SHOWN = ("f1", "rouge_l", "cosine", "cosine_calibrated", "stop_rate", "unanswerable_recall", "false_alarms")


def evaluate_rows(
    dataset: str, file: Path, blocks: Blocks, systems: list[str] | None, ask: Callable | None
) -> dict:
    """Figures as those of the benchmark in academic.json, of all models or of those named.

    Of `ask` there is no use: no model is a teacher. Raises UserError for a row that cannot be read.
    """
    where = f"params.yaml, benchmark.{dataset}"
    asking = valid(BenchmarkKnobs, blocks["benchmark"].get(dataset, {}), where)
    where = f"params.yaml, evaluate_papers.{dataset}"
    measuring = valid(EvaluatePapersKnobs, blocks["evaluate_papers"].get(dataset, {}), where)
    questions = read_questions(file)
    models = models_of(asking)
    answers = [
        said(model, row, row["extra"][column])
        for model, column in ((GIVEN, RESPONSE), (REFERENCE, REFERENCE_RESPONSE))
        for row in questions
        if row["extra"].get(column)
    ]
    known = dict.fromkeys([*models, FIRST_WORDS, *(row["model"] for row in answers)])
    chosen = list(known) if systems is None else systems
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {', '.join(known)}")
    cases = retrieved(questions, read_chunks(dataset), asking)
    answers += first_words(dataset, cases)
    for name in (name for name in models if name in chosen):
        model = Model(
            name, models[name], Template(layout.prompt(dataset, "student")), asking, resolve(asking)
        )
        answers += model.answers(cases)[0]
    asked, lacking = asked_of(questions, [row for row in answers if row["model"] in chosen], {})
    if lacking:
        name, count = next(iter(lacking.items()))
        raise UserError(
            f"{file}: {count} rows lack an answer of '{name}'; fill them in, or name other --systems"
        )
    return Scores(asked, Likeness(measuring.encoder, asked.texts()), measuring).figures()


def table(scores: dict) -> str:
    """The means of SHOWN, a line for each model."""
    lines = [f"{'':20}" + "".join(f"{measure:>21}" for measure in SHOWN)]
    for model, own in scores.items():
        if model != "differences":
            means = ("–" if own[measure] is None else f"{own[measure]['mean']:.3f}" for measure in SHOWN)
            lines.append(f"{model:20}" + "".join(f"{mean:>21}" for mean in means))
    return "\n".join(lines)
