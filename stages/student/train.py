"""The finetuning loop: LoRA on litgpt models under Lightning Fabric, with exact resume.

Everything that happens at a step depends on the step number, the recipe and the weights before it: rows come
from a fixed plan, dropout is seeded by step and rank, the rate by a formula. So a state saved after any step
continues bit-equal (CPU; GPU kernels may sum in another order).
"""

import ctypes
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from stages.core.errors import UserError
from stages.core.hashing import stable_integer
from stages.core.progress import Progress
from stages.core.tokenizer import TextCodec
from stages.student.build import build
from stages.student.data import Plan, TokenRows, micro_batches
from stages.student.fabric import make_fabric
from stages.student.formats.litgpt import Fabric
from stages.student.recipe import TARGETS, Recipe
from stages.student.state import State, adapter_of, load, save, trained

CURVE_POINTS = 500  # at most about this many training losses are kept
SAMPLE_TOKENS = 32
LOST = (
    "finetune: if a connection was closed or timed out, another of the {} processes has ended; its own "
    "message says why. The same command goes on after the last saved state."
)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Rate of `step` (1 … steps): linear to lr at the end of warm-up, then a cosine that ends at min_lr."""
    warmup = warmup_steps(steps, recipe)
    if step <= warmup:
        return recipe.lr * step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_steps(steps: int, recipe: Recipe) -> int:
    """A warm-up as long as the run would never reach lr, so it is at most half of it."""
    return min(recipe.warmup_steps, steps // 2)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next step instead of handing them back to the kernel."""
    # Fresh pages are zeroed and faulted in one by one: with a vocabulary of 50,000 that took 40% of a step.
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option in (trim_threshold, mmap_threshold):
            libc.mallopt(option, 1 << 30)


def finetune(
    tokens: Path, base: Path, work: Path, recipe: Recipe
) -> tuple[dict[str, torch.Tensor], State, dict]:
    """Train; returns the adapter of the best validation (the last where there is none), state and figures.

    tokens: a tokenize output. base: a base model's directory. work: a scratch directory; a state in it is
    continued. Of several processes only the first one returns, the others end.
    Raises UserError for data that cannot be trained on and for a loss that is not finite.
    """
    train, val = TokenRows.load(tokens, "train"), TokenRows.load(tokens, "val")
    if not len(train):
        raise UserError(f"{tokens}: no training rows; see the rejects of the convert stage")
    if not recipe.targets():
        raise UserError(
            "finetune: switch on at least one of " + ", ".join(f"lora_{name}" for name in TARGETS)
        )
    keep_freed_memory()
    fabric = make_fabric(recipe)
    model = build(base, recipe, fabric.device)
    model.checkpointing = recipe.checkpoint
    trainable = sum(value.numel() for value in trained(model).values())
    longest = int(max(train.lengths.max(), val.lengths.max(initial=0)))
    if longest > model.config.block_size:
        raise UserError(
            f"{tokens}: a row of {longest} tokens, but {base} has a context of {model.config.block_size}"
        )
    model = fabric.setup_module(model)
    optimizer = fabric.setup_optimizers(
        torch.optim.AdamW(
            trained(model).values(),
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            weight_decay=recipe.weight_decay,
            fused=recipe.precision != "16-mixed",  # a loss scale and clipping need the plain one
        )
    )
    run = Run(fabric, model, optimizer, recipe, rows=train, val=val, codec=TextCodec(base), work=Path(work))
    run.resume()
    try:
        run.train()
    except RuntimeError as error:
        if fabric.world_size > 1:
            error.add_note(LOST.format(fabric.world_size))
        raise
    if not fabric.is_global_zero:
        raise SystemExit(0)  # one process goes on to write what all have made
    figures = {
        "rows": len(train),
        "steps": run.plan.steps,
        "steps_of_epoch": run.plan.per_epoch,
        "stopped_at": run.state.step,
        "warmup_steps": warmup_steps(run.plan.steps, recipe),
        "tokens": run.state.tokens,
        "trainable_parameters": trainable,
    }
    return run.best, run.state, figures


@dataclass
class Run:
    """One training run: the loop, its validations and its saved state.

    fabric, model and optimizer: as Fabric has set them up. codec: of the base, to decode samples. work: the
    directory of the saved state.
    """

    fabric: Fabric
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    rows: TokenRows
    val: TokenRows
    codec: TextCodec
    work: Path
    state: State = field(default_factory=State)
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # the adapter of the best validation

    def __post_init__(self) -> None:
        recipe, fabric = self.recipe, self.fabric
        self.lengths, self.targets = self.rows.lengths, self.rows.targets
        self.file = self.work / "state.pt"
        self.plan = Plan(self.lengths, recipe.batch_size, recipe.epochs, recipe.seed)
        self.log_every = max(1, self.plan.steps // CURVE_POINTS)
        self.first = fabric.is_global_zero
        cuda = fabric.device.type == "cuda"
        # auto: all but rows that PyTorch has no kernel for
        packed = recipe.packing == "true" or (
            recipe.packing == "auto" and not (cuda and recipe.precision == "32-true")
        )
        # Dropout differs from row to row; the kernel on CUDA lets a row see itself only.
        self.layout = {"packed": packed, "share": packed and not cuda and not recipe.lora_dropout}

    def train(self) -> None:
        state, recipe, steps = self.state, self.recipe, self.plan.steps
        self.model.train()
        if state.step == 0 and len(self.val):
            self._record(val_loss=self._validate(), sample=self._sample())
        with Progress(steps, "finetune", "step", state.step) if self.first else nullcontext() as shown:
            while state.step < steps and not (recipe.patience and state.stale >= recipe.patience):
                self._step()
                last, note = state.step == steps, None
                if state.step % self.log_every == 0 or last:
                    note = f"loss {self._log():.3f}"
                if state.step % recipe.eval_interval == 0 or last:
                    self._evaluate()
                if state.step % recipe.save_interval == 0:
                    self._save()
                if shown:
                    shown.update(note=note)

    def _step(self) -> None:
        fabric, state, recipe = self.fabric, self.state, self.recipe
        rows = self.plan.step(state.step)
        count = int(self.targets[rows].sum())
        state.step += 1
        rate = learning_rate(state.step, self.plan.steps, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(stable_integer(recipe.seed, state.step, fabric.global_rank))
        parts = micro_batches(rows, recipe.micro_batch_size, fabric.global_rank, fabric.world_size)
        for place, part in enumerate(parts):
            with fabric.no_backward_sync(self.model, enabled=place < len(parts) - 1):
                total = self.model(*self._to_device(self.rows.batch(part, **self.layout)))
                # Gradients of several ranks are averaged; times the ranks makes that a sum.
                fabric.backward(total * (fabric.world_size / count))
            self.pending += total.detach().float()
        if recipe.grad_clip:
            fabric.clip_gradients(
                self.model, self.optimizer, max_norm=recipe.grad_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.tokens += int(self.lengths[rows].sum())
        state.pending[1] += count

    def _log(self) -> float:
        """The mean training loss since the last call, which goes to the curve. Raises UserError for NaN."""
        total = self.fabric.all_reduce(self.pending, reduce_op="sum").item()
        loss = total / self.state.pending[1]
        if not math.isfinite(loss):
            raise UserError(
                f"finetune: the loss is not finite at step {self.state.step}; lower lr or use 32-true"
            )
        self._record(train_loss=loss)
        self.pending.zero_()
        self.state.pending[1] = 0
        return loss

    def _record(self, **values) -> None:
        rate = learning_rate(self.state.step, self.plan.steps, self.recipe) if self.state.step else 0.0
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        self.state.curve.append({"step": self.state.step, "tokens": self.state.tokens, **rounded, "lr": rate})

    def _evaluate(self) -> None:
        """Validate, and keep the adapter if it is the best; without validation rows the last one is."""
        state = self.state
        if not len(self.val):
            state.best_step, self.best = state.step, adapter_of(self.model.module)
            return
        loss = self._validate()
        self._record(val_loss=loss, sample=self._sample())
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.stale = loss, state.step, 0
            self.best = adapter_of(self.model.module)
        else:
            state.stale += 1

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss in nats over every target token of the validation rows."""
        fabric, size = self.fabric, 2 * self.recipe.micro_batch_size
        order = np.argsort(self.val.lengths, kind="stable")
        self.model.eval()
        total = torch.zeros((), device=fabric.device)
        for part in micro_batches(order, size, fabric.global_rank, fabric.world_size):
            total += self.model(*self._to_device(self.val.batch(part, **self.layout)))
        self.model.train()
        return fabric.all_reduce(total, reduce_op="sum").item() / max(1, int(self.val.targets.sum()))

    @torch.no_grad()
    def _sample(self) -> str:
        """The greedy answer to the first validation prompt, for people to read."""
        start, end = self.val.offsets[:2]
        answer_at = int(np.argmax(np.asarray(self.val.labels[start:end]) >= 0))
        prompt = self.val.ids[start : start + answer_at].tolist()
        ids, limit = torch.tensor([prompt], device=self.fabric.device), self.model.config.block_size
        self.model.eval()
        while ids.size(1) < min(len(prompt) + SAMPLE_TOKENS, limit):
            last = torch.tensor([ids.size(1) - 1], device=self.fabric.device)
            following = self.model(ids, last).argmax(-1)
            if following.item() == self.codec.eos_id:
                break
            ids = torch.cat([ids, following.view(1, 1)], dim=1)
        self.model.train()
        return self.codec.decode(ids[0, len(prompt) :].tolist())

    def _to_device(self, tensors: tuple) -> tuple:
        return tuple(t.to(self.fabric.device, non_blocking=True) for t in tensors)

    # --- state -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        pending = self.fabric.all_reduce(self.pending.clone(), reduce_op="sum").item()
        state = {**vars(self.state), "pending": [pending, self.state.pending[1]]}
        model, optimizer = self.model.module, self.optimizer.optimizer
        save(self.file, self.fabric, model, optimizer, best=self.best, state=state)

    def resume(self) -> None:
        """Continue from a saved state, if there is one."""
        self.pending = torch.zeros((), device=self.fabric.device)
        saved = load(self.file, self.fabric, self.model.module, self.optimizer.optimizer)
        if saved is None:
            return
        self.state, self.best = State(**saved["state"]), saved["best"]
        if self.first:
            self.pending += self.state.pending[0]
            print(f"finetune: going on after step {self.state.step}", flush=True)
