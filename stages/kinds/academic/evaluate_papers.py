"""Compare models' answers about papers with the reference answers, and with published ones.

Reads data/DATASET/chunks/, data/DATASET/litgpt/test.json, data/DATASET/benchmark.jsonl and
benchmark_times.jsonl, the encoder, and the folder of published results. Writes
reports/DATASET/figures/academic.json: {model: {measure: interval}} of the benchmark's questions, with
`differences` of pairs of models; and in the same shape `held_out`, `pooled` (both together), and `published`,
by task, of results about other questions. Beside it academic_samples.json, answers side by side, and
reports/DATASET/answers/MODEL.csv. Intervals are of 95%. docs/kinds/academic/measures.md defines the measures.
"""

from itertools import chain

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, read_jsonl, write_json
from stages.core.messages import say
from stages.evaluation.people import one_spelling
from stages.kinds.academic import places
from stages.kinds.academic.knobs import EvaluatePapersKnobs
from stages.kinds.academic.parts.answering import (
    REFERENCE,
    TRAINED,
    held_out_question,
    read_chunks,
    read_questions,
    read_training,
    said,
)
from stages.kinds.academic.parts.published import PUBLISHED, REFERENCE_RESPONSE, read_published
from stages.kinds.academic.parts.rows import Answer
from stages.kinds.academic.parts.scoring import Scores, asked_of, pooled
from stages.kinds.academic.parts.tables import write_tables
from stages.retrieval.likeness import Likeness


def run(dataset: str, knobs: EvaluatePapersKnobs) -> dict:
    questions, chunks = read_questions(dataset), read_chunks(dataset)
    answers, given = read_answers(dataset, "benchmark"), read_answers(dataset, "held_out")
    timed = {
        (row["model"], row["id"]): row["milliseconds"] / 1000
        for row in iter_jsonl(places.times(dataset), ("id", "model", "milliseconds"))
    }
    seconds = {model: [s for (name, _), s in timed.items() if name == model] for model, _ in timed}
    if not any(row["model"] == REFERENCE for row in answers):
        texts = {row["id"]: row["extra"].get(REFERENCE_RESPONSE, "") for row in questions}
        answers += [said(REFERENCE, row, texts[row["id"]]) for row in questions if texts[row["id"]]]
    published, others = read_published(knobs.published), {}
    ids = {one_spelling(row["question"]): row["id"] for row in questions}
    for task, own in published.items():
        if own.questions.keys() == ids.keys():  # the benchmark's very questions: models of the same table
            for row in own.answers:
                if row["model"] != REFERENCE:
                    answers.append({**row, "id": ids[row["id"]]})
            seconds |= own.seconds
        else:
            others[task] = asked_of(own.questions.values(), own.answers, own.seconds)
    names = {row["id"] for row in given}
    rows = [held_out_question(row) for row in read_training(dataset, "test") if row["id"] in names]
    found = {
        "benchmark": asked_of(questions, answers, seconds),
        "held_out": asked_of(rows, given, {}),
        **others,
    }
    sets = {name: asked for name, (asked, _) in found.items() if asked.questions}
    if "held_out" in sets:
        sets["pooled"] = pooled(sets["benchmark"], sets["held_out"])
    lacking = {name: models for name, (_, models) in found.items() if models}
    for name, models in lacking.items():
        say(f"evaluate_papers {dataset}: left out of {name}, for want of some answers: {', '.join(models)}")
    likeness = Likeness(knobs.encoder, chain.from_iterable(asked.texts() for asked in sets.values()))
    scores = {name: Scores(asked, likeness, knobs) for name, asked in sets.items()}
    figures = {name: own.figures() for name, own in scores.items()}
    told = figures["benchmark"] | {name: figures[name] for name in ("held_out", "pooled") if name in figures}
    if others:
        told[PUBLISHED] = {task: figures[task] for task in others}
    write_json(layout.figures(dataset) / "academic.json", told)
    boxes = {name: own.boxes() for name, own in scores.items() if name != "pooled"}
    samples = {"boxes": boxes, "rows": scores["benchmark"].samples(chunks)}
    write_json(layout.figures(dataset) / "academic_samples.json", samples)
    write_tables(dataset, scores["benchmark"], chunks, timed)
    return {
        "sets": {name: own.told() for name, own in scores.items()},
        "lacking": lacking,
        "published": {task: own.told() for task, own in published.items()},
    }


def read_answers(dataset: str, kind: str) -> list[Answer]:
    """The answers of all models to questions of a kind. Raises UserError where the student gave none."""
    path = places.answers(dataset)
    answers = read_jsonl(path, tuple(Answer.__annotations__))
    own = [row["answer"].strip() for row in answers if row["model"] == TRAINED]
    if not any(own):
        raise UserError(
            f"{path}: {'every answer of the student is empty' if own else 'zero rows of the student'}, so "
            "nothing can be measured; look at the loss of `finetune`, and at what `convert` says of its rows"
        )
    return [row for row in answers if row["kind"] == kind]
