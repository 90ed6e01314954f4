"""Compare the systems' answers: with the reference, with their passages, and claim by claim.

Reads data/DATASET/passages/, data/DATASET/retrieved/, data/DATASET/answers.jsonl and answers_compared.jsonl.
Writes reports/DATASET/figures/rag.json ({system: {context: {measure: interval}}, differences: {...}}, and
`people` in the same shape for questions in people's wording) and rag_samples.json: answers side by side with
their passages, and failures by kind. Intervals are of 95%, by resampling the documents that questions are
about; differences are paired. docs/kinds/rag/measures.md defines the measures.
"""

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.evaluation.claims import STAND_IN, validated
from stages.kinds.rag import places
from stages.kinds.rag.knobs import EvaluateRagKnobs
from stages.kinds.rag.parts.rows import (
    HELD_OUT,
    read_all,
    read_found,
    read_passages,
    read_questions,
    texts_of,
)
from stages.kinds.rag.parts.scoring import QuestionSet, Scores, simple

PEOPLE = "people"


def run(dataset: str, knobs: EvaluateRagKnobs) -> dict:
    passages = read_passages(dataset)
    training, answers = read_questions(dataset, "train"), read_all(dataset)
    figures: dict[str, dict] = {}
    samples, told = {}, {}
    for split in HELD_OUT:
        questions = {row["id"]: row for row in read_questions(dataset, split)}
        own = [row for row in answers if row["split"] == split]
        if not own:
            continue
        path = places.passages(dataset) / f"{split}.jsonl"
        if unknown := [row["id"] for row in own if row["id"] not in questions]:
            raise UserError(f"{path}: has no question {unknown[0]!r}, which was answered; make `answer` anew")
        asked = QuestionSet(questions, read_found(dataset, split), passages)
        names = dict.fromkeys(row["id"] for row in own)
        scores = Scores(asked, [*own, *simple(asked, names, split, training)], knobs)
        if split == PEOPLE:
            figures[PEOPLE] = scores.figures()
        else:
            figures = scores.figures()
        samples[split] = {"rows": scores.samples(), "failures": scores.failures()}
        right = [(questions[name]["answer"], texts_of(passages, questions[name]["gold"])) for name in names]
        told[split] = {
            "questions": len(names),
            "recall_curve": scores.recall_curve(),
            "claims": {"by": STAND_IN, "told_from_right": validated(right)},
        }
    write_json(layout.figures(dataset) / "rag.json", figures)
    write_json(layout.figures(dataset) / "rag_samples.json", samples)
    return {"words": knobs.words, **told}
