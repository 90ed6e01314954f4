"""Our openvino engine against raw openvino-genai and `model.generate`, on this machine: new tokens/s.

A Llama of 125M parameters with random weights, prompts of about 100 tokens cut from docstrings, temperature
0.8 and top-k 200 as in SKIM's published script, two threads. Each side is a process of its own, one after the
other. Two kinds of work, the same for all sides:

- one: an answer for each document;
- four: four answers for each of a quarter of the documents, which is what several queries a document are.

Answers end as those about pydoc pages do (19 to 93 tokens, 39 on average), or, with --equal, after 64 tokens:
static batches wait for their longest row, and then there is nothing to wait for. Tokens wanted are counted,
not padding. The sides:

- retort: our engine with its defaults, from texts to texts;
- genai: ContinuousBatchingPipeline.generate with all prompts in a list, token ids in and out, the same
  precisions, with the prefix cache and without it; "bare" is without log-probabilities, which ours has;
- skim: the way of that script: prompts sorted by length, the longest first, left-padded batches of 8 (as its
  command) or 32 (as its default) through model.generate in bfloat16;
- generate: model.generate at its best here, bfloat16 in batches of 64 (float32 makes a third).

Static batches are independent, so these sides do the first rows only (`share`), and are counted by them. With
several `--rounds` all take turns, and each side's best one counts.

    python -m benchmarks.generate [--rows 96] [--rounds 1] [--peers genai] [--equal] [--keep DIRECTORY]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

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
THREADS, EQUAL, LONGEST, SAMPLES = 2, 64, 93, 4
QUANTILES = ([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], [19, 23, 30, 37, 46, 61, LONGEST])
TEMPERATURE, TOP_K = 0.8, 200


class Side(NamedTuple):
    make: str
    options: dict
    share: float = 1.0  # of the rows


SIDES = {
    "retort": Side("ours", {}),
    "genai": Side("raw", {}),
    "genai, no prefix cache": Side("raw", {"cached": False}),
    "bare genai": Side("raw", {"cached": False, "logprobs": 0}),
    "skim, batch 8": Side("stock", {"batch": 8}, 1 / 3),
    "skim, batch 32": Side("stock", {"batch": 32}, 1 / 3),
    "generate, batch 64": Side("stock", {"batch": 64}, 2 / 3),
}
PEERS = {"raw_genai": "genai", "bare_genai": "bare", "reference": "skim", "best_generate": "generate"}


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
        model.model.embed_tokens.weight[1] = 0  # its logit is 0; the largest of 32,000 others is not
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
    from stages.core.tokenizer import TextCodec

    codec, texts = TextCodec(directory), docstrings()
    assert len(texts) >= count
    ids = codec.prompts(texts[:count])
    return [codec.decode(own[: 80 + 7 * (number % 7)]) for number, own in enumerate(ids)]


def ours(directory: Path):
    """A function on a loaded engine: (prompts, wanted new tokens of each) → tokens made."""
    from stages.engines.protocol import Decoding
    from stages.engines.with_openvino import OpenvinoEngine

    class Bounded(OpenvinoEngine):
        """Ends row n after `wanted[n]` tokens; its seed is n."""

        wanted: list[int]

        def _config(self, sampling, seed):
            config = super()._config(sampling, seed)
            config.max_new_tokens = self.wanted[seed]
            return config

    decoding = Decoding(precision="bf16", threads=THREADS, temperature=TEMPERATURE, top_k=TOP_K)
    engine = Bounded(directory, decoding)

    def run(texts: list[str], wanted: list[int]) -> int:
        engine.wanted = wanted
        answers = engine.generate(texts, decoding, range(len(texts)))
        return sum(answer.generated_tokens for answer in answers)

    return run


def raw(directory: Path, cached: bool = True, logprobs: int = 1):
    """The same on openvino-genai alone."""
    import numpy as np
    import openvino
    import openvino_genai

    from stages.core.tokenizer import TextCodec
    from stages.engines.openvino_model import converted

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 2, cached
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "KV_CACHE_PRECISION": "bf16",
        "INFERENCE_NUM_THREADS": THREADS,
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(converted(directory)), scheduler, "CPU", properties
    )

    def config(seed: int, tokens: int):
        found = openvino_genai.GenerationConfig()
        found.max_new_tokens, found.eos_token_id, found.logprobs = tokens, 1, logprobs
        found.do_sample, found.temperature, found.top_k, found.rng_seed = True, TEMPERATURE, TOP_K, seed
        return found

    codec = TextCodec(directory)

    def run(texts: list[str], wanted: list[int]) -> int:
        prompts = [openvino.Tensor(np.array([ids])) for ids in codec.prompts(texts)]
        results = pipeline.generate(prompts, [config(*pair) for pair in enumerate(wanted)])
        return sum(len(result.m_generation_ids[0]) for result in results)

    return run


def stock(directory: Path, batch: int):
    """The same on `model.generate`; a stopping criterion ends rows where EOS would."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria
    from transformers.utils import logging

    class Bounded(StoppingCriteria):
        def __init__(self, width: int, wanted: list[int]):
            self.ends = torch.tensor(wanted) + width

        def __call__(self, input_ids, scores, **_):
            return input_ids.shape[1] >= self.ends

    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", pad_token="</s>")

    def run(texts: list[str], wanted: list[int]) -> int:
        order = sorted(range(len(texts)), key=lambda row: -len(tokenizer(texts[row]).input_ids))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = tokenizer([texts[row] for row in rows], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            limits, width = [wanted[row] for row in rows], inputs["input_ids"].shape[1]
            with torch.inference_mode():
                out = model.generate(
                    **inputs,
                    max_new_tokens=LONGEST,
                    do_sample=True,
                    temperature=TEMPERATURE,
                    top_k=TOP_K,
                    pad_token_id=1,
                    stopping_criteria=[Bounded(width, limits)],
                )
            assert out.shape[1] - width == max(limits)
        return sum(wanted)

    return run


def works(directory: Path, rows: int, equal: bool) -> dict[str, tuple[list[str], list[int]]]:
    """Texts and wanted tokens of each row, by the kind of work; no two kinds share a document."""
    import numpy as np

    drawn = np.random.default_rng(0).random(rows)
    wanted = [EQUAL] * rows if equal else np.interp(drawn, *QUANTILES).round().astype(int).tolist()
    texts, few = prompts(directory, rows + rows // SAMPLES + rows // 3), rows // SAMPLES
    several = [text for text in texts[rows : rows + few] for _ in range(SAMPLES)]
    warm_up = texts[rows + few :]
    return {
        "warm-up": (warm_up, wanted[: len(warm_up)]),
        "one": (texts[:rows], wanted),
        "four": (several, wanted[: len(several)]),
    }


def measure(name: str, directory: Path, rows: int, equal: bool) -> dict[str, float]:
    """Tokens/s of a side, by the kind of work; this process does nothing else."""
    side, found = SIDES[name], {}
    run = globals()[side.make](directory, **side.options)
    for kind, (texts, wanted) in works(directory, rows, equal).items():
        size = round(len(texts) * side.share)
        started = time.perf_counter()
        tokens = run(texts[:size], wanted[:size])
        found[kind] = round(tokens / (time.perf_counter() - started), 1)
        assert tokens == sum(wanted[:size]), f"{name} made {tokens} tokens"
    del found["warm-up"]
    return found


def compare(directory: Path, rows: int, equal: bool, peers: list[str], rounds: int) -> dict:
    from stages.engines.openvino_model import converted

    if not (directory / "config.json").is_file():
        build(directory)
    converted(directory)
    rates = {}
    for name in ["retort", *peers] * rounds:
        command = [sys.executable, "-m", "benchmarks.generate", "--side", name, "--rows", str(rows)]
        command += ["--keep", str(directory.parent), *["--equal"] * equal]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {found} tokens/s", file=sys.stderr, flush=True)
        best = rates.setdefault(name, found)
        rates[name] = {kind: max(rate, best[kind]) for kind, rate in found.items()}
    ratios = {
        label: {
            kind: round(mine / max(rates[name][kind] for name in theirs), 2)
            for kind, mine in rates["retort"].items()
        }
        for label, peer in PEERS.items()
        if (theirs := [name for name in rates if name.startswith(peer)])
    }
    for label, ratio in ratios.items():
        print(f"retort / {label}: {ratio}", file=sys.stderr)
    given = {"rows": rows, "rounds": rounds, "threads": THREADS, "equal": equal}
    return {**given, "tokens_per_s": rates, "ratio": ratios}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=96)
    arguments.add_argument("--rounds", type=int, default=1, help="times that each side runs")
    peers = [name for name in SIDES if name != "retort"]
    arguments.add_argument("--peers", nargs="+", choices=peers, default=peers, help="sides beside retort")
    arguments.add_argument("--equal", action="store_true", help="every answer has 64 tokens")
    arguments.add_argument("--keep", type=Path, help="where the model is kept for the next run")
    arguments.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        root = (given.keep or Path(scratch)).resolve()
        os.environ["PYTHONPATH"] = str(Path.cwd())
        root.mkdir(parents=True, exist_ok=True)
        os.chdir(root)
        rest = root / "llama", given.rows, given.equal
        if given.side:
            print(json.dumps(measure(given.side, *rest)))
        else:
            print(json.dumps(compare(*rest, given.peers, given.rounds)))
        os.chdir("/")


if __name__ == "__main__":
    main()
