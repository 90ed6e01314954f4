"""How long one request takes at the endpoint of a dataset's student, beside plain `model.generate`.

The server is started as `make serve` starts it, with and without the grammar, and asked through the openai
client: held-out requests of the dataset one after the other, then eight clients at once. The peer answers the
same prompts in this process by transformers' own greedy `generate`, with no server and no grammar.

    make otto && python -m benchmarks.serve [--dataset otto] [--requests 100]
    make pydoc && python -m benchmarks.serve --dataset pydoc --hostile 60

    make recall && python -m benchmarks.serve --dataset recall --embeddings 60

The second form measures what bad clients do to honest ones (benchmarks/serve_hostile.py). The third asks a
retriever: 32 clients for so many seconds, 16 pages a request, beside sentence-transformers' own `encode` of
the same texts in this process; the bar is .9 of its texts a second, no error, and a memory that stays.
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
CLIENTS_OF_TEXTS, TEXTS = 32, 16


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


def embedded(dataset: str, documents: list[str], seconds: int) -> dict:
    """The server's texts a second under CLIENTS_OF_TEXTS clients, and those of plain `encode`."""
    import openai
    import torch
    from sentence_transformers import SentenceTransformer

    from stages.core import layout

    model = SentenceTransformer(str(layout.model(dataset, "retriever")))
    batches = [documents[start : start + TEXTS] for start in range(0, len(documents) - TEXTS, TEXTS)]
    torch.set_num_threads(os.cpu_count() or 1)
    raw = {}
    for name, narrow in (("encode", False), ("encode_bf16", True)):
        count, started = 0, time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            for batch in batches:
                model.encode(batch, normalize_embeddings=True, show_progress_bar=False)
                count += len(batch)
                if time.perf_counter() - started > seconds / 4:
                    break
        raw[name] = round(count / (time.perf_counter() - started), 1)

    def client(number: int) -> tuple[list[float], list[str]]:
        own = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        took, errors = [], []
        while (begun := time.perf_counter()) < end:
            try:
                own.embeddings.create(model=dataset, input=batches[(number + len(took)) % len(batches)])
                took.append(1000 * (time.perf_counter() - begun))
            except openai.APIError as error:
                errors.append(type(error).__name__)
        return took, errors

    with running(dataset) as (url, process), ThreadPoolExecutor(CLIENTS_OF_TEXTS) as pool:
        openai.OpenAI(base_url=url, api_key="none").embeddings.create(model=dataset, input=batches[0])
        started = time.perf_counter()
        end = started + seconds
        asked = [pool.submit(client, number) for number in range(CLIENTS_OF_TEXTS)]
        time.sleep(seconds / 4)  # until batches of all sizes have been there
        before = rss_mib(process.pid)
        told = [one.result() for one in asked]
        took = sorted(one for own, _ in told for one in own)
        speed = round(TEXTS * len(took) / (time.perf_counter() - started), 1)
        memory = {"warm_mib": before, "after_mib": rss_mib(process.pid)}
    errors = [error for _, own in told for error in own]
    best = max(raw.values())
    return (
        {"server": speed, **raw, "ratio": round(speed / best, 2), "errors": errors} | quantiles(took) | memory
    )


def rss_mib(process: int) -> int:
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


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
    parser.add_argument("--embeddings", type=int, metavar="SECONDS", help="ask its retriever")
    given = parser.parse_args()
    if given.hostile:
        from benchmarks.serve_hostile import measure

        measure(given.dataset, given.hostile)
        return

    from stages.core import layout
    from stages.core.files import iter_jsonl
    from stages.core.prompts import Template, render
    from stages.core.tokenizer import TextCodec

    if given.embeddings:
        pages = [row["text"] for row in iter_jsonl(layout.corpus("pydoc") / "documents.jsonl")]
        load = round(os.getloadavg()[0], 1)
        print(json.dumps({"load": load, **embedded(given.dataset, pages[:8000], given.embeddings)}))
        return
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
