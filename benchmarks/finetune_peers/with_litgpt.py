"""`litgpt finetune_lora`, its own command line in this process: `with_litgpt.py BASE TOKENS DATA JSON`.

Takes the rows as they come; litgpt would shuffle them, and pad more. Stops after the training loop: nothing
is merged, the model is scored where it is.
"""

import json
import os
import sys
from pathlib import Path

from litgpt.finetune import lora
from torch.utils.data import DataLoader

from benchmarks.finetune_peers.meter import Meter, score


def options(base: Path, data: Path, out: Path, given: dict) -> list[str]:
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": given["lr"], "weight_decay": 0.01, "betas": [0.9, 0.95], "fused": True},
    }
    targets = {f"lora_{name}": "true" for name in ("query", "key", "value", "projection", "mlp")}
    found = {
        "out_dir": out,
        "precision": given["precision"],
        "lora_r": given["r"],
        "lora_alpha": given["alpha"],
        "lora_dropout": 0.0,
        **targets,
        "data": "JSON",
        "data.json_path": data,
        "data.mask_prompt": "true",
        "data.prompt_style.class_path": "litgpt.prompts.Default",
        "train.max_steps": given["steps"],
        "train.epochs": 2,  # at the end of the last one it would write a sample
        "train.global_batch_size": given["batch"],
        "train.micro_batch_size": given["micro"],
        "train.lr_warmup_steps": given["warmup"],
        "train.log_interval": 10,
        "train.save_interval": 1_000_000,
        "eval.interval": 1_000_000,
        "eval.initial_validation": "false",
        "eval.final_validation": "false",
        "optimizer": json.dumps(optimizer),
    }
    pairs = [part for name, value in found.items() for part in (f"--{name}", str(value))]
    return ["finetune_lora", str(base), *pairs]


def main(base: Path, tokens: Path, data: Path, given: dict) -> None:
    meter, fit, loaders = Meter(given["step_tokens"]), lora.fit, lora.get_dataloaders

    def ordered(*args) -> tuple:
        shuffled, val = loaders(*args)
        return DataLoader(shuffled.dataset, shuffled.batch_size, collate_fn=shuffled.collate_fn), val

    def measured(*args, **kwargs):
        model = kwargs["model"]
        meter.watch(model)
        fit(*args, **kwargs)
        model.eval()
        meter.report(score(model, tokens))
        os._exit(0)

    lora.fit, lora.get_dataloaders = measured, ordered
    from litgpt.__main__ import main as command

    sys.argv = ["litgpt", *options(base, data, tokens.parent / "litgpt", given)]
    command()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
