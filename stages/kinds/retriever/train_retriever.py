"""Training of a retriever on the rows of one task or several.

Reads data/ROWS/scored/ and the encoder BASE. Writes models/DATASET/retriever/, a sentence-transformers
directory with the prompts of its tasks, and the losses in reports/DATASET/figures/retriever_curve.json. A
killed run goes on where its last state was saved, and ends bit-equal on a CPU to one that was not killed.
Several devices: set devices, or start `-m stages train_retriever` with torchrun or srun.
"""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json
from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts.trainer import Retrieving, train
from stages.retrieval.transformer import check_length, open_model

POOLING = {"cls": "cls", "mean": "mean", "last": "lasttoken"}


def run(dataset: str, knobs: TrainRetrieverKnobs) -> tuple[dict, dict]:
    curve, figures, timings = train("retriever", dataset, encoder(knobs), Retrieving, knobs)
    write_json(layout.figures(dataset) / "retriever_curve.json", curve)
    return figures, timings


def encoder(knobs: TrainRetrieverKnobs) -> SentenceTransformer:
    """The base, set up as the knobs say. Raises UserError for one that cannot be trained so."""
    model = open_model(knobs.base, "base")
    if not isinstance(model[0], Transformer) or model.tokenizer is None:
        raise UserError(f"base: {knobs.base}: its first part is no transformer with a tokenizer")
    longest = max(knobs.query_max_length, knobs.key_max_length)
    check_length(model, longest, "query_max_length, key_max_length", knobs.base)
    model.max_seq_length = max(longest, model.max_seq_length)
    model.tokenizer.truncation_side = knobs.truncation_side
    pooling = [part for part in model if isinstance(part, Pooling)]
    for part in pooling:
        part.include_prompt = True  # a step has texts with prompts of several lengths
    if knobs.pooling != "auto" and not pooling:
        raise UserError(f"pooling: {knobs.base} has no pooling layer to set to {knobs.pooling}; use auto")
    if knobs.pooling != "auto":
        pooling[0].pooling_mode = POOLING[knobs.pooling]
    dims = model.get_embedding_dimension()
    for knob, values in (("truncate_dim", [knobs.truncate_dim]), ("matryoshka", knobs.matryoshka)):
        if max(values, default=0) > dims:
            raise UserError(f"{knob}: {max(values)} is more than the {dims} dimensions of {knobs.base}")
    if any(dims < 1 for dims in knobs.matryoshka):
        raise UserError(f"matryoshka: dimensions have to be at least 1, found {min(knobs.matryoshka)}")
    return model
