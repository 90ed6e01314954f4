"""A million synthetic lines gathered, filtered and indexed by the `filter` stage, on the machine's cores.

100,000 documents of 60 words, ten lines for each; a line in ten occurs a second time in its document and one
in twenty copies the document's title. Corpus and shards are made first, from a fixed seed. Then the stage's
function runs in a fresh process, which tells its time and peak memory, reading and writing included. It drops
exact duplicates and copies; with --all texts that are not well-formed, too.

    python -m benchmarks.filter [--documents 100000] [--all]
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from pathlib import Path

BM25 = Path(__file__).parents[1] / "models/shipped/bm25"
LINES, SHARDS, WORDS, SEED = 10, 8, 60, 0


def build(count: int) -> None:
    """A corpus, its shards and a student prompt in the working directory."""
    from stages.core import layout
    from stages.core.files import atomic_directory, write_jsonl, write_text
    from tests.helpers.shards import write_generated

    draw = random.Random(SEED)
    vocabulary = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(20_000)
    ]

    def words(number: int) -> str:
        return " ".join(draw.choices(vocabulary, k=number))

    documents, rows = [], []
    for number in range(count):
        name, title = f"d{number:07d}", words(4).capitalize()
        own = {"id": name, "title": title, "text": words(WORDS), "metadata": {}, "split": "train"}
        documents.append(own)
        lines = [words(draw.randint(3, 9)) for _ in range(LINES)]
        if number % 2:
            lines[-1] = title.upper()
        lines[draw.randrange(1, LINES - 1)] = lines[0]
        rows.append(
            {
                "document_id": name,
                "sample": 0,
                "text": "\n".join(f"- {line}" for line in lines),
                "queries": lines,
                "finish_reason": "stop",
                "prompt_tokens": 90,
                "generated_tokens": 80,
                "logprob": -0.5,
                "line_logprobs": [round(-draw.random(), 4) for _ in lines],
            }
        )
    with atomic_directory(layout.corpus("made"), "corpus") as directory:
        write_jsonl(directory / "documents.jsonl", documents)
    write_generated(layout.generated("made"), rows, SHARDS, "generate")
    prompt = "{{ document.title }}\n{{ document.text | words(80) | oneline }}\nqueries:\n"
    write_text(layout.prompt("made", "student"), prompt)


def measure(knobs: dict, answer) -> None:
    """Run the stage in this process; answers with its metrics, seconds, those of CPU, and peak memory."""
    from stages.kinds.xc.filter import run as run_filter
    from stages.kinds.xc.knobs import FilterKnobs

    started = time.perf_counter()
    metrics = run_filter("made", FilterKnobs(round_trip_by=str(BM25), **knobs))
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer.put((metrics, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024))


def fresh(target, *arguments) -> None:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{target.__name__} ended with code {process.exitcode}")


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--documents", type=int, default=100_000)
    arguments.add_argument("--all", action="store_true", help="drop what is not well-formed, too")
    given = arguments.parse_args()
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            fresh(build, given.documents)
            answer = multiprocessing.get_context("spawn").SimpleQueue()
            fresh(measure, {"well_formed": given.all}, answer)
            metrics, seconds, busy, peak = answer.get()
        finally:
            os.chdir(home)
    print(f"{metrics['kept']:,} of {metrics['lines']:,} lines kept; dropped: {metrics['dropped']}")
    rate = f"{metrics['lines'] / seconds:,.0f} lines/s, {seconds:.1f} s ({busy:.1f} s of CPU)"
    print(f"{rate}, {peak / 2**30:.2f} GiB")
    found = {"lines": metrics["lines"], "seconds": round(seconds, 1), "peak_gib": round(peak / 2**30, 2)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
