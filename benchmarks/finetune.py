"""LoRA finetuning, tokens a second (not padding): ours beside `litgpt finetune_lora` and TRL's SFTTrainer.

Same weights (random), same token rows in the same order and steps, same recipe (all linear layers, r 16,
AdamW, loss on the answers). Rows lie in the order of our plan, so that those of a step are about equally
long: the best order for all. TRL's `packed` alone makes its own steps of the same rows. A row counts with all
its tokens, whoever computes them. Each contestant is a process on its own, one after the other, in turns
(`--rounds`), and its best round counts. The clock starts when the optimizer has made its second step and
stops at the last one; `first_steps_s` is what came before, `peak_mib` the largest resident size. After its
last step each model is scored by one function on rows it has not seen; the benchmark fails if a loss is
further than LOSS_SPREAD from ours.

Contestants are NAME[:STYLE][,ROWS OF A FORWARD PASS]. A style of litgpt is a precision, of ours a knob that
is switched on, of TRL one of with_trl.STYLES. Precision is bfloat16 with a float32 adapter: frozen weights
are bfloat16 in ours and TRL; litgpt keeps them in float32 and casts, or is `bf16-true`, with a bfloat16
adapter.

Rows are `instruct` (one instruction for all, a title and some words, short queries), `plain` (without the
instruction), or train.json and val.json of a folder, as the convert stage writes them: data/pydoc/litgpt.
Weights are random, or those of a directory of models/base; made rows are word salad: this measures speed, and
that all learn the same.

All wait as the finetune stage does (GOMP_SPINCOUNT), so that what else runs on the machine costs each the
least. TRL gets its own environment, made at first use (a minute or two): `.venv-trl`, or where TRL_VENV
points.

    python -m benchmarks.finetune [--shape smollm2-135m] [--rows instruct] [--rounds 1] [--steps 12]
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

from stages.core.processes import leave_idle_cores
from stages.knobs import TokenizeKnobs

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "finetune_peers"
TRL = ("trl==1.16.0", "peft==0.21.2", "torch==2.13.0", "transformers==5.23.0")
LOSS_SPREAD = 0.01  # of our validation loss: contestants draw their own adapters
INSTRUCTION = """compute the query of each given document
return a line with the parameter and the function to select , no list index or default values
"""
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
        "lr": 2e-4,
        "batch": 8,
        "words": (12, 75),
        "lines": (2, 6),
    },
}


def make_base(shape: dict) -> None:
    """A random model as Hugging Face directory and litgpt checkpoint, in bfloat16, with a small tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from stages.student.formats.from_hf import import_base
    from tests.helpers.tiny import tiny_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(shape["model_type"], **shape["config"], bos_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained("source")
    tiny_tokenizer().save_pretrained("source")
    BASE.mkdir(parents=True)
    import_base(Path("source"), BASE, chat=False)
    shutil.rmtree("source")


def made(shape: dict, instruction: str, sizes: dict[str, int]) -> dict[str, list[dict]]:
    from tests.helpers.tiny import WORDS

    choose, words, found = random.Random(0), WORDS.split(), {}
    for split, size in sizes.items():
        rows = found[split] = []
        for number in range(size):
            prompt = choose.choices(words, k=choose.randint(*shape["words"]))
            lines = [" ".join(choose.sample(prompt, 4)) for _ in range(choose.randint(*shape["lines"]))]
            prompt = f"{instruction}{' '.join(prompt)}\nqueries:"
            rows.append({"id": str(number), "instruction": prompt, "input": "", "output": "\n".join(lines)})
    return found


def read(folder: Path, sizes: dict[str, int]) -> dict[str, list[dict]]:
    found = {}
    for split, size in sizes.items():
        rows = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
        if len(rows) < size:
            raise SystemExit(f"{folder}/{split}.json: {len(rows)} rows, but {size} are needed: fewer --steps")
        found[split] = random.Random(0).sample(rows, size)
    return found


def make_rows(kind: str, shape: dict, steps: int, batch: int) -> dict:
    """Rows as litgpt's JSON and as our tokens, in the order of our plan; returns what there is of them."""
    import numpy as np

    from stages import tokenize
    from stages.student.data import Plan, TokenRows

    def write(rows: dict[str, list[dict]]) -> dict:
        for split, part in rows.items():
            (DATA / f"{split}.json").write_text(json.dumps(part), encoding="utf-8")
        knobs = TokenizeKnobs(base="bench", max_length=shape["config"]["max_position_embeddings"])
        return tokenize.run("bench", knobs)["train"]

    DATA.mkdir(parents=True)
    sizes = {"train": steps * batch, "val": 16}
    texts = {"instruct": INSTRUCTION, "plain": ""}
    rows = made(shape, texts[kind], sizes) if kind in texts else read(Path(kind), sizes)
    write(rows)
    plan = Plan(TokenRows.load(TOKENS, "train").lengths, batch, 1, seed=0)
    rows["train"] = [rows["train"][row] for step in range(steps) for row in plan.step(step)]
    found = write(rows)
    lengths = TokenRows.load(TOKENS, "train").lengths.reshape(steps, batch)
    return {
        **{name: found[name] for name in ("tokens", "target_tokens")},
        "step_tokens": np.sum(lengths, 1).tolist(),
    }


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
    peer, _, micro = name.partition(",")
    peer, _, style = peer.partition(":")
    paths = [part.resolve() for part in (BASE, TOKENS, DATA)]
    given = given | {"style": style or "plain", "micro": int(micro or given["micro"])}
    if peer == "litgpt" and style:
        given["precision"] = style
    if peer == "ours" and style:
        given["knobs"] = {style: True}
    start: list = [sys.executable, "-m", f"benchmarks.finetune_peers.with_{peer}"]
    path = str(ROOT)
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
    source = given.rows if given.rows in ("instruct", "plain") else str(Path(given.rows).resolve())
    batch, base = given.batch or shape["batch"], given.base and given.base.resolve()
    with tempfile.TemporaryDirectory(dir=given.scratch) as directory, chdir(directory):
        if base:
            BASE.parent.mkdir(parents=True)
            BASE.symlink_to(base)
        else:
            make_base(shape)
        rows = make_rows(source, shape, given.steps, batch)
        by_step = rows.pop("step_tokens")
        print(f"{name}: {given.steps} steps of {batch} rows, {rows}", file=sys.stderr, flush=True)
        settings = RECIPE | {"precision": given.precision, "steps": given.steps, "batch": batch}
        settings |= {"lr": shape.get("lr", RECIPE["lr"]), "warmup": min(RECIPE["warmup"], given.steps // 2)}
        settings |= {"step_tokens": by_step}
        settings |= {"micro": given.micro or batch, "packs": max(1, rows["tokens"] // given.steps // 512)}
        for _ in range(given.rounds):
            for contestant in given.contestants.split():
                found = run(contestant, settings)
                if found["tokens_per_second"] > best.get(contestant, found)["tokens_per_second"] - 1:
                    best[contestant] = found
    ratios = against_ours(best)
    print(f"{name}: {ratios}", flush=True)
    return {"batch": batch, **rows, **ratios, **best}


def against_ours(best: dict[str, dict]) -> dict[str, float]:
    """Our best rate over that of each other contestant. Exits where a model has not learnt the same."""
    mine = [found for key, found in best.items() if key.split(":")[0].split(",")[0] == "ours"]
    if not mine:
        return {}
    ours = max(mine, key=lambda found: found["tokens_per_second"])
    for key, found in best.items():
        if abs(found["val_loss"] - ours["val_loss"]) > LOSS_SPREAD * ours["val_loss"]:
            raise SystemExit(
                f"{key}: loss {found['val_loss']}, ours {ours['val_loss']}: not the same training"
            )
    rates = {key: ours["tokens_per_second"] / found["tokens_per_second"] for key, found in best.items()}
    return {f"ratio_{key}": round(rate, 2) for key, rate in rates.items() if best[key] not in mine}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES)
    parser.add_argument("--base", type=Path, help="a base of this shape, with its tokenizer; else random")
    parser.add_argument("--rows", default="instruct", help="instruct, plain or a folder of a dataset's JSON")
    parser.add_argument("--precision", default="bf16-mixed", choices=["32-true", "bf16-mixed", "bf16-true"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=0, help="rows of a step; 0: the shape's own")
    parser.add_argument("--micro", type=int, default=0, help="rows of a forward pass; 0: all of the step")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--contestants", default="ours litgpt litgpt,1 litgpt:bf16-true trl trl:padding_free trl:packed"
    )
    parser.add_argument("--scratch", default=None, help="where to make the model; the 1B takes 7 GB")
    given = parser.parse_args()
    leave_idle_cores()
    found = compare(given.shape, given)
    import torch

    setting = {
        "shape": given.shape,
        "rows": given.rows,
        "precision": given.precision,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"benchmark": "finetune", **setting, **found}))


if __name__ == "__main__":
    main()
