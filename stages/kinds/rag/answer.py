"""Answer held-out questions from passages: the student, its base, and another student beside it.

Reads data/DATASET/passages/ and retrieved/, data/DATASET/litgpt/context.json (how prompts are made),
prompts/DATASET/student.md, the models, and the retriever's encoder and reranker. Each system answers from a
question's gold passages, and from those retrieved. Writes data/DATASET/answers.jsonl, what the student
answers from those retrieved, the first ones timed, and data/DATASET/answers_compared.jsonl, all else.
"""

from itertools import compress

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_jsonl
from stages.engines.load import resolve
from stages.kinds.rag import places
from stages.kinds.rag.knobs import AnswerKnobs
from stages.kinds.rag.parts.answering import TRAINED, held_out, models_of, retriever_of
from stages.kinds.rag.parts.context import knobs_of
from stages.kinds.rag.parts.rows import HELD_OUT, RETRIEVED, Answer, read_passages
from stages.kinds.rag.parts.systems import system_of


def run(dataset: str, knobs: AnswerKnobs) -> tuple[dict, dict]:
    models, passages = models_of(dataset, knobs), read_passages(dataset)
    retrieve = knobs_of(dataset).retrieve
    asked = held_out(dataset, passages, retrieve, knobs.limit)
    decoding = resolve(knobs)
    metrics: dict = {"questions": {split: sum(one.split == split for one in asked) for split in HELD_OUT}}
    metrics["nothing_retrieved"] = sum(not one.contexts[RETRIEVED] for one in asked)
    metrics["models"] = {name: directory.as_posix() for name, directory in models.items()}
    timings: dict = {}
    rows: list[Answer] = []
    for name, directory in models.items():
        system = system_of(dataset, name, directory, decoding)
        answers, metrics[name], timings[name] = system.answers(asked, passages)
        if name == TRAINED:
            if not any(row["answer"] for row in answers):
                raise UserError(
                    f"{directory}: all {len(answers)} answers are empty; look at the loss in "
                    f"{layout.figures(dataset) / 'curve.json'}; train longer, or with a lower lr"
                )
            times = {}
            if first := asked[: knobs.latency_questions]:
                retriever = retriever_of(dataset, passages, encoder=knobs.encoder, reranker=knobs.reranker)
                times = system.times(first, passages, retriever)
            for row in answers:
                if row["context"] == RETRIEVED:
                    row["retrieve_ms"], row["generate_ms"] = times.get(row["id"], (None, None))
        rows += answers
    rows.sort(key=lambda row: (row["id"], row["system"], row["context"]))
    own = [(row["system"], row["context"]) == (TRAINED, RETRIEVED) for row in rows]
    write_jsonl(places.answers(dataset), compress(rows, own))
    write_jsonl(places.compared(dataset), compress(rows, (not one for one in own)))
    return metrics, timings
