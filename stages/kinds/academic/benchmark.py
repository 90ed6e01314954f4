"""Ask every model about papers: questions with the chunks found for them, and rows held out with their text.

Reads data/DATASET/chunks/, data/DATASET/litgpt/, prompts/DATASET/student.md, the models, and the retriever's
encoder and reranker. Chunks are retrieved once for all models: the base (`untrained`), its student
(`trained`), another one (`beside`), and, with `reference: endpoint`, a server. `first_words` stands for no
model: the beginning of the best chunk, of as many words as the answers of training. Writes
data/DATASET/benchmark.jsonl, and data/DATASET/benchmark_times.jsonl: how long some questions took alone.
"""

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_jsonl
from stages.core.messages import say
from stages.core.prompts import Template
from stages.core.tokenizer import TextCodec
from stages.engines.load import resolve
from stages.kinds.academic import places
from stages.kinds.academic.knobs import BenchmarkKnobs
from stages.kinds.academic.parts.answering import (
    REFERENCE,
    UNTRAINED,
    Model,
    first_words,
    held_out,
    models_of,
    read_chunks,
    read_questions,
    retrieved,
)


def run(dataset: str, knobs: BenchmarkKnobs) -> dict:
    models, chunks = models_of(knobs), read_chunks(dataset)
    cases = sorted(retrieved(read_questions(dataset), chunks, knobs), key=lambda case: case.order)
    given, too_long = held_out(dataset, TextCodec(models[UNTRAINED]), knobs)
    empty = [case.question["id"] for case in cases if not case.chunks and not case.question["context"]]
    if empty:
        say(f"benchmark {dataset}: no chunk was found for {len(empty)} questions, such as {empty[0]!r}")
    template, decoding = Template(layout.prompt(dataset, "student")), resolve(knobs)
    metrics: dict = {
        "questions": len(cases),
        "nothing_retrieved": len(empty),
        "held_out": len(given),
        "held_out_too_long": too_long,
        "models": {name: directory.as_posix() for name, directory in models.items()},
    }
    rows, times = first_words(dataset, cases), []
    for name, directory in models.items():
        model = Model(name, directory, template, knobs, decoding)
        answers, metrics[name] = model.answers([*cases, *given])
        rows += answers
        times += model.times(cases[: knobs.latency_questions])
    if knobs.reference == "endpoint":
        asked = decoding.model_copy(update={"engine": "openai", "prompt_as": "text"})
        model = Model(REFERENCE, models[UNTRAINED], template, knobs, asked)
        answers, metrics[REFERENCE] = model.answers(cases)
        rows += answers
    if not any(row["answer"] for row in rows if row["model"] in models):
        raise UserError(
            f"benchmark {dataset}: every answer of every model is empty; look at the loss in "
            f"{layout.figures(dataset) / 'curve.json'}, and at {layout.prompt(dataset, 'student')}"
        )
    write_jsonl(places.answers(dataset), sorted(rows, key=lambda row: (row["kind"], row["id"], row["model"])))
    write_jsonl(places.times(dataset), sorted(times, key=lambda row: (row["id"], row["model"])))
    return metrics
