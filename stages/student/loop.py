"""A training loop for whole models of any kind: rate, clipping, curve, and a state to go on from exactly.

What happens at a step depends on its number, the knobs and the weights before it. So a state saved after any
step continues bit-equal (CPU; GPU kernels may sum in another order). Gradients of several processes are
summed: each computes a part of one and the same loss.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import prune
from stages.core.hashing import sha256_json
from stages.core.processes import first_process
from stages.core.progress import Progress
from stages.student.fabric import launch_of
from stages.student.formats.litgpt import Fabric
from stages.student.recipe import Training
from stages.student.state import State, load, save, trained

# Knobs of which the result does not depend, so that a run goes on with others.
LAYOUT = {"devices", "num_nodes", "strategy", "micro_batch_size", "sub_batch", "checkpoint", "save_interval"}
CURVE_POINTS = 500  # at most about this many training losses are kept


def rate(step: int, steps: int, knobs: Training) -> float:
    """Learning rate of `step` (1 … steps): a linear warm-up, then down to 0, or level."""
    warmup = math.ceil(steps * knobs.warmup)
    if step <= warmup:
        return knobs.lr * step / warmup
    left = (steps - step) / max(1, steps - warmup)
    shares = {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}
    return knobs.lr * shares[knobs.schedule]


def scratch(stage: str, dataset: str, knobs: Training, depends_on: Sequence) -> Path:
    """The scratch directory of a stage's run on these inputs; those of its runs on others are removed.

    To be called before the processes are launched. All but the first get one that holds no state.
    """
    if not first_process():
        return layout.SCRATCH
    launch = launch_of(knobs)
    known = [knobs.model_dump(exclude=LAYOUT), *depends_on, launch.devices * launch.nodes]
    mine = layout.SCRATCH / f"{stage}-{dataset}-{sha256_json(known)[:16]}"
    prune(mine)
    return mine


class Loop:
    """name: of the stage, for messages. model: on Fabric's device. work: the directory of the saved state."""

    def __init__(
        self, name: str, fabric: Fabric, model: torch.nn.Module, knobs: Training, steps: int, work: Path
    ):
        self.name, self.fabric, self.model, self.knobs, self.steps = name, fabric, model, knobs, steps
        self.file, self.state, self.tokens_per_second = Path(work) / "state.pt", State(), 0.0
        self.parameters = list(trained(model).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=knobs.lr, weight_decay=knobs.weight_decay, fused=True
        )
        if (saved := load(self.file, fabric, model, self.optimizer)) is not None:
            self.state = State(**saved["state"])
            if fabric.is_global_zero:
                print(f"{name}: going on after step {self.state.step}", flush=True)

    def run(
        self, gradients: Callable[[int], tuple[float, int]], validate: Callable[[], float | None]
    ) -> State:
        """Train to the last step.

        gradients(step, from 0) adds this process's part of the step's gradient, and returns the loss of the
        whole step and its tokens. validate() returns the loss on the validation rows. Raises UserError for a
        loss that is no number. Of several processes only the first one returns, the others end.
        """
        state, knobs, fabric = self.state, self.knobs, self.fabric
        began, before = time.monotonic(), state.tokens
        log_every = max(1, self.steps // CURVE_POINTS)
        if state.step == 0:
            self._record(val_loss=validate())
        shown = Progress(self.steps, self.name, "step", state.step) if fabric.is_global_zero else None
        with shown or nullcontext():
            while state.step < self.steps:
                loss, tokens = gradients(state.step)
                if not math.isfinite(loss):
                    raise UserError(
                        f"{self.name}: the loss is not finite at step {state.step + 1}; lower lr, or use "
                        "32-true"
                    )
                state.step += 1
                self._update()
                state.tokens += tokens
                state.pending = [state.pending[0] + loss, state.pending[1] + 1]
                last, note = state.step == self.steps, None
                if state.step % log_every == 0 or last:
                    mean = state.pending[0] / state.pending[1]
                    state.pending, note = [0.0, 0], f"loss {mean:.3f}"
                    self._record(train_loss=mean)
                if state.step % knobs.eval_interval == 0 or last:
                    self._record(val_loss=validate())
                if state.step % knobs.save_interval == 0 and not last:
                    save(self.file, fabric, self.model, self.optimizer, state=vars(state))
                if shown is not None:
                    shown.update(note=note)
        if not fabric.is_global_zero:
            raise SystemExit(0)  # one process goes on to write what all have made
        self.tokens_per_second = round((state.tokens - before) / (time.monotonic() - began), 1)
        return state

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.state.step, self.steps, self.knobs)
        if self.fabric.world_size > 1:
            self._sum_gradients()
        if self.knobs.grad_clip:
            clip_grad_norm_(self.parameters, self.knobs.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _sum_gradients(self) -> None:
        """Over the processes, of the parameters that any of them has a gradient of."""
        has = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.float32)
        has = self.fabric.all_reduce(has.to(self.fabric.device), reduce_op="sum")
        used = [p for p, count in zip(self.parameters, has.tolist(), strict=True) if count]
        flat = torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in used])
        flat = self.fabric.all_reduce(flat, reduce_op="sum")
        for parameter, total in zip(used, flat.split([p.numel() for p in used]), strict=True):
            parameter.grad = total.view_as(parameter)

    def _record(self, **losses: float | None) -> None:
        """A row of the curve for each step, whatever is known of it."""
        known = {name: round(value, 6) for name, value in losses.items() if value is not None}
        curve = self.state.curve
        if known and curve and curve[-1]["step"] == self.state.step:
            curve[-1] |= known
        elif known:
            curve.append({"step": self.state.step, **known})


def mean_loss(losses: list[tuple[float, int]]) -> float | None:
    """The mean over all rows, from (mean loss, rows) of each batch; None without rows."""
    count = sum(rows for _, rows in losses)
    return sum(loss * rows for loss, rows in losses) / count if count else None


def losses_of(curve: list[dict]) -> dict:
    """What a stage's figures say of its curve; None for what was not measured."""
    trained = [row["train_loss"] for row in curve if "train_loss" in row]
    validated = [row["val_loss"] for row in curve if "val_loss" in row]
    return {
        "train_loss": trained[-1] if trained else None,
        "val_loss_before": validated[0] if validated else None,
        "val_loss": validated[-1] if validated else None,
    }
