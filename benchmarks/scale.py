"""What every stage of a queries dataset costs at N documents: each runs as a process of its own, one by one.

A dataset of ORCAS's shape is made in a folder, from a fixed seed: pages with a URL, a title, 60 to 200 words
and an observed query each (at most --observed: neighbours cost synthetic times observed texts, which
docs/guide/scale.md reckons apart). Then the stages run in that folder. What costs money or a GPU is
replayed. The teacher's answers are written into the store beforehand, and `collect` finds all of them there.
The rows of `generate` come from a student that answers at once, and lie in its scratch files when it is
measured: it lays out its shards, finds them finished, parses and writes them.
`student`, up to --real documents, is `generate` with a model of 135M parameters (the base `smol` as it is:
dvc repro base_package@smol) that writes 24 tokens a document. `corpus` is the import from a folder of files,
with near-duplicates; the rest of the chain stands on `corpus_xc`.

Per stage: seconds, CPU seconds, documents a second, peak memory, bytes written for each document. Stages
can be run alone, for their inputs are kept in --folder; the figures of earlier calls are shown with the new.

    python -m benchmarks.scale --rows 10000
    python -m benchmarks.scale --rows 1000000 --folder /tmp/scale --stage prompt collect
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "models/base/smol"
TEACHER, SHARD = "replayed-teacher", 10_000
TEACHER_PROMPT = """# System
You write the search queries that people type when they look for a web page.
# User
Below is a web page. Write four search queries that it answers, one a line.

<document>
Title: {{ document.title }}
{{ document.text | words(80) }}
</document>
"""
STUDENT_PROMPT = "{{ document.title }}\n{{ document.text | words(80) | oneline }}\nqueries:\n"
PARAMS = f"prices: {{version: example, models: {{{TEACHER}: {{input: 0.15, output: 0.6}}}}}}\n"


def steps(rows: int) -> dict[str, tuple[list[str], str]]:
    """Each step with its command and what it writes. Those in brackets make inputs and are not measured."""
    generate = f"generate d --shards {max(8, rows // SHARD)} --max_new_tokens"
    folder = "--path source --documents metadata.jsonl --text_field doc_body --title_field doc_title"
    stages = {
        "[source]": ("", ""),
        "corpus": (f"corpus folder {folder} --id_field url", "data/folder/corpus"),
        "corpus_xc": (f"corpus_xc d --path source --points queries --tokenizer {SMALL}", "data/d/corpus"),
        "prompt": (f"prompt d --template prompts/d/teacher.md --model {TEACHER}", "data/d/requests.jsonl"),
        "[answers]": ("", ""),
        "collect": ("collect d", "data/d/responses.jsonl"),
        "convert": ("convert d", "data/d/litgpt"),
        "tokenize": ("tokenize d --base smol", "data/d/tokens"),
        "student": (f"{generate} 24", "data/d/generated"),
        "[replay]": (f"{generate} 32", ""),
        "generate": (f"{generate} 32", "data/d/generated"),
        "filter": (f"filter d --round_trip_by {ROOT}/models/shipped/bm25", "data/d/filtered"),
        "map": (f"map d --encoder {ROOT}/models/shipped/tfidf --dims 256", "data/d/mapped"),
        "pack": ("pack d", "data/d/xc"),
    }
    return {name: (command.split(), output) for name, (command, output) in stages.items()}


def vocabulary() -> list[str]:
    """50,000 words of one to three tokens of the student's tokenizer, the commonest first."""
    tokens = json.loads((SMALL / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    short = [token[1:] for token in tokens if token[0] == "Ġ" and token[1:].isalpha() and len(token) > 3]
    short = sorted({word.lower() for word in short if word.isascii()})
    draw = random.Random(0)
    draw.shuffle(short)
    joined = {draw.choice(short) + draw.choice(short) for _ in range(60_000)} - {*short}
    return [*short, *sorted(joined)][:50_000]


def texts(seed: int, count: int, least: int, most: int) -> Iterator[list[str]]:
    """`count` lists of words, drawn by Zipf's law."""
    import numpy as np

    words = np.array(vocabulary(), dtype=object)
    shares = np.cumsum(1 / (np.arange(len(words)) + 10.0))
    for start in range(0, count, SHARD):
        draw = np.random.default_rng([seed, start])
        lengths = draw.integers(least, most + 1, min(SHARD, count - start))
        drawn = words[np.searchsorted(shares, draw.random(lengths.sum()) * shares[-1])]
        yield from (part.tolist() for part in np.split(drawn, np.cumsum(lengths)[:-1]))


def make_source(rows: int, observed: int) -> None:
    """The dataset in the format of docs/kinds/xc/format.md, in the working directory."""
    import numpy as np
    import orjson
    from scipy.sparse import csr_matrix, save_npz

    folder = Path("source")
    folder.mkdir(exist_ok=True)
    step, asked = max(rows // observed, 1), []
    with open(folder / "Y.txt", "w") as labels, open(folder / "metadata.jsonl", "wb") as metadata:
        for row, words in enumerate(texts(0, rows, 65, 205)):
            url = f"https://www.site{row % 9973}.example/{words[0]}/{row}"
            page = {"url": url, "doc_title": " ".join(words[:5]).title(), "doc_body": " ".join(words[5:])}
            labels.write(f"{url}\n")
            metadata.write(orjson.dumps(page) + b"\n")
            if row % step == 0:
                asked.append(" ".join(random.Random(row).sample(words, 4)))
    for which, queries in (("trn", asked), ("tst", asked[::10])):
        (folder / f"{which}_X.txt").write_text("".join(f"{query}\n" for query in queries))
        own = np.arange(len(asked))[:: 1 if which == "trn" else 10] * step
        columns = np.sort(np.stack([own, (own + 1) % rows], axis=1), axis=1)
        matrix = csr_matrix(
            (np.ones(columns.size), columns.ravel(), np.arange(0, columns.size + 1, 2)), (len(own), rows)
        )
        save_npz(folder / f"{which}_X_Y.npz", matrix)


def queries(text: str) -> str:
    """What teacher and student answer to a prompt: four queries of its words, always the same."""
    words, draw = [*dict.fromkeys(text.lower().split()[-70:-2])], random.Random(text)
    return "\n".join(" ".join(draw.sample(words, draw.randint(3, 6))) for _ in range(4))


def make_answers() -> None:
    """A store that holds the answer to every request."""
    from stages.core import layout
    from stages.core.files import iter_jsonl
    from stages.teacher.store.store import Attempt, Store

    def answer_to(request: dict) -> Attempt:
        key, text = request["request_key"], queries(request["messages"][-1]["content"])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 150, "completion_tokens": 30, "total_tokens": 180}
        body = {"id": f"chatcmpl-{key[:24]}", "object": "chat.completion", "model": TEACHER}
        raw = json.dumps({**body, "choices": [choice], "usage": usage})
        return Attempt(key, "http://replay/v1", seconds=1.0, status=200, raw=raw, dataset="d")

    rows = iter_jsonl(Path("data/d/requests.jsonl"))
    with Store(layout.STORE) as store:
        while requests := list(islice(rows, SHARD)):
            store.append(map(answer_to, requests), requests)


class Replay:
    """An engine (stages/engines/protocol.py) that answers at once."""

    def generate(self, prompts: list[str], *_) -> Iterator:
        from stages.engines.protocol import Generation

        for index, prompt in enumerate(prompts):
            yield Generation(index, queries(prompt), "stop", 110, 30, -1.5, [-1.5] * 4)


def make_replay(command: list[str]) -> None:
    """Run `generate` with that engine; its finished rows stay in scratch, where the next run finds them."""
    from stages.core.stage import command as command_of
    from stages.engines.jobs import items, pool
    from stages.params import STAGES

    def run_items(directory: Path, job: items.Job, todo: list[items.Item], *_) -> None:
        for item in todo:
            items.finish(directory, item, job, Path(job.model))

    items.engine, pool.run_items = lambda *_: Replay(), run_items
    command_of(STAGES["generate"])(command)


def prepare(folder: Path) -> None:
    """Prompts, prices and models, which do not depend on the number of rows."""
    (folder / "prompts/d").mkdir(parents=True, exist_ok=True)
    (folder / "prompts/d/teacher.md").write_text(TEACHER_PROMPT)
    (folder / "prompts/d/student.md").write_text(STUDENT_PROMPT)
    (folder / "params.yaml").write_text(PARAMS)
    for name in ("models/base/smol", "models/d/hf"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(SMALL)


def run(arguments: list[str], folder: Path) -> dict:
    """Seconds, CPU seconds and peak bytes of a process, those it waited for included."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"}
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(
            f"{' '.join(arguments)}: ended with code {child.returncode}; its inputs are in {folder}"
        )
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": time.perf_counter() - started, "cpu_seconds": cpu, "peak_bytes": used.ru_maxrss * 1024}


def size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def measure(folder: Path, given: argparse.Namespace) -> dict[str, dict]:
    """Run the chosen steps; returns the figures of all stages that were ever run in this folder."""
    kept = folder / f"figures-{given.rows}.json"
    figures = json.loads(kept.read_text()) if kept.is_file() else {}
    for name, (command, output) in steps(given.rows).items():
        if (given.stage and name not in given.stage) or (name == "student" and given.rows > given.real):
            continue
        if name.startswith("["):
            arguments = ["-m", "benchmarks.scale", "--rows", str(given.rows), "--make", name]
            run([*arguments, "--observed", str(given.observed)], folder)
            continue
        found = run(["-m", "stages", *command], folder)
        found["bytes"] = size(folder / output)
        figures[name] = {key: round(value, 2) for key, value in found.items()}
        kept.write_text(json.dumps(figures))
    return figures


def table(figures: dict[str, dict], rows: int) -> None:
    heads = ("stage", "seconds", "CPU s", "rows/s", "CPU µs/row", "peak MiB", "bytes/row")
    print(" ".join(f"{head:>10}" for head in heads))
    for name, own in figures.items():
        seconds, cpu, peak = own["seconds"], own["cpu_seconds"], own["peak_bytes"] / 2**20
        whole = (rows / seconds, cpu / rows * 1e6, peak, own["bytes"] / rows)
        print(f"{name:>10} {seconds:>10,.1f} {cpu:>10,.1f} " + " ".join(f"{cell:>10,.0f}" for cell in whole))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=10_000, help="documents")
    arguments.add_argument("--observed", type=int, default=100_000, help="observed queries, at most")
    arguments.add_argument(
        "--real", type=int, default=10_000, help="documents that a student writes for, at most"
    )
    arguments.add_argument("--folder", type=Path, help="where inputs and figures are kept; default: nowhere")
    arguments.add_argument("--stage", nargs="+", choices=steps(1), metavar="STAGE", help="only these")
    arguments.add_argument("--make", choices=steps(1), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.make:
        makers = {"[source]": lambda: make_source(given.rows, given.observed), "[answers]": make_answers}
        makers["[replay]"] = lambda: make_replay(steps(given.rows)["[replay]"][0][1:])
        makers[given.make]()
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        prepare(folder)
        figures = measure(folder, given)
    table(figures, given.rows)
    print(json.dumps({"rows": given.rows, "observed": min(given.observed, given.rows), "stages": figures}))


if __name__ == "__main__":
    main()
