"""Training of a cross-encoder, which reads a query and a key together and gives one number.

Its groups are those of a retriever: the positive among its negatives (listwise cross entropy), or the
distribution of the teacher's scores over them (KL).
"""

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch.nn.functional import cross_entropy
from transformers.utils import logging

from stages.core.errors import UserError, reason
from stages.kinds.retriever.knobs import TrainRerankerKnobs, TrainRetrieverKnobs
from stages.kinds.retriever.parts.groups import Group
from stages.kinds.retriever.parts.losses import distilled
from stages.kinds.retriever.parts.rows import Row
from stages.kinds.retriever.parts.trainer import TaskRows, Training


def as_retriever(knobs: TrainRerankerKnobs) -> TrainRetrieverKnobs:
    """The same as knobs of a retriever, by which rows are chosen, groups drawn and batches cut."""
    kl = knobs.loss == "kl"
    return TrainRetrieverKnobs(
        **knobs.model_dump(include=set(TrainRetrieverKnobs.model_fields)),
        key_max_length=knobs.max_length,
        positive="teacher" if kl else "first",
        distill="kl" if kl else "none",
        contrastive_weight=float(not kl),
    )


def open_cross_encoder(knobs: TrainRerankerKnobs) -> CrossEncoder:
    """A cross-encoder from the base; its head is fresh where the base is a plain encoder.

    Raises UserError for a directory that cannot be one, and for pairs that are too long for it.
    """
    if not (Path(knobs.base) / "config.json").is_file():
        raise UserError(f"base: {knobs.base}: holds no config.json; expected the directory of an encoder")
    logging.disable_progress_bar()
    for chatty in ("transformers", "sentence_transformers"):  # they warn that the head is fresh
        logging.get_logger(chatty).setLevel(logging.ERROR)
    torch.manual_seed(knobs.seed)  # of a fresh head
    try:
        model = CrossEncoder(
            knobs.base, num_labels=1, max_length=knobs.max_length, local_files_only=True, device="cpu"
        )
        model.predict([("a text", "another")], show_progress_bar=False)
    except Exception as error:  # of many kinds, for files that could be anything
        raise UserError(f"base: {knobs.base!r} makes no cross-encoder ({reason(error)})") from None
    positions = getattr(model[0].config, "max_position_embeddings", None)
    if positions and knobs.max_length > positions:
        raise UserError(f"max_length: {knobs.max_length} is more than the {positions} tokens of {knobs.base}")
    # scores as they are: a sigmoid would press those of good keys together, and margins with them
    model.activation_fn = torch.nn.Identity()
    return model


class Reranking(Training):
    """A cross-encoder: a group's texts are its query with each key."""

    output = "scores"

    def numbers(self, task: TaskRows, rows: list[Row], groups: list[Group]) -> np.ndarray:
        drawn = zip(rows, groups, strict=True)
        pairs = [(row["query"], task.keys[key]) for row, group in drawn for key in group.keys]
        return np.reshape(self.texts.add(pairs, self.knobs.key_max_length), (len(rows), -1))

    def loss(self, task, outputs, teacher, masked) -> torch.Tensor:
        own = outputs.squeeze(-1)
        if self.knobs.distill == "kl":
            return distilled(own, teacher)
        return cross_entropy(own, torch.zeros(len(own), dtype=torch.long, device=own.device))
