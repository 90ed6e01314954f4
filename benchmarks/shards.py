"""Two workers against one on the same shards: does `generate` scale with processes on this machine?

A Llama of 12M parameters with random weights, float32, 16 shards of prompts of about 80 tokens, 64 new tokens
a row (EOS is out of reach), one thread a worker. A run is all of `generate`'s work on open shards: starting
the processes, loading the model in each, generating, and saving every row. The sides take turns, the best run
of each counts. With fewer than two free cores the ratio says nothing.

    python -m benchmarks.shards [--documents 640] [--rounds 2] [--engine openvino]
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 320,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
}
WORDS, TOKENS, SHARDS, SEED = 30, 64, 16, 0


def build(documents: int) -> None:
    """A dataset `made` in the working directory: model, corpus and student prompt."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from stages.core import layout
    from stages.core.files import atomic_directory, write_jsonl, write_text

    draw = random.Random(SEED)
    vocabulary = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(3, 9))) for _ in range(3000)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=["<s>", "</s>"], show_progress=False)
    core.train_from_iterator(vocabulary, trainer)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    with torch.no_grad():
        model.model.embed_tokens.weight[1] = 0  # its logit is 0; the largest of the others is not
    model.save_pretrained(layout.model("made", "hf"))
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(layout.model("made", "hf"))
    rows = [
        {
            "id": f"d{number:06d}",
            "title": "",
            "text": " ".join(draw.choices(vocabulary, k=WORDS)),
            "metadata": {},
            "split": "test",
        }
        for number in range(documents)
    ]
    with atomic_directory(layout.corpus("made"), "corpus") as directory:
        write_jsonl(directory / "documents.jsonl", rows)
    write_text(layout.prompt("made", "student"), "{{ document.text }}")


def measure(engine: str, rounds: int) -> dict:
    """Seconds of each run, one worker and two in turn."""
    from stages.core import layout
    from stages.engines import load
    from stages.engines.jobs import items, pool
    from stages.generate import plan
    from stages.knobs import GenerateKnobs

    knobs = GenerateKnobs(
        engine=engine, precision="f32", threads=1, shards=SHARDS, max_new_tokens=TOKENS, batch_size=32
    )
    directory, job = plan("generate", "made", layout.model("made", "hf"), knobs)
    load.prepare(Path(job.model), job.decoding)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            started = time.perf_counter()
            pool.run_items(directory, job, job.items, workers, f"{workers} workers")
            seconds[workers].append(round(time.perf_counter() - started, 2))
            print(f"{workers} workers: {seconds[workers][-1]} s", file=sys.stderr, flush=True)
            for item in job.items:
                made = [path.name for path in directory.glob(f"{item.key}.*") if path.suffix != ".todo"]
                assert items.is_finished(directory, item)
                for name in made:
                    (directory / name).unlink()
    rows = sum(item.rows for item in job.items)
    best = {workers: min(own) for workers, own in seconds.items()}
    return {
        "engine": engine,
        "rows": rows,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": seconds,
        "tokens_per_s": {workers: round(rows * TOKENS / own) for workers, own in best.items()},
        "ratio": round(best[1] / best[2], 2),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--documents", type=int, default=640)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--engine", choices=["openvino", "transformers"], default="openvino")
    given = arguments.parse_args()
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            build(given.documents)
            found = measure(given.engine, given.rounds)
        finally:
            os.chdir(home)
    print(f"two workers do {found['ratio']} times what one does")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
