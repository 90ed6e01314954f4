"""LoRA finetuning: ours beside `litgpt finetune_lora`; same rows, model, recipe, precision and machine.

litgpt runs through its own command line in its own process, at its best sensible settings (micro batch equal
to batch, prompt masked, nothing saved in between). Timed is the training loop alone, on both sides, in wall
and in CPU seconds: no imports, no loading, no merging. Neither validates or samples while timed, but for the
two batches litgpt always begins with; litgpt tokenises inside its loop, we did before (microseconds a row).
Both results are scored by one function, the mean over all target tokens of the validation rows. Weights are
random and the text is word salad: this measures speed, and that both learn the same.

    python -m benchmarks.finetune [--precision bf16-mixed]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
R, ALPHA, LR, WARMUP, BATCH = 16, 32, 2e-3, 4, 8
# name: (layers, width, heads, vocabulary, parallel residuals, training rows, prompt words, answer lines)
SHAPES = {
    "pythia-14m": (6, 128, 4, 50304, True, 96, (10, 60), (1, 4)),
    "embedded": (4, 256, 4, 4096, False, 256, (70, 150), (4, 9)),
}
TIMED = """
import json, sys, time
from litgpt.finetune import lora
fit = lora.fit
def timed(*args, **kwargs):
    wall, cpu = time.perf_counter(), time.process_time()
    result = fit(*args, **kwargs)
    print("TIMED", time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    return result
lora.fit = timed
from litgpt.__main__ import main
main()
"""


def make_base(directory: Path, shape: tuple) -> None:
    """A random GPT-NeoX as litgpt checkpoint and Hugging Face config, with a small BPE tokenizer."""
    import torch

    from stages.student import convert, export
    from stages.student.litgpt_import import GPT, Config
    from stages.support.files import write_json
    from tests.tiny import tiny_tokenizer

    layers, width, heads, vocabulary, parallel, *_ = shape
    config = Config(
        name="pythia-local",
        block_size=512,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        parallel_residual=parallel,
        attn_bias=True,
    )
    torch.manual_seed(0)
    model = GPT(config)
    model.apply(model._init_weights)
    directory.mkdir(parents=True)
    convert.save_litgpt(directory, model.state_dict(), config)
    write_json(directory / "config.json", export.neox_config(config, tied=False, eos_id=1, bos_id=0))
    tiny_tokenizer().save_pretrained(directory)


def make_rows(directory: Path, shape: tuple) -> None:
    from tests.tiny import WORDS

    *_, count, prompt_words, answer_lines = shape
    choose, words = random.Random(0), WORDS.split()
    directory.mkdir(parents=True)
    for split, size in {"train": count, "val": 32}.items():
        rows = []
        for number in range(size):
            prompt = choose.choices(words, k=choose.randint(*prompt_words))
            lines = [" ".join(choose.sample(prompt, 4)) for _ in range(choose.randint(*answer_lines))]
            instruction, output = " ".join(prompt) + "\nqueries:", "\n".join(lines)
            rows.append({"id": str(number), "instruction": instruction, "input": "", "output": output})
        (directory / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")


def run_litgpt(base: Path, data: Path, out: Path, precision: str, steps: int) -> tuple[float, float]:
    """Wall and CPU seconds of litgpt's training loop."""
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": LR, "weight_decay": 0.01, "betas": [0.9, 0.95]},
    }
    targets = {name: True for name in ("query", "key", "value", "projection", "mlp")}
    options = {
        "out_dir": out,
        "precision": precision,
        "lora_r": R,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        **{f"lora_{name}": "true" for name in targets},
        "data": "JSON",
        "data.json_path": data,
        "data.mask_prompt": "true",
        "data.prompt_style.class_path": "litgpt.prompts.Default",
        "train.epochs": 1,
        "train.global_batch_size": BATCH,
        "train.micro_batch_size": BATCH,
        "train.lr_warmup_steps": WARMUP,
        "train.log_interval": 10,
        "train.save_interval": 10 * steps,
        "eval.interval": 10 * steps,
        "eval.initial_validation": "false",
        "eval.final_validation": "false",
        "optimizer": json.dumps(optimizer),
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", TIMED, "finetune_lora", str(base), *arguments],
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("TIMED")]
    if done.returncode or not lines:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    _, wall, cpu = lines[0].split()
    return float(wall), float(cpu)


def run_ours(base: Path, tokens: Path, work: Path, precision: str) -> dict:
    """Wall and CPU seconds of our training loop, and its final validation loss."""
    import time

    import numpy as np

    from stages.student import train
    from stages.student.recipe import Recipe

    recipe = Recipe(
        lora_r=R,
        lora_alpha=ALPHA,
        lr=LR,
        min_lr=0.0,
        warmup_steps=WARMUP,
        batch_size=BATCH,
        micro_batch_size=BATCH,
        epochs=1,
        grad_clip=0.0,
        eval_interval=1_000_000,
        save_interval=1_000_000,
        precision=precision,
    )
    (tokens.parent / "training").mkdir()
    for file in tokens.iterdir():
        empty = np.load(file)[: 1 if "offsets" in file.name else 0]
        part = empty if file.name.startswith("val") else np.load(file)
        np.save(tokens.parent / "training" / file.name, part)
    loop, spent = train.Run.train, {}

    def timed(run) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        loop(run)
        spent.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)

    train.Run.train = timed
    try:
        _, state, figures = train.finetune(tokens, base, work, recipe)
    finally:
        train.Run.train = loop
    return {
        **spent,
        "loss": state.best_loss,
        "tokens": figures["tokens"],
        "before": state.curve[0]["val_loss"],
    }


def checkpoint(directory: Path):
    """A litgpt checkpoint as a model of ours."""
    from stages.student.convert import load_state
    from stages.student.litgpt_import import LoRAConfig
    from stages.student.model import Student

    model = Student(LoRAConfig.from_file(directory / "model_config.yaml"))
    model.load_state_dict(load_state(directory))
    return model


def validate(model, tokens: Path) -> float:
    """Mean loss over every target token of the validation rows, in float32."""
    import numpy as np
    import torch

    from stages.student.data import TokenRows

    rows = TokenRows.load(tokens, "val")
    with torch.no_grad():
        total = sum(model(*rows.batch(np.array([row]))).item() for row in range(len(rows)))
    return float(total / rows.targets.sum())


def tokenise(data: Path, base: Path, tokens: Path) -> None:
    import numpy as np

    from stages.support.tokenizer import TextCodec
    from stages.tokenize import TokenizeKnobs, encode

    tokens.mkdir()
    for split in ("train", "val"):
        rows = json.loads((data / f"{split}.json").read_text())
        arrays, _ = encode(rows, TextCodec(base), TokenizeKnobs(base="base", max_length=512), split)
        for name, array in arrays.items():
            np.save(tokens / f"{split}.{name}.npy", array)


def compare(name: str, precision: str) -> dict:
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        base, data, tokens = place / "base", place / "data", place / "tokens"
        make_base(base, shape)
        make_rows(data, shape)
        tokenise(data, base, tokens)
        ours = run_ours(base, tokens, place / "work", precision)
        wall, cpu = run_litgpt(base, data, place / "out", precision, shape[5] // BATCH)
        theirs = validate(checkpoint(place / "out/final"), tokens)
    found = {
        "tokens": ours["tokens"],
        "ours_tokens_per_second": round(ours["tokens"] / ours["wall"]),
        "litgpt_tokens_per_second": round(ours["tokens"] / wall),
        "ratio": round(wall / ours["wall"], 2),
        "ratio_cpu_seconds": round(cpu / ours["cpu"], 2),
        "val_loss_before": round(ours["before"], 4),
        "ours_val_loss": round(ours["loss"], 4),
        "litgpt_val_loss": round(theirs, 4),
    }
    print(f"{name}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--shape", default="", choices=["", *SHAPES])
    given = parser.parse_args()
    import torch

    names = [given.shape] if given.shape else list(SHAPES)
    found = {name: compare(name, given.precision) for name in names}
    threads = {"precision": given.precision, "threads": torch.get_num_threads()}
    print(json.dumps({"benchmark": "finetune", **threads, **found}))


if __name__ == "__main__":
    main()
