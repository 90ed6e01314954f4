"""Training of a reranker (cross-encoder) on the rows of one task or several.

Reads data/ROWS/scored/ and the encoder BASE, which gets a head of one number. Writes models/DATASET/reranker,
a directory of sentence-transformers' CrossEncoder. A killed run goes on where its last state was saved.
"""

import shutil
import time

from stages.core import layout
from stages.core.files import atomic_directory
from stages.kinds.retriever import places
from stages.kinds.retriever.knobs import TrainRerankerKnobs
from stages.kinds.retriever.parts.cross_encoder import groups_of, open_cross_encoder, train
from stages.kinds.retriever.parts.trainer import chosen_tasks, fingerprint, read_tasks, task_figures
from stages.student.loop import losses_of, scratch


def run(dataset: str, knobs: TrainRerankerKnobs) -> tuple[dict, dict]:
    folder = places.scored(knobs.rows)
    names = chosen_tasks(folder, list(knobs.train))
    model = open_cross_encoder(knobs)
    mark = fingerprint(folder, knobs)
    tasks = read_tasks(folder, names, groups_of(knobs))
    work, started = scratch("train_reranker", dataset, mark), time.monotonic()
    state, figures, tokens = train(model, [tasks[name] for name in names], knobs, work)
    seconds = time.monotonic() - started
    with atomic_directory(layout.model(dataset, "reranker"), producer="train_reranker") as directory:
        model.cpu().save_pretrained(str(directory), create_model_card=False)
    shutil.rmtree(work, ignore_errors=True)
    metrics = {**figures, **losses_of(state.curve), "tasks": task_figures(tasks.values())}
    return metrics, {"tokens_per_second": round(tokens / seconds, 1)}
