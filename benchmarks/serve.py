"""How long one request takes at the endpoint of a dataset's student, beside plain `model.generate`.

The server is started as `make serve` starts it, with and without the grammar, and asked through the openai
client: held-out requests of the dataset one after the other, then eight clients at once. The peer answers the
same prompts in this process by transformers' own greedy `generate`, with no server and no grammar.

    make otto && python -m benchmarks.serve [--dataset otto] [--requests 100]
    make pydoc && python -m benchmarks.serve --dataset pydoc --hostile 60

The second form measures what bad clients do to honest ones (benchmarks/serve_hostile.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

CLIENTS, LONGEST = 8, 48


@contextmanager
def running(dataset: str, *flags: str):
    """(the address of the running server, its process)."""
    command = [sys.executable, "-m", "stages", "serve", dataset, "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield json.loads(process.stdout.readline())["base_url"], process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(dataset: str, *flags: str):
    """A client of the running server."""
    import openai

    with running(dataset, *flags) as (url, _):
        yield openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def ask(client, dataset: str, text: str) -> float:
    """Milliseconds of one request."""
    started = time.perf_counter()
    messages = [{"role": "user", "content": text}]
    client.chat.completions.create(model=dataset, messages=messages, max_tokens=LONGEST)
    return 1000 * (time.perf_counter() - started)


def timed(dataset: str, texts: list[str], *flags: str) -> dict:
    with served(dataset, *flags) as client:
        alone = sorted(ask(client, dataset, text) for text in texts)
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda text: ask(client, dataset, text), texts))
        together = len(texts) / (time.perf_counter() - started)
    return {**quantiles(alone), "requests_per_second": round(together, 1)}


def plain(dataset: str, prompts: list[list[int]], eos: int) -> dict:
    """Transformers' own generate, one prompt after the other."""
    import torch
    from transformers import AutoModelForCausalLM

    from stages.core import layout

    torch.set_num_threads(1)  # as the server
    model = AutoModelForCausalLM.from_pretrained(layout.model(dataset, "hf")).eval()
    milliseconds = []
    for ids in (prompts[0], *prompts):
        started = time.perf_counter()
        with torch.inference_mode():
            given = torch.tensor([ids])
            model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=LONGEST,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=eos,
            )
        milliseconds.append(1000 * (time.perf_counter() - started))
    return quantiles(sorted(milliseconds[1:]))


def quantiles(ordered: list[float]) -> dict:
    return {
        "p50_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[int(0.95 * len(ordered))], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="otto")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--hostile", type=int, metavar="SECONDS", help="bad clients among honest ones")
    given = parser.parse_args()
    if given.hostile:
        from benchmarks.serve_hostile import measure

        measure(given.dataset, given.hostile)
        return

    from stages.core import layout
    from stages.core.files import iter_jsonl
    from stages.core.prompts import Template, render
    from stages.core.tokenizer import TextCodec

    documents = layout.corpus(given.dataset) / "documents.jsonl"
    if not documents.is_file():
        raise SystemExit(f"{documents}: no such file; run `make {given.dataset}` first")
    rows = [row for row in iter_jsonl(documents) if row["split"] == "test"][: given.requests]
    codec = TextCodec(layout.model(given.dataset, "hf"))
    template = Template(layout.prompt(given.dataset, "student"))
    prompts = codec.prompts([render(template, row) for row in rows])
    texts = [row["text"] for row in rows]
    found: dict = {
        "requests": len(rows),
        "load": round(os.getloadavg()[0], 1),
        "serve_grammar": timed(given.dataset, texts, "--grammar"),
        "serve": timed(given.dataset, texts),
        "generate": plain(given.dataset, prompts, codec.eos_id),
    }
    found["ratio"] = round(found["generate"]["p50_ms"] / found["serve_grammar"]["p50_ms"], 2)
    for name in ("serve_grammar", "serve", "generate"):
        print(name, found[name])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
