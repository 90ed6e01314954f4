"""Our openvino engine against batched `model.generate` on this machine: generated tokens/s on 2 threads.

A Llama of 125M parameters with random weights, prompts of about 100 tokens cut from docstrings, greedy. The
other side is stock transformers at its best here: left-padded, sorted by prompt length, the best of bfloat16
at two batch sizes and float32. Two kinds of work, the same for both sides:

- equal lengths: EOS is out of reach, every row gets 64 new tokens;
- real lengths: rows end as the answers about pydoc pages do (19 to 93 tokens, 39 on average). Static batches
  wait for their longest row, continuous batching does not: this is what `generate` meets, and `ratio`.

Tokens wanted are counted, not padding. Every round has prompts of its own, so the prefix cache cannot help.
The best round of a side counts: other work on the machine can only slow it down.

    python -m benchmarks.generate [--rows 64] [--rounds 1]
"""

import argparse
import json
import os
import sys
import tempfile
import time
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
THREADS, EQUAL, LONGEST = 2, 64, 93
QUANTILES = ([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], [19, 23, 30, 37, 46, 61, LONGEST])


def build(directory: Path) -> Path:
    """The model and a tokenizer trained on docstrings; EOS can never be the likeliest token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32_000, special_tokens=["<s>", "</s>"], show_progress=False)
    core.train_from_iterator(docstrings(), trainer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = 0  # its logit is 0; the largest of 32,000 others is not
    model.save_pretrained(directory)
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(directory)
    return directory


def docstrings() -> list[str]:
    """Long docstrings of numpy and scipy: real text, and the same everywhere with the lock file."""
    import inspect

    import numpy
    import scipy.signal
    import scipy.special
    import scipy.stats

    modules = (numpy, numpy.linalg, numpy.ma, scipy.signal, scipy.stats, scipy.special)
    found = {inspect.getdoc(v) for m in modules for name, v in sorted(vars(m).items()) if callable(v)}
    return sorted(text for text in found if text and len(text) > 800)


def prompts(directory: Path, count: int) -> list[str]:
    """`count` different prompts of 80 to 122 tokens."""
    from stages.support.tokenizer import TextCodec

    codec, texts = TextCodec(directory), docstrings()
    assert len(texts) >= count
    ids = codec.prompts(texts[:count])
    return [codec.decode(own[: 80 + 7 * (number % 7)]) for number, own in enumerate(ids)]


def ours(directory: Path, precision: str, batch: int):
    """A function on a loaded openvino engine: (prompts, wanted new tokens of each) → tokens made."""
    from stages.engines.protocol import Decoding
    from stages.engines.with_openvino import OpenvinoEngine

    class Bounded(OpenvinoEngine):
        """Takes a row's seed, which greedy decoding has no use for, as its number of new tokens."""

        def _config(self, sampling, seed):
            config = super()._config(sampling, seed)
            config.max_new_tokens = seed
            return config

    decoding = Decoding(engine="openvino", precision=precision, batch_size=batch, threads=THREADS)
    engine = Bounded(directory, decoding)

    def run(texts: list[str], wanted: list[int]) -> int:
        return sum(answer.generated_tokens for answer in engine.generate(texts, decoding, wanted))

    return run


def stock(directory: Path, precision: str, batch: int):
    """The same on `model.generate`; a stopping criterion ends rows where EOS would."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria

    class Bounded(StoppingCriteria):
        def __init__(self, width: int, wanted: list[int]):
            self.ends = torch.tensor(wanted) + width

        def __call__(self, input_ids, scores, **_):
            return input_ids.shape[1] >= self.ends

    torch.set_num_threads(THREADS)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", pad_token="</s>")

    def run(texts: list[str], wanted: list[int]) -> int:
        order = sorted(range(len(texts)), key=lambda row: -len(tokenizer(texts[row]).input_ids))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = tokenizer([texts[row] for row in rows], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            limits, width = [wanted[row] for row in rows], inputs["input_ids"].shape[1]
            stop = [Bounded(width, limits)]
            with torch.inference_mode():
                out = model.generate(
                    **inputs, max_new_tokens=LONGEST, do_sample=False, pad_token_id=1, stopping_criteria=stop
                )
            assert out.shape[1] - width == max(limits)
        return sum(wanted)

    return run


def measure(directory: Path, rows: int, rounds: int) -> dict:
    import numpy as np

    texts = prompts(directory, 3 * rows * rounds + rows)
    drawn = np.random.default_rng(0).random(2 * rows)
    equal, real = [EQUAL] * rows, np.interp(drawn, *QUANTILES).round().astype(int).tolist()
    makers = {
        "openvino bf16": (ours, "bf16", rows),
        "generate bf16": (stock, "bf16", rows),
        "generate bf16, half batch": (stock, "bf16", rows // 2),
        "generate f32": (stock, "f32", rows),
    }
    sides = {name: make(directory, precision, batch) for name, (make, precision, batch) in makers.items()}
    for run in sides.values():
        run(texts[-rows:], real[:rows])  # warm up: caches grow, kernels are made for new shapes
    best: dict[str, dict[str, float]] = {"equal lengths": {}, "real lengths": {}}
    for kind, wanted in (("equal lengths", equal), ("real lengths", real)):
        for turn in range(rounds):
            start = turn * 3 * rows + (rows if wanted is real else 0)
            work = texts[start : start + len(wanted)]
            for name, run in sides.items():
                if wanted is real and name.startswith("generate") and name != _best(best["equal lengths"]):
                    continue  # on real lengths only the best of them runs
                # float32 takes three times as long, and half the rows tell its speed.
                size = len(wanted) // 2 if name.endswith("f32") else len(wanted)
                started = time.perf_counter()
                tokens = run(work[:size], wanted[:size])
                rate = tokens / (time.perf_counter() - started)
                assert tokens == sum(wanted[:size]), f"{name} made {tokens} tokens"
                best[kind][name] = round(max(rate, best[kind].get(name, 0)), 1)
                print(f"{kind}, {name}: {rate:.0f} tokens/s", file=sys.stderr, flush=True)
    ratios = {kind: round(rate["openvino bf16"] / rate[_best(rate)], 2) for kind, rate in best.items()}
    return {
        "rows": rows,
        "threads": THREADS,
        "tokens_per_s": best,
        "best_generate": _best(best["equal lengths"]),
        "ratio": ratios["real lengths"],
        "ratio_equal_lengths": ratios["equal lengths"],
    }


def _best(rates: dict[str, float]) -> str:
    return max((name for name in rates if name.startswith("generate")), key=lambda name: rates[name])


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


if __name__ == "__main__":
    main()
