"""LoRA finetuning, tokens a second (not padding): ours beside `litgpt finetune_lora` and TRL's SFTTrainer.

Same weights (random), same token rows, same recipe (all linear layers, r 16, AdamW, loss on the answers),
same number of steps of the same number of rows. Each contestant is a process on its own, one after the other,
in turns (`--rounds`), and its best round counts. The clock starts when the optimizer has made its second step
and stops at the last one, on all sides; `first_steps_s` is what came before, `peak_mib` the largest resident
size. After its last step each model is scored by one function on rows it has not seen.

litgpt runs its own command line; TRL its best way that is known here (`--trl-styles` tries others). Precision
is bfloat16 with a float32 adapter: frozen weights are bfloat16 in ours and TRL; litgpt keeps them in float32
and casts, or is `bf16-true`, with a bfloat16 adapter (`litgpt_true`). Weights are random, text is word salad:
this measures speed, and that all learn the same.

TRL gets its own environment, made at first use (a minute or two): `.venv-trl`, or where TRL_VENV points.

    python -m benchmarks.finetune [--shape smollm2-135m] [--rounds 1] [--steps 12]
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "finetune_peers"
TRL = ("trl==1.16.0", "peft==0.21.2", "torch==2.13.0", "transformers==5.23.0")
RECIPE = {"r": 16, "alpha": 32, "lr": 2e-3, "warmup": 4}
BASE, DATA, TOKENS = map(Path, ("models/base/bench", "data/bench/litgpt", "data/bench/tokens"))
LLAMA = {"tie_word_embeddings": False, "max_position_embeddings": 2048, "rope_theta": 10000.0}
# transformers' configuration; rows and micro batch of a step; words of a prompt, lines of an answer
SHAPES = {
    "embedded": {
        "model_type": "gpt_neox",
        "config": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "vocab_size": 4096,
            "max_position_embeddings": 512,
            "use_parallel_residual": False,
        },
        "batch": 8,
        "words": (70, 150),
        "lines": (4, 9),
    },
    "smollm2-135m": {
        "model_type": "llama",
        "config": {
            **LLAMA,
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
        "batch": 8,
        "words": (12, 75),
        "lines": (2, 6),
    },
    "llama-1b": {  # TinyLlama-1.1B
        "model_type": "llama",
        "config": {
            **LLAMA,
            "hidden_size": 2048,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "intermediate_size": 5632,
            "vocab_size": 32000,
        },
        "batch": 8,
        "words": (12, 75),
        "lines": (2, 6),
    },
}


def make_base(shape: dict) -> None:
    """A random model as Hugging Face directory and litgpt checkpoint, in bfloat16, with a small tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from stages.student.convert import import_base
    from tests.tiny import tiny_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(shape["model_type"], **shape["config"], bos_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained("source")
    tiny_tokenizer().save_pretrained("source")
    BASE.mkdir(parents=True)
    import_base(Path("source"), BASE, chat=False)
    shutil.rmtree("source")


def make_rows(shape: dict, count: int) -> dict:
    """Rows as litgpt's JSON and as our tokens; returns what there is of them."""
    from stages import tokenize
    from tests.tiny import WORDS

    choose, words = random.Random(0), WORDS.split()
    DATA.mkdir(parents=True)
    for split, size in {"train": count, "val": 16}.items():
        rows = []
        for number in range(size):
            prompt = choose.choices(words, k=choose.randint(*shape["words"]))
            lines = [" ".join(choose.sample(prompt, 4)) for _ in range(choose.randint(*shape["lines"]))]
            instruction, output = " ".join(prompt) + "\nqueries:", "\n".join(lines)
            rows.append({"id": str(number), "instruction": instruction, "input": "", "output": output})
        (DATA / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    found = tokenize.command.run("bench", tokenize.TokenizeKnobs(base="bench", max_length=512))["train"]
    return {name: found[name] for name in ("tokens", "target_tokens")}


def trl_python() -> str:
    """The interpreter of TRL's environment; makes the environment where there is none."""
    venv = Path(os.environ.get("TRL_VENV") or ROOT / ".venv-trl")
    python = venv / "bin" / "python"
    if not list(venv.glob("lib/*/site-packages/trl")):
        print(f"making {venv} with {', '.join(TRL)}, once; a minute or two", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", *TRL], check=True)
    return str(python)


def run(name: str, given: dict) -> dict:
    """One contestant's figures, from a process of its own."""
    peer, _, style = name.partition(":")
    paths = [part.resolve() for part in (BASE, TOKENS, DATA)]
    style, _, micro = style.partition(",")
    given = given | {"style": style or "grouped", "micro": int(micro or given["micro"])}
    if peer == "litgpt" and style:
        given["precision"] = style
    if peer == "ours" and style:
        given["knobs"] = {style: True}
    start, path = [sys.executable, "-m", f"benchmarks.finetune_peers.with_{peer}"], str(ROOT)
    if peer == "trl":
        start, path = [trl_python(), PEERS / "with_trl.py"], ""
    done = subprocess.run(
        [*map(str, start), *map(str, paths), json.dumps(given)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"  {name}: {found}", file=sys.stderr, flush=True)
    return found


def compare(name: str, given: argparse.Namespace) -> dict:
    shape, best = SHAPES[name], {}
    batch = given.batch or shape["batch"]
    with tempfile.TemporaryDirectory(dir=given.scratch) as directory, chdir(directory):
        make_base(shape)
        rows = make_rows(shape, given.steps * batch)
        print(f"{name}: {given.steps} steps of {batch} rows, {rows}", file=sys.stderr, flush=True)
        settings = RECIPE | {"precision": given.precision, "steps": given.steps, "batch": batch}
        settings |= {"micro": given.micro or batch, "packs": max(1, rows["tokens"] // given.steps // 512)}
        for _ in range(given.rounds):
            for contestant in given.contestants.split():
                found = run(contestant, settings)
                if found["tokens_per_second"] > best.get(contestant, found)["tokens_per_second"] - 1:
                    best[contestant] = found
    ours = next((found for key, found in best.items() if key.split(":")[0] == "ours"), None)
    ratios = {
        f"ratio_{key}": round(ours["tokens_per_second"] / found["tokens_per_second"], 2)
        for key, found in best.items()
        if ours and found is not ours
    }
    print(f"{name}: {ratios}", flush=True)
    return {"batch": batch, **rows, **ratios, **best}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES)
    parser.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=0, help="rows of a step; 0: the shape's own")
    parser.add_argument("--micro", type=int, default=0, help="rows of a forward pass; 0: all of the step")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--contestants", default="ours litgpt trl:grouped")
    parser.add_argument("--scratch", default=None, help="where to make the model; the 1B takes 7 GB")
    given = parser.parse_args()
    found = compare(given.shape, given)
    import torch

    setting = {"shape": given.shape, "precision": given.precision, "threads": torch.get_num_threads()}
    print(json.dumps({"benchmark": "finetune", **setting, **found}))


if __name__ == "__main__":
    main()
