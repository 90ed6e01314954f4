"""Training of a reranker (cross-encoder) on the rows of one task or several.

Reads data/ROWS/scored/ and the encoder BASE, which gets a head of one number. Writes models/DATASET/reranker,
a directory of sentence-transformers' CrossEncoder. A killed run goes on where its last state was saved.
"""

import shutil

from stages.core import layout
from stages.core.files import atomic_directory
from stages.kinds.retriever.knobs import TrainRerankerKnobs
from stages.kinds.retriever.parts.cross_encoder import Reranking, as_retriever, open_cross_encoder
from stages.kinds.retriever.parts.trainer import train


def run(dataset: str, knobs: TrainRerankerKnobs) -> tuple[dict, dict]:
    model = open_cross_encoder(knobs)
    trained = train("train_reranker", dataset, model, Reranking, as_retriever(knobs))
    with atomic_directory(layout.model(dataset, "reranker"), producer="train_reranker") as directory:
        model.cpu().save_pretrained(str(directory), create_model_card=False)
    shutil.rmtree(trained.work, ignore_errors=True)
    return trained.figures, trained.timings
