"""Training of fusion-in-decoder: rows, steps, and the weights with the lowest loss on the validation rows."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, atomic_path, write_json
from stages.core.hashing import model_fingerprint, stable_integer
from stages.kinds.rag import places
from stages.kinds.rag.knobs import FinetuneFidKnobs, Fusion
from stages.kinds.rag.parts.context import gold_first
from stages.kinds.rag.parts.fid import Reading
from stages.kinds.rag.parts.rows import Split, read_found, read_passages, read_questions
from stages.student.data import Plan, micro_batches
from stages.student.fabric import make_fabric
from stages.student.formats.hf_folder import copy_companions
from stages.student.formats.seq2seq import save_seq2seq
from stages.student.fusion import Row, summed_loss
from stages.student.loop import Loop, losses_of, scratch
from stages.student.state import adapter_of, trained


def rows_of(dataset: str, splits: Sequence[Split], reading: Reading) -> list[list[Row]]:
    """The rows of each split: gold passages first, then retrieved ones. Raises UserError."""
    passages, made = read_passages(dataset), []
    for split in splits:
        found, rows = read_found(dataset, split), []
        for question in read_questions(dataset, split):
            retrieved = found[question["id"]]["passages"] if question["id"] in found else []
            names = gold_first(question, retrieved, reading.knobs.retrieve)
            rows.append(reading.row(question, [passages[name] for name in names]))
        made.append(rows)
    return made


class Training:
    """Steps over the rows; of several processes each makes its part of one, and of a validation."""

    def __init__(self, fabric, model, train: list[Row], val: list[Row], knobs: FinetuneFidKnobs, best: Path):
        self.fabric, self.model, self.train, self.val = fabric, model, train, val
        self.knobs, self.best = knobs, best
        lengths = np.array([row.read + len(row.answer) for row in train])
        self.plan = Plan(lengths, knobs.batch_size, knobs.epochs, knobs.seed)

    def gradients(self, step: int) -> tuple[float, int]:
        # the base's own dropout, drawn anew for each step, so that a continued run draws the same
        torch.manual_seed(stable_integer(self.knobs.seed, step, self.fabric.global_rank))
        self.model.train()
        numbers = self.plan.step(step)
        return self._loss(self.train, numbers, backward=True), int(self.plan.lengths[numbers].sum())

    @torch.no_grad()
    def validate(self) -> float | None:
        if not self.val:
            return None
        self.model.eval()
        return self._loss(self.val, np.argsort([row.read for row in self.val], kind="stable"))

    def _loss(self, rows: list[Row], numbers: np.ndarray, backward: bool = False) -> float:
        """Mean over every answer token of the rows; `backward`: and its gradient."""
        fabric, total = self.fabric, torch.zeros((), device=self.fabric.device)
        count = sum(len(rows[number].answer) for number in numbers)
        parts = micro_batches(numbers, self.knobs.micro_batch_size, fabric.global_rank, fabric.world_size)
        for part in parts:
            if len(part):
                with fabric.autocast():
                    loss = summed_loss(self.model, [rows[number] for number in part]) / count
                if backward:
                    loss.backward()
                total += loss.detach()
        return (fabric.all_reduce(total, reduce_op="sum") if fabric.world_size > 1 else total).item()

    def keep(self, loop: Loop, loss: float | None) -> float | None:
        """Write the weights where their validation loss is the lowest of a step so far; returns the loss.

        A run that goes on from an older state writes the same again.
        """
        state = loop.state
        if loss is not None and state.step and loss < state.best_loss:
            state.best_loss, state.best_step = loss, state.step
            if self.fabric.is_global_zero:
                with atomic_path(self.best) as temporary:
                    save_file(adapter_of(self.model), temporary)
        return loss


def train(
    dataset: str, model, base: Path, train: list[Row], val: list[Row], knobs: FinetuneFidKnobs
) -> tuple[list[dict], dict, dict]:
    """Train `model` and write models/DATASET/fid; returns the curve, figures and timings.

    Of several processes only the first one returns. Raises UserError for a loss that is no number.
    """
    if not train:
        raise UserError(f"{places.passages(dataset)}/train.jsonl: has no question to learn from")
    work = scratch("finetune_fid", dataset, knobs, [train, val, model_fingerprint(base)])
    fabric = make_fabric(knobs)
    model.to(fabric.device)
    training = Training(fabric, model, train, val, knobs, work / "best.safetensors")
    loop = Loop("finetune_fid", fabric, model, knobs, training.plan.steps, work)
    state = loop.run(training.gradients, lambda: training.keep(loop, training.validate()))
    if state.best_step:
        best = load_file(training.best)
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(best[name])
    with atomic_directory(layout.model(dataset, "fid"), producer="finetune_fid") as directory:
        save_seq2seq(model.cpu(), directory)
        copy_companions(base, directory, chat=False)
        write_json(directory / places.CONTEXT, knobs.model_dump(include=set(Fusion.model_fields)))
    shutil.rmtree(work, ignore_errors=True)
    figures = {
        "rows": {"train": len(train), "val": len(val)},
        "passages": round(sum(len(row.prompts) for row in train) / len(train), 3),
        "steps": loop.steps,
        "tokens": state.tokens,
        "best_step": state.best_step or loop.steps,
        **losses_of(state.curve),
    }
    return state.curve, figures, {"tokens_per_second": loop.tokens_per_second}
