"""LoRA finetuning of the base model.

Reads data/DATASET/tokens/ and models/base/BASE. Writes models/DATASET/adapter/: adapter.safetensors (of the
best validation), lora.json, curve.jsonl; the curve is also in reports/DATASET/figures/ (curve.json, and
plots/loss.json for `dvc plots`). A killed run goes on where its last state was saved, with any number
of devices; with the same one and on a CPU it ends bit-equal to one that was not killed. Several devices: set
devices and strategy, or start `-m stages finetune` with torchrun or srun, also on several nodes.
"""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from stages.core import layout
from stages.core.files import atomic_directory, prune, verify_manifest, write_json, write_jsonl
from stages.core.hashing import sha256_json
from stages.core.processes import first_process
from stages.knobs import FinetuneKnobs
from stages.student.train import finetune

# They say how the work is laid out, not what is computed: a state is continued whatever they are.
LAYOUT = {"devices", "num_nodes", "strategy", "micro_batch_size", "packing", "checkpoint", "save_interval"}


def run(dataset: str, knobs: FinetuneKnobs) -> dict:
    base, tokens = layout.base_model(knobs.base), layout.tokens(dataset)
    work = scratch(dataset, fingerprint(base, tokens, knobs)) if first_process() else layout.SCRATCH
    adapter, state, metrics = finetune(tokens, base, work, knobs)
    lora = {
        "base": knobs.base,
        "r": knobs.lora_r,
        "alpha": knobs.lora_alpha,
        "dropout": knobs.lora_dropout,
        "targets": knobs.targets(),
    }
    losses = [row["val_loss"] for row in state.curve if "val_loss" in row]
    with atomic_directory(layout.model(dataset, "adapter"), producer="finetune") as directory:
        save_file(adapter, directory / "adapter.safetensors", {"format": "pt"})
        write_json(directory / "lora.json", lora)
        write_jsonl(directory / "curve.jsonl", state.curve)
    figures = layout.figures(dataset)
    write_json(figures / "curve.json", state.curve)
    trained = [row for row in state.curve if "train_loss" in row]  # `dvc plots` wants the same keys in all
    write_json(figures / "plots" / "loss.json", trained)
    shutil.rmtree(work, ignore_errors=True)
    return {
        **metrics,
        "best_step": state.best_step,
        "train_loss": trained[-1]["train_loss"],
        "val_loss_before": losses[0] if losses else None,
        "val_loss": min(losses[1:]) if losses else None,
    }


def fingerprint(base: Path, tokens: Path, knobs: FinetuneKnobs) -> str:
    """What a saved state depends on: knobs but LAYOUT, base weights and rows, by content."""
    inputs = [verify_manifest(directory)["files"] for directory in (base, tokens)]
    return sha256_json([knobs.model_dump(exclude=LAYOUT), inputs])[:16]


def scratch(dataset: str, mark: str) -> Path:
    """This run's scratch directory; those of other inputs are removed."""
    mine = layout.SCRATCH / f"finetune-{dataset}-{mark}"
    prune(mine)
    return mine
