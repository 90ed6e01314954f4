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
from stages.kinds.retriever.parts.batches import Batches
from stages.kinds.retriever.parts.encoding import Encoding, Texts, places_in, prepare
from stages.kinds.retriever.parts.groups import draw
from stages.kinds.retriever.parts.losses import distilled
from stages.kinds.retriever.parts.rows import Row
from stages.kinds.retriever.parts.trainer import TaskRows, loop_over
from stages.student.fabric import make_fabric
from stages.student.loop import Loop, mean_loss
from stages.student.state import State


def groups_of(knobs: TrainRerankerKnobs) -> TrainRetrieverKnobs:
    """The knobs that say how groups are drawn and which losses there are."""
    kl = knobs.loss == "kl"
    return TrainRetrieverKnobs(
        **knobs.model_dump(include={"rows", "base", "group", "max_rows", "seed"}),
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


class Reranking:
    """What a step is: batches, groups, logits of pairs, loss."""

    def __init__(self, fabric, model: CrossEncoder, files: list[TaskRows], knobs: TrainRerankerKnobs):
        self.files, self.knobs = files, knobs
        self.size = knobs.batch_size * fabric.world_size
        self.texts = Texts(model)
        names, sizes = [file.name for file in files], [len(file.train) for file in files]
        self.batches = Batches(names, sizes, self.size, "epoch", "one_batch", knobs.seed)
        self.encoding = Encoding(fabric, model, self.texts, "scores", 1, sub_batch=0)

    def gradients(self, step: int) -> tuple[float, int]:
        epoch, batch = self.batches.at(step)
        task = self.files[batch.files[0]]
        pairs, scores = self._drawn(task, [task.train[row] for row in batch.rows], epoch)
        order = self.texts.by_length(pairs)
        loss = self.encoding.step(order, lambda logits: self._loss(logits, order, pairs, scores))
        return loss, self.texts.tokens(order)

    @torch.no_grad()
    def validate(self) -> float | None:
        """The mean loss of the validation rows' groups; None without rows."""
        losses = []
        for task in self.files:
            for start in range(0, len(task.val), self.size):
                pairs, scores = self._drawn(task, task.val[start : start + self.size], 0)
                order = self.texts.by_length(pairs)
                loss = self._loss(self.encoding.outputs(order), order, pairs, scores).item()
                losses.append((loss, len(pairs)))
        return mean_loss(losses)

    def _drawn(self, task: TaskRows, rows: list[Row], epoch: int) -> tuple[np.ndarray, list]:
        """Numbers of the pairs (B, N), and the teacher's scores of them."""
        groups = [draw(row, task.keys, task.knobs, epoch) for row in rows]
        texts = [
            (row["query"], task.keys[key])
            for row, group in zip(rows, groups, strict=True)
            for key in group.keys
        ]
        numbers = self.texts.add(texts, self.knobs.max_length)
        return np.array(numbers).reshape(len(rows), -1), [group.scores for group in groups]

    def _loss(self, logits, order, pairs, scores) -> torch.Tensor:
        own = logits[:, 0][places_in(order, pairs).to(logits.device)]
        if self.knobs.loss == "kl":
            return distilled(own, torch.tensor(scores, device=own.device))
        return cross_entropy(own, torch.zeros(len(own), dtype=torch.long, device=own.device))


def train(
    model: CrossEncoder, files: list[TaskRows], knobs: TrainRerankerKnobs, work: Path
) -> tuple[State, dict, int]:
    """Train `model` in place; the same as of a retriever."""
    fabric = make_fabric(knobs)
    prepare(model.to(fabric.device))
    training = Reranking(fabric, model, files, knobs)
    steps = knobs.epochs * training.batches.per_epoch
    loop = Loop("train_reranker", fabric, model, knobs, steps, work)
    return loop_over(loop, training)
