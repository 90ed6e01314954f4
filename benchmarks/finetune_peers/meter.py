"""What every contestant is measured with, in its own process and by one clock: its optimizer's steps.

Needs torch and numpy alone, so that it can be imported in every peer's environment.
"""

import itertools
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

WARM = 2  # steps that are not counted: kernels are made and caches filled in them


class Meter:
    """Notes the time after each optimizer step.

    step_tokens: tokens of the rows of each step. Without them, all that the model's embedding sees counts:
    right where there is no padding and nothing is computed for several rows at once.
    """

    def __init__(self, step_tokens: list[int] | None):
        self.step_tokens, self.seen, self.marks, self.began = step_tokens, 0, [], time.perf_counter()

    def watch(self, model: torch.nn.Module) -> None:
        """Count from here on; `model` is the one that trains."""
        embedding = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding))
        embedding.register_forward_pre_hook(self._seen)
        step = torch.optim.AdamW.step

        def stepped(optimizer, *args, **kwargs):
            result = step(optimizer, *args, **kwargs)
            self.marks.append((time.perf_counter(), time.process_time(), self.seen))
            return result

        torch.optim.AdamW.step = stepped
        self.began = time.perf_counter()

    def _seen(self, module: torch.nn.Module, inputs: tuple) -> None:
        if module.training:
            self.seen += inputs[0].numel()

    def report(self, loss: float) -> None:
        """Print the figures as the last line: rates over the steps after the first WARM."""
        (wall, cpu, before), (ended, cpu_ended, last) = self.marks[WARM - 1], self.marks[-1]
        tokens = last - before
        if self.step_tokens is not None:
            assert len(self.marks) == len(self.step_tokens), "not all rows once"
            tokens = sum(self.step_tokens[WARM:])
        found = {
            "tokens_per_second": round(tokens / (ended - wall)),
            "cpu_ms_per_token": round(1000 * (cpu_ended - cpu) / tokens, 3),
            "first_steps_s": round(wall - self.began, 1),
            "steps": len(self.marks),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "val_loss": round(loss, 4),
        }
        print(json.dumps(found), flush=True)


@torch.no_grad()
def score(logits_of, tokens: Path) -> float:
    """Mean loss in nats over all target tokens of the validation rows, each row alone, in bfloat16 autocast.

    logits_of: ids (1, T) -> logits (1, T, V).
    """
    ids, labels, offsets = (np.load(tokens / f"val.{name}.npy") for name in ("ids", "labels", "offsets"))
    total = count = 0
    for start, end in itertools.pairwise(offsets):
        row = torch.from_numpy(ids[start:end].astype(np.int64))
        wanted = torch.from_numpy(labels[start + 1 : end].astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(row[None])[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").item()
        count += int((wanted != -100).sum())
    return total / count
