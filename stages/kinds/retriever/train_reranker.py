"""Training of a reranker (cross-encoder) on the rows of one task or several.

Reads data/ROWS/scored/ and the encoder BASE, which gets a head of one number. Writes models/DATASET/reranker,
a directory of sentence-transformers' CrossEncoder. A killed run goes on where its last state was saved.
"""

from stages.kinds.retriever.knobs import TrainRerankerKnobs
from stages.kinds.retriever.parts.trainer import Reranking, as_retriever, train, untrained_reranker


def run(dataset: str, knobs: TrainRerankerKnobs) -> tuple[dict, dict]:
    model = untrained_reranker(knobs)
    _, figures, timings = train("reranker", dataset, model, Reranking, as_retriever(knobs))
    return figures, timings
