"""Training of encoders on groups of a query, a positive and negatives, of one task or several at once.

A retriever encodes queries and keys apart. A cross-encoder reads a query and a key together and gives one
number; of the same groups it learns the positive among its negatives (listwise cross entropy), or the
distribution of the teacher's scores over them (KL).
"""

import copy
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.nn.functional import cross_entropy
from transformers.utils import logging

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, verify_manifest
from stages.core.hashing import sha256_folder
from stages.kinds.retriever.knobs import TrainRerankerKnobs, TrainRetrieverKnobs
from stages.kinds.retriever.parts.groups import Group, draw, of_task, usable, weights
from stages.kinds.retriever.parts.prompts import INSTRUCTIONS, prompts
from stages.kinds.retriever.parts.rows import Row, folder_of, lowest, read_tasks
from stages.retrieval.ranking import open_cross_encoder
from stages.retrieval.transformer import check_length
from stages.student.batches import Batches
from stages.student.encoding import Encoding, Texts, places_in, prepare
from stages.student.fabric import make_fabric
from stages.student.loop import Loop, losses_of, mean_loss, scratch
from stages.student.losses import (
    contrastive,
    distilled,
    false_negatives,
    guided,
    own_scores,
    similarities,
    stable,
)

SIMILARITY = {"cos": "cosine", "ip": "dot", "l2": "euclidean"}


class TaskRows(NamedTuple):
    """The rows of a task that give a group, and why others of the training split do not."""

    name: str
    knobs: TrainRetrieverKnobs
    keys: dict[str, str]
    train: list[Row]
    val: list[Row]
    drops: Counter


def training_rows(knobs: TrainRetrieverKnobs) -> list[TaskRows]:
    """The tasks in `train`, or all that there are; one listed twice counts twice.

    Raises UserError as `usable` does, and where no row of any task can be used.
    """
    folder, tasks = folder_of(knobs.rows, "scored"), {}
    for name, task in read_tasks(folder, knobs.train, "train").items():
        train, val = task.splits["train"], task.splits["val"]
        own = of_task(knobs, name, any("teacher_scores" in row for row in train))
        rows = lowest(train, own.max_rows, "max_rows")
        good, drops = usable(rows, task.keys, own, folder / name / "train.jsonl")
        drops["max_rows"] = len(train) - len(rows)
        good_val, _ = usable(val, task.keys, own, folder / name / "val.jsonl")
        tasks[name] = TaskRows(name, own, task.keys, good, good_val, +drops)
    if not any(task.train for task in tasks.values()):
        reasons = sum((task.drops for task in tasks.values()), Counter())
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "there are none"
        raise UserError(f"{folder}: no training row of {', '.join(tasks)} gives a group: {told}")
    return [tasks[name] for name in knobs.train or tasks]


def retriever_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    teacher: torch.Tensor | None,
    masked: torch.Tensor | None,
    knobs: TrainRetrieverKnobs,
) -> torch.Tensor:
    """The loss of a batch, from vectors of B queries and of their B·N keys; the mean over prefixes, if any.

    teacher: scores (B, N), or None. masked: bool (B, B·N), as in `contrastive`. Two losses are weighted, one
    alone is not. Prefixes: Matryoshka representations (Kusupati et al. 2022).
    """
    temperature = knobs.cos_temperature if knobs.metric == "cos" else 1.0
    losses = []
    for dims in [*knobs.matryoshka, queries.shape[1]]:
        scores = similarities(queries[:, :dims], keys[:, :dims], knobs.metric) / temperature
        contrast, distil = weights(knobs, teacher is not None)
        parts = []
        if contrast:
            parts.append(contrast * contrastive(scores, masked, knobs.margin / temperature))
        if distil and knobs.distill == "stable":
            parts.append(distil * stable(scores, teacher, masked))
        elif distil:
            temperatures = knobs.student_temperature, knobs.teacher_temperature
            parts.append(distil * distilled(own_scores(scores), teacher, *temperatures))
        losses.append(sum(parts))
    return sum(losses) / len(losses)


class Training:
    """The steps of a training: groups of a batch, the numbers of their texts, the loss of the outputs.

    files: tasks, one listed twice counts twice. Of several processes each makes its part of a step.
    A kind of model has `output`, the name of what it gives for a text; `numbers(task, rows, groups)`, the
    texts of each group, int (rows, texts); `loss(task, outputs, teacher, masked)`, of outputs (rows, texts,
    dims), the teacher's scores (rows, keys) and what `masked` gives.
    """

    output: str

    def __init__(self, fabric, model, files: list[TaskRows], knobs: TrainRetrieverKnobs, dims: int = 1):
        self.fabric, self.model, self.files, self.knobs = fabric, model, files, knobs
        self.tasks = {file.name: file for file in files}
        self.size = knobs.batch_size * fabric.world_size
        names, sizes = [file.name for file in files], [len(file.train) for file in files]
        self.batches = Batches(names, sizes, self.size, knobs.inbatch, knobs.small_files, knobs.seed)
        self.texts = Texts(model)
        self.encoding = Encoding(fabric, model, self.texts, self.output, dims, knobs.sub_batch)

    def gradients(self, step: int) -> tuple[float, int]:
        epoch, file, rows = self.batches.at(step)
        task = self.files[file]
        order, loss_of = self.prepared(task, [task.train[row] for row in rows], epoch)
        return self.encoding.step(order, loss_of), self.texts.tokens(order)

    @torch.no_grad()
    def validate(self) -> float | None:
        """The mean loss of the validation rows' groups, in batches of one task; None without rows."""
        losses = []
        for task in self.tasks.values():
            for start in range(0, len(task.val), self.size):
                rows = task.val[start : start + self.size]
                order, loss_of = self.prepared(task, rows, 0)
                losses.append((loss_of(self.encoding.outputs(order)).item(), len(rows)))
        return mean_loss(losses)

    def prepared(
        self, task: TaskRows, rows: list[Row], epoch: int
    ) -> tuple[np.ndarray, Callable[[torch.Tensor], torch.Tensor]]:
        """(the distinct texts of the rows' groups, shortest first; their outputs' loss)."""
        groups = [draw(row, task.keys, task.knobs, epoch) for row in rows]
        numbers = self.numbers(task, rows, groups)
        order = self.texts.by_length(numbers)
        at = places_in(order, numbers).to(self.fabric.device)
        scores = [group.scores for group in groups]
        teacher = None if None in scores else torch.tensor(scores, device=self.fabric.device)
        masked = self.masked(task, groups, numbers, order)
        return order, lambda outputs: self.loss(task, outputs[at], teacher, masked)

    def masked(self, task: TaskRows, groups: list[Group], numbers, order) -> torch.Tensor | None:
        return None

    def finish(self) -> None:
        """Give the trained model what it is used with."""


class Retrieving(Training):
    """A bi-encoder: a group's texts are its query and then its keys."""

    output = "sentence_embedding"

    def __init__(self, fabric, model: SentenceTransformer, files: list[TaskRows], knobs: TrainRetrieverKnobs):
        super().__init__(fabric, model, files, knobs, model.get_embedding_dimension())
        needed = knobs.guide or knobs.base_share
        self.base = copy.deepcopy(model).requires_grad_(False) if needed else None
        for task in self.tasks.values():  # all at once, so that a continued run counts as many cut texts
            rows = [*task.train, *task.val]
            self.keys(task, [key for row in rows for key in (*row["pos"], *row.get("neg", []))])
            self.queries(task, rows)

    def queries(self, task: TaskRows, rows: list[Row]) -> list[int]:
        before, _ = INSTRUCTIONS[self.knobs.instructions][task.name]
        return self.texts.add([row["query"] for row in rows], self.knobs.query_max_length, before)

    def keys(self, task: TaskRows, names: list[str]) -> list[int]:
        _, before = INSTRUCTIONS[self.knobs.instructions][task.name]
        return self.texts.add([task.keys[name] for name in names], self.knobs.key_max_length, before)

    def numbers(self, task: TaskRows, rows: list[Row], groups: list[Group]) -> np.ndarray:
        keys = [self.keys(task, group.keys) for group in groups]
        return np.column_stack([self.queries(task, rows), keys])

    def masked(self, task: TaskRows, groups: list[Group], numbers, order) -> torch.Tensor:
        """Keys that are no negatives of a query: right ones, the guide's better ones, another device's."""
        masked = false_negatives(numbers[:, 1:], [self.keys(task, group.right) for group in groups])
        if not self.knobs.cross_device:
            device = torch.arange(len(groups)) * self.fabric.world_size // len(groups)
            masked |= device.unsqueeze(1) != device.repeat_interleave(numbers.shape[1] - 1)
        masked = masked.to(self.fabric.device)
        if self.knobs.guide:
            vectors = self.encoding.outputs(order, self.base)[places_in(order, numbers)]
            masked |= guided(vectors[:, 0], vectors[:, 1:].flatten(0, 1))
        return masked

    def loss(self, task, outputs, teacher, masked) -> torch.Tensor:
        return retriever_loss(outputs[:, 0], outputs[:, 1:].flatten(0, 1), teacher, masked, task.knobs)

    @torch.no_grad()
    def finish(self) -> None:
        if self.knobs.base_share:
            # LM-Cocktail (Xiao et al. 2023, arXiv 2311.13534): what was learned of one wording then costs
            # less of what the base knew of others.
            for own, other in zip(self.model.parameters(), self.base.parameters(), strict=True):
                own.lerp_(other, self.knobs.base_share)
        self.model.prompts = prompts(self.knobs.instructions, list(self.tasks))
        self.model.similarity_fn_name = SIMILARITY[self.knobs.metric]
        self.model.truncate_dim = self.knobs.truncate_dim or None


def train(
    part: str, dataset: str, model: torch.nn.Module, kind: type[Training], knobs: TrainRetrieverKnobs
) -> tuple[list[dict], dict, dict]:
    """Train `model` and write it to models/DATASET/PART; returns the curve, figures and timings.

    Of several processes only the first one returns, the others end. Raises UserError as `training_rows`
    does, and for a loss that is no number.
    """
    stage, files = f"train_{part}", training_rows(knobs)
    work, fabric = work_of(stage, dataset, knobs), make_fabric(knobs)
    prepare(model.to(fabric.device), knobs.checkpoint)
    training = kind(fabric, model, files, knobs)
    steps = knobs.max_steps or knobs.epochs * training.batches.per_epoch
    loop = Loop(stage, fabric, model, knobs, steps, work)
    state = loop.run(training.gradients, training.validate)
    training.finish()
    with atomic_directory(layout.model(dataset, part), producer=stage) as directory:
        model.cpu().save_pretrained(str(directory), create_model_card=False)
    shutil.rmtree(work, ignore_errors=True)
    figures = {
        "steps": steps,
        "tokens": state.tokens,
        "texts_cut": training.texts.cut,
        "left_over_an_epoch": training.batches.left_over,
        **losses_of(state.curve),
        "tasks": {
            task.name: {
                "rows": len(task.train) + task.drops.total(),
                "groups": len(task.train),
                "dropped": dict(sorted(task.drops.items())),
            }
            for task in files
        },
    }
    return state.curve, figures, {"tokens_per_second": loop.tokens_per_second}


def work_of(stage: str, dataset: str, knobs: TrainRetrieverKnobs) -> Path:
    """Where the state of a training on these rows, from this base, is saved."""
    rows = verify_manifest(folder_of(knobs.rows, "scored"))["files"]
    return scratch(stage, dataset, knobs, [rows, sha256_folder(Path(knobs.base))])


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


def untrained_reranker(knobs: TrainRerankerKnobs) -> CrossEncoder:
    """A cross-encoder from the base; its head is fresh where the base is a plain encoder.

    Raises UserError for a directory that cannot be one, and for pairs that are too long for it.
    """
    if not (Path(knobs.base) / "config.json").is_file():
        raise UserError(f"base: {knobs.base}: holds no config.json; expected the directory of an encoder")
    logging.disable_progress_bar()
    for chatty in ("transformers", "sentence_transformers"):  # they warn that the head is fresh
        logging.get_logger(chatty).setLevel(logging.ERROR)
    torch.manual_seed(knobs.seed)  # of a fresh head
    model = open_cross_encoder(knobs.base, "base", num_labels=1, max_length=knobs.max_length, device="cpu")
    check_length(model, knobs.max_length, "max_length", knobs.base)
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
