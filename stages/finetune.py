"""LoRA finetuning of the base model.

Reads data/DATASET/tokens/ and models/base/BASE. Writes models/DATASET/adapter/: adapter.safetensors (of the
best validation), lora.json, curve.jsonl. A killed run goes on where its last state was saved, with any number
of devices; with the same one and on a CPU it ends bit-equal to one that was not killed. Several devices: set
devices and strategy, or start `python -m stages.finetune` with torchrun or srun, also on several nodes.
"""

from pathlib import Path

from pydantic import Field

from stages.core import layout
from stages.core.processes import first_process
from stages.core.stage import stage
from stages.student.recipe import Recipe

# They say how the work is laid out, not what is computed: a state is continued whatever they are.
LAYOUT = {"devices", "num_nodes", "strategy", "micro_batch_size", "packing", "checkpoint", "compile"}
LAYOUT |= {"save_interval"}


class FinetuneKnobs(Recipe):
    base: str = Field(description="name of the base model")


@stage("finetune", FinetuneKnobs)
def command(dataset: str, knobs: FinetuneKnobs) -> dict:
    import shutil

    from safetensors.torch import save_file

    from stages.core.files import atomic_directory, write_json, write_jsonl
    from stages.student.train import finetune

    base, tokens = layout.base_model(knobs.base), layout.tokens(dataset)
    work = scratch(dataset, fingerprint(base, tokens, knobs)) if first_process() else layout.SCRATCH
    adapter, state, figures = finetune(tokens, base, work, knobs)
    lora = {
        "base": knobs.base,
        "r": knobs.lora_r,
        "alpha": knobs.lora_alpha,
        "dropout": knobs.lora_dropout,
        "targets": knobs.targets(),
    }
    losses = [row["val_loss"] for row in state.curve if "val_loss" in row]
    trained = [row["train_loss"] for row in state.curve if "train_loss" in row]
    with atomic_directory(layout.model(dataset, "adapter"), producer="finetune") as directory:
        save_file(adapter, directory / "adapter.safetensors", {"format": "pt"})
        write_json(directory / "lora.json", lora)
        write_jsonl(directory / "curve.jsonl", state.curve)
    shutil.rmtree(work, ignore_errors=True)
    return {
        **figures,
        "best_step": state.best_step,
        "train_loss": trained[-1],
        "val_loss_before": losses[0] if losses else None,
        "val_loss": min(losses[1:]) if losses else None,
    }


def fingerprint(base: Path, tokens: Path, knobs: FinetuneKnobs) -> str:
    """What a saved state depends on: knobs but LAYOUT, base weights and rows, by content."""
    from stages.core.files import verify_manifest
    from stages.core.hashing import sha256_json

    inputs = [verify_manifest(directory)["files"] for directory in (base, tokens)]
    return sha256_json([knobs.model_dump(exclude=LAYOUT), inputs])[:16]


def scratch(dataset: str, mark: str) -> Path:
    """This run's scratch directory; those of other inputs are removed."""
    import re
    import shutil

    mine = layout.SCRATCH / f"finetune-{dataset}-{mark}"
    for other in layout.SCRATCH.glob(f"finetune-{dataset}-*"):
        if other != mine and re.fullmatch(rf"finetune-{re.escape(dataset)}-[0-9a-f]{{16}}", other.name):
            shutil.rmtree(other, ignore_errors=True)
    return mine


if __name__ == "__main__":
    command()
