"""Our training loop: `with_ours.py BASE TOKENS DATA JSON`. Same figures as its peers'."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune_peers.meter import Meter, score


def unvalidated(tokens: Path) -> Path:
    """The training rows with no validation rows beside them."""
    place = tokens.parent / "ours"
    place.mkdir(exist_ok=True)
    for file in tokens.glob("*.npy"):
        found = np.load(file)
        empty = found[: 1 if "offsets" in file.name else 0]
        np.save(place / file.name, empty if file.name.startswith("val") else found)
    return place


def main(base: Path, tokens: Path, data: Path, given: dict) -> None:
    from stages.student import train
    from stages.student.recipe import Recipe

    recipe = Recipe(
        lora_r=given["r"],
        lora_alpha=given["alpha"],
        lr=given["lr"],
        min_lr=0.0,
        warmup_steps=given["warmup"],
        batch_size=given["batch"],
        micro_batch_size=given["micro"],
        epochs=1,
        grad_clip=0.0,
        eval_interval=1_000_000,
        save_interval=1_000_000,
        precision=given["precision"],
        **given.get("knobs", {}),
    )
    meter, loop, kept = Meter(given["step_tokens"]), train.Run.train, []

    def ordered(plan, step: int) -> np.ndarray:
        return np.arange(step * plan.batch_size, (step + 1) * plan.batch_size)

    def watched(run) -> None:
        kept.append(run.model)
        meter.watch(run.model)
        loop(run)

    train.Run.train, train.Plan.step = watched, ordered
    train.finetune(unvalidated(tokens), base, tokens.parent / "ours" / "work", recipe)
    model = kept[0].eval()
    meter.report(score(lambda ids: model(ids, torch.arange(ids.numel()))[None], tokens))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
