"""Finetunings of dataset `d` on base `m`, one after another in the same processes: a start costs seconds.

`torchrun --nproc-per-node 2 -m tests.helpers.finetune_group JOBS`: a JSON list of arguments of `train_one`.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from stages.core import layout
from stages.core.processes import first_process
from stages.knobs import FinetuneKnobs
from stages.student import train

KNOBS = {
    "base": "m",
    "lr": 1e-3,
    "warmup_steps": 2,
    "eval_interval": 4,
    "save_interval": 3,
    "micro_batch_size": 3,  # three parts of a step: one of two processes has nothing to do in its second
}


class Cut(Exception):
    """Stands for a kill: nothing of the run is tidied up."""


def train_one(name: str, cut: int | None = None, start: str | None = None, **changes) -> None:
    """Train to out/`name`, or stop before step `cut`; with `start`, go on from the state of that run."""
    work, step = Path("work", name), train.Run._step
    if start and first_process():
        shutil.copytree(Path("work", start), work)

    def until_cut(run) -> None:
        if run.state.step == cut:
            raise Cut
        step(run)

    train.Run._step = until_cut
    try:
        recipe = FinetuneKnobs(**KNOBS | changes)
        adapter, state, _ = train.finetune(layout.tokens("d"), layout.base_model("m"), work, recipe)
    except (Cut, SystemExit):  # cut, or not the process that writes
        return
    finally:
        train.Run._step = step
    out = Path("out", name)
    out.mkdir(parents=True)
    save_file(adapter, out / "adapter.safetensors")
    (out / "curve.json").write_text(json.dumps(state.curve))


def result(name: str) -> tuple[dict, list[dict]]:
    out = Path("out", name)
    return load_file(out / "adapter.safetensors"), json.loads((out / "curve.json").read_text())


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        train_one(**job)
