"""Training of a bi-encoder on groups of a query, a positive and negatives, of one task or several at once."""

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from stages.core.errors import UserError
from stages.core.files import verify_manifest
from stages.core.hashing import sha256_folder, sha256_json
from stages.core.messages import say
from stages.kinds.retriever.knobs import TrainRerankerKnobs, TrainRetrieverKnobs
from stages.kinds.retriever.parts.batches import Batch, Batches, of_rank
from stages.kinds.retriever.parts.encoding import Encoding, Texts, places_in, prepare
from stages.kinds.retriever.parts.groups import draw, of_task, usable
from stages.kinds.retriever.parts.instructions import INSTRUCTIONS
from stages.kinds.retriever.parts.losses import (
    false_negatives,
    guided,
    retriever_loss,
    weights,
)
from stages.kinds.retriever.parts.rows import Row, lowest, read_keys, read_rows, tasks_in
from stages.student.fabric import launch_of, make_fabric
from stages.student.loop import Loop, mean_loss
from stages.student.state import State


@dataclass
class TaskRows:
    """The rows of a task that give a group, and why others do not. `total`: all of the training split."""

    name: str
    knobs: TrainRetrieverKnobs
    keys: dict[str, str]
    train: list[Row]
    val: list[Row]
    total: int
    drops: Counter
    numbers: dict[str, int] = field(default_factory=dict)  # of keys among the texts, by id
    queries: dict[str, int] = field(default_factory=dict)  # the same of queries, by row


def chosen_tasks(folder: Path, wanted: list[str]) -> list[str]:
    """The tasks to train on. Raises UserError for one that the folder does not have."""
    there = tasks_in(folder)
    for name in wanted or there:
        if name not in there:
            raise UserError(f"train: {folder} has no task {name!r}; it has {', '.join(there) or 'none'}")
    if not there:
        raise UserError(f"{folder}: has no task; run the stages tasks, mine and score")
    return wanted or there


def read_task(folder: Path, name: str, knobs: TrainRetrieverKnobs) -> TaskRows:
    """A task's usable rows. Raises UserError for rows that cannot be, or that nothing is learned from."""
    keys = read_keys(folder / name)
    splits = {split: read_rows(folder / name, split) for split in ("train", "val")}
    knobs = of_task(knobs, name, any("teacher_scores" in row for row in splits["train"]))
    rows = lowest(splits["train"], knobs.max_rows, "max_rows")
    train, drops = usable(rows, keys, knobs, folder / name / "train.jsonl")
    val, _ = usable(splits["val"], keys, knobs, folder / name / "val.jsonl")
    if len(rows) < len(splits["train"]):
        drops["max_rows"] = len(splits["train"]) - len(rows)
    scored = any("teacher_scores" in row for row in train)
    if train and not any(weights(knobs, scored)):
        raise UserError(
            f"{folder / name}: there are no teacher_scores to distil and no contrastive loss, so there is "
            "nothing to learn; run the stage score for this task, or raise contrastive_weight"
        )
    if (
        scored
        and knobs.distill == "stable"
        and (knobs.student_temperature, knobs.teacher_temperature) != (1, 1)
    ):
        say(f"train_retriever: {name}: stable distillation has no use for the two temperatures")
    return TaskRows(name, knobs, keys, train, val, len(splits["train"]), drops)


def read_tasks(folder: Path, names: list[str], knobs: TrainRetrieverKnobs) -> dict[str, TaskRows]:
    """`read_task` of each; raises UserError as it does, and where no row of any task can be used."""
    tasks = {name: read_task(folder, name, knobs) for name in dict.fromkeys(names)}
    if not any(task.train for task in tasks.values()):
        reasons = sum((task.drops for task in tasks.values()), Counter())
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "there are none"
        raise UserError(f"{folder}: no training row of {', '.join(tasks)} gives a group: {told}")
    return tasks


class Example(NamedTuple):
    """A group as numbers of texts."""

    query: int
    keys: list[int]
    scores: list[float] | None
    right: list[int]


class Training:
    """What a step is: batches, groups, vectors, loss."""

    def __init__(self, fabric, model: SentenceTransformer, files: list[TaskRows], knobs: TrainRetrieverKnobs):
        self.fabric, self.files, self.knobs = fabric, files, knobs
        self.texts = Texts(model)
        for file in {id(file): file for file in files}.values():
            before_query, before_key = INSTRUCTIONS[knobs.instructions][file.name]
            rows = [*file.train, *file.val]
            named = list(dict.fromkeys(key for row in rows for key in [*row["pos"], *row.get("neg", [])]))
            texts = [file.keys[key] for key in named]
            numbers = self.texts.add(texts, knobs.key_max_length, before_key)
            file.numbers = dict(zip(named, numbers, strict=True))
            texts = [row["query"] for row in rows]
            numbers = self.texts.add(texts, knobs.query_max_length, before_query)
            file.queries = dict(zip([row["id"] for row in rows], numbers, strict=True))
        self.batches = Batches(
            [file.name for file in files],
            [len(file.train) for file in files],
            knobs.batch_size * fabric.world_size,
            knobs.inbatch,
            knobs.small_files,
            knobs.seed,
        )
        dims = model.get_embedding_dimension()
        self.guide = copy.deepcopy(model).requires_grad_(False) if knobs.guide else None
        self.encoding = Encoding(fabric, model, self.texts, "sentence_embedding", dims, knobs.sub_batch)

    def gradients(self, step: int) -> tuple[float, int]:
        epoch, batch = self.batches.at(step)
        task, examples = self._examples(batch, epoch)
        order = self._order(examples)
        masked = self._masked(examples, order)
        loss = self.encoding.step(order, lambda vectors: self._loss(task, examples, order, masked, vectors))
        return loss, self.texts.tokens(order)

    @torch.no_grad()
    def validate(self) -> float | None:
        """The mean loss of the validation rows' groups, in batches of one task; None without rows."""
        losses, size = [], self.knobs.batch_size * self.fabric.world_size
        for task in {id(file): file for file in self.files}.values():
            for start in range(0, len(task.val), size):
                examples = [self._example(task, row, 0) for row in task.val[start : start + size]]
                order = self._order(examples)
                vectors = self.encoding.outputs(order)
                loss = self._loss(task, examples, order, self._masked(examples, order), vectors)
                losses.append((loss.item(), len(examples)))
        return mean_loss(losses)

    def _examples(self, batch: Batch, epoch: int) -> tuple[TaskRows, list[Example]]:
        drawn = [
            self._example(self.files[file], self.files[file].train[row], epoch)
            for file, row in zip(batch.files, batch.rows, strict=True)
        ]
        return self.files[batch.files[0]], drawn

    def _example(self, task: TaskRows, row: Row, epoch: int) -> Example:
        keys, scores, right = draw(row, task.keys, task.knobs, epoch)
        keys, right = ([task.numbers[key] for key in part] for part in (keys, right))
        return Example(task.queries[row["id"]], keys, scores, right)

    def _order(self, examples: list[Example]) -> np.ndarray:
        return self.texts.by_length(np.array([n for each in examples for n in (each.query, *each.keys)]))

    def _places(self, examples: list[Example], order: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the queries, and all their keys, are in `order`."""
        queries = np.array([each.query for each in examples])
        keys = np.array([key for each in examples for key in each.keys])
        return tuple(places_in(order, part).to(self.fabric.device) for part in (queries, keys))

    def _masked(self, examples: list[Example], order: np.ndarray) -> torch.Tensor:
        """Keys that are no negatives of a query: right ones, the guide's better ones, another device's."""
        masked = false_negatives([e.keys for e in examples], [e.right for e in examples])
        if not self.knobs.cross_device:
            device = torch.from_numpy(of_rank(len(examples), self.fabric.world_size))
            group = len(examples[0].keys)
            masked |= device.unsqueeze(1) != device.repeat_interleave(group)
        masked = masked.to(self.fabric.device)
        if self.guide is not None:
            vectors = self.encoding.outputs(order, self.guide)
            queries, keys = self._places(examples, order)
            masked |= guided(vectors[queries], vectors[keys])
        return masked

    def _loss(self, task, examples, order, masked, vectors) -> torch.Tensor:
        queries, keys = self._places(examples, order)
        scores = [each.scores for each in examples]
        teacher = None if None in scores else torch.tensor(scores, device=self.fabric.device)
        return retriever_loss(vectors[queries], vectors[keys], teacher, masked, task.knobs)


def train(
    model: SentenceTransformer, files: list[TaskRows], knobs: TrainRetrieverKnobs, work: Path
) -> tuple[State, dict, int]:
    """Train `model` in place; returns the state with the curve, figures, and the tokens of this run.

    files: tasks, one listed twice counts twice. work: the directory of the saved state. Of several processes
    only the first one returns, the others end.
    """
    fabric = make_fabric(knobs)
    prepare(model.to(fabric.device), knobs.checkpoint)
    training = Training(fabric, model, files, knobs)
    steps = knobs.max_steps or knobs.epochs * training.batches.per_epoch
    loop = Loop("train_retriever", fabric, model, knobs, steps, work)
    state, figures, tokens = loop_over(loop, training)
    return state, {**figures, "left_over_an_epoch": training.batches.left_over}, tokens


def loop_over(loop: Loop, training) -> tuple[State, dict, int]:
    """Run a loop on the steps of a training, of either kind of model; returns what `train` does."""
    before = loop.state.tokens
    state = loop.run(training.gradients, training.validate)
    figures = {"steps": loop.steps, "tokens": state.tokens, "texts_cut": training.texts.cut}
    return state, figures, state.tokens - before


LAYOUT = {"devices", "num_nodes", "strategy", "sub_batch", "checkpoint", "save_interval"}


def fingerprint(folder: Path, knobs: TrainRetrieverKnobs | TrainRerankerKnobs) -> str:
    """What a saved state depends on: knobs but LAYOUT, rows, base, and the processes that share a batch."""
    launch = launch_of(knobs)
    rows, base = verify_manifest(folder)["files"], sha256_folder(Path(knobs.base))
    given = knobs.model_dump(exclude=LAYOUT)
    return sha256_json([given, rows, base, launch.devices * launch.nodes])[:16]


def task_figures(tasks: Iterable[TaskRows]) -> dict[str, dict]:
    """Of each task: rows of the training split, groups an epoch, and the rows left out, by reason."""
    return {
        task.name: {
            "rows": task.total,
            "groups": len(task.train),
            "dropped": dict(sorted(task.drops.items())),
        }
        for task in tasks
    }
