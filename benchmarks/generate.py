"""Our openvino engine against batched `model.generate` on this machine: generated tokens a second.

A Llama of 125M parameters with random weights; prompts of about 100 tokens cut from docstrings; 64 new tokens
each, greedy, EOS out of reach so that both do equal work. The other side is stock transformers at its best
here: left-padded, sorted by length, in float32 and in bfloat16, the latter at two batch sizes. `ratio` is our
bf16 over the best of them; `ratio_bf16` and `ratio_f32` compare within a precision. Rounds alternate between
the sides and the best of each counts: other work on the machine can only slow a side down.

    python -m benchmarks.generate [--rows 64] [--rounds 1]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

SHAPE = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2560,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
}
NEW, THREADS = 64, 2


def build(directory: Path) -> Path:
    """The model and a tokenizer trained on docstrings; EOS can never be the likeliest token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32_000, special_tokens=["<s>", "</s>"], show_progress=False)
    core.train_from_iterator(texts(), trainer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = 0  # its logit is 0; the largest of 32,000 others is not
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(
        directory
    )
    return directory


def texts() -> list[str]:
    """Docstrings of numpy and the standard library: real text that is on every machine."""
    import inspect

    import numpy

    found = {
        inspect.getdoc(value)
        for module in (numpy, numpy.linalg, os, statistics, tempfile, json, argparse)
        for value in vars(module).values()
        if callable(value)
    }
    return sorted(text for text in found if text and len(text) > 400)


def prompts(directory: Path, rows: int) -> list[str]:
    from stages.support.tokenizer import TextCodec

    codec, kept = TextCodec(directory), []
    for number, text in enumerate(texts()):
        ids = codec.prompts([text])[0][: 80 + 7 * (number % 7)]
        if len(ids) >= 70:
            kept.append(codec.decode(ids))
    return (kept * (rows // max(len(kept), 1) + 1))[:rows]


def ours(directory: Path, precision: str, batch: int):
    """A function: prompts → generated tokens, on a loaded openvino engine."""
    from stages.engines.protocol import Decoding, open_engine

    decoding = Decoding(
        engine="openvino", precision=precision, batch_size=batch, threads=THREADS, max_new_tokens=NEW
    )
    engine = open_engine(directory, decoding)

    def run(texts: list[str]) -> int:
        return sum(answer.generated_tokens for answer in engine.generate(texts, decoding, [0] * len(texts)))

    return run


def stock(directory: Path, precision: str, batch: int):
    """The same on `model.generate`, left-padded and sorted by length."""
    import torch
    from transformers import AutoTokenizer

    model = loaded(directory, precision)
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", pad_token="</s>")

    def run(texts: list[str]) -> int:
        texts, tokens = sorted(texts, key=lambda text: -len(tokenizer(text).input_ids)), 0
        for start in range(0, len(texts), batch):
            inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=1)
            tokens += out[:, inputs["input_ids"].shape[1] :].numel()
        return tokens

    return run


@cache
def loaded(directory: Path, precision: str):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=1)
    given = arguments.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            print(json.dumps(measure(build(Path("models/llama")), given.rows, given.rounds)))
        finally:
            os.chdir(home)


def measure(directory: Path, rows: int, rounds: int) -> dict:
    work = prompts(directory, rows)
    makers = {
        "openvino bf16": (ours, "bf16", rows),
        "openvino f32": (ours, "f32", rows),
        "generate bf16": (stock, "bf16", rows),
        "generate bf16, half batch": (stock, "bf16", rows // 2),
        "generate f32": (stock, "f32", rows),
    }
    sides = {name: make(directory, precision, batch) for name, (make, precision, batch) in makers.items()}
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(work[:4])  # warm up
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            tokens = run(work)
            seen[name].append(tokens / (time.perf_counter() - started))
            assert tokens == len(work) * NEW, f"{name} made {tokens} tokens"
            print(f"{name}: {seen[name][-1]:.0f} generated tokens/s", file=sys.stderr, flush=True)
    rate = {name: max(values) for name, values in seen.items()}
    best = max((name for name in rate if name.startswith("generate")), key=rate.get)
    best_bf16 = max(rate["generate bf16"], rate["generate bf16, half batch"])
    return {
        "rows": rows,
        "new_tokens": NEW,
        "threads": THREADS,
        "tokens_per_s": {name: round(value, 1) for name, value in rate.items()},
        "best_generate": best,
        "ratio": round(rate["openvino bf16"] / rate[best], 2),
        "ratio_bf16": round(rate["openvino bf16"] / best_bf16, 2),
        "ratio_f32": round(rate["openvino f32"] / rate["generate f32"], 2),
    }


if __name__ == "__main__":
    main()
