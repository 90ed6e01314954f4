"""Does any reader break on input that somebody damaged? Real inputs, mutated, for minutes a reader.

A reader may take an input, or refuse it in one line (UserError; for the server's bodies Refused). Anything
else is a fault: another exception, more than 10 s for one input, more than 2 GiB of memory. What was read is
kept in the folder that is printed, one input for each kind of fault.

    python -m benchmarks.fuzz [--seconds 600] [--seed 1] [folder xc skills_text skills_yaml answers …]
"""

import argparse
import faulthandler
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

HANG, MEMORY = 10, 2 << 30  # seconds, bytes
ROOT = Path(__file__).parents[1]
KEPT = ROOT / "data/.work/fuzz"
VALUES = [
    None, True, -1, 0, 2**63, 10**30, 1.5, 1e308, float("nan"), float("-inf"), "", " ", "\0", "\u2028",
    "\u202e", "\ud800", "a" * 5000, "=1+1", "\x1b[31m", [], {}, [[]], {"a": {"a": 1}}, ["x"] * 3, "1", "٣",
    "#", "</think>",
]  # fmt: skip
BYTES = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b'"', b'""', b"\\", b"\n", b"\r", b"\r\n",
    b"\t", b",", b";", b"{", b"}", b"[", b"]", b":", b"\x1b[31m", b"'", b"\x85", b"\xe2\x80\xa8", b"{{", b"%",
    b"- ", b"&a ", b"*a ", b"<<: ", b"? ", b"!!python/name:os.system ", b"NaN", b"1e999", b"9" * 5000,
    b"[" * 3000, b'{"a":' * 1500, b"(" * 300, b"A" * 70_000, b"a,a,", b"---\n", b"<think>", b"</think>",
]  # fmt: skip
Attempt = Callable[[random.Random, Path], None]


class Hung(BaseException):
    """An input took longer than HANG."""


def mutated(chance: random.Random, data: bytes) -> bytes:
    """`data` with one to eight bytes or stretches changed, inserted, repeated or cut away."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        here, size = chance.randrange(len(made) + 1), chance.choice([1, 2, 5, 30, 200])
        stretch = made[chance.randrange(len(made) + 1) :][:size]
        match chance.randrange(6):
            case 0:
                made[here : here + 1] = bytes([chance.randrange(256)])
            case 1 | 2:
                made[here:here] = chance.choice(BYTES)
            case 3:
                del made[here : here + size]
            case 4:
                made[here:here] = stretch
            case 5 if chance.random() < 0.3:
                del made[here:]
    return bytes(made)


def changed(chance: random.Random, value: object, depth: int = 0) -> object:
    """A JSON value with one of its parts replaced, left out or added."""
    if depth > 6 or chance.random() < 0.1 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(VALUES)
    parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    key = chance.choice(list(parts))
    match chance.randrange(10):
        case 0 | 1:
            del parts[key]
        case 2:
            parts[chance.choice(["x", "id", ""]) if isinstance(value, dict) else len(parts)] = chance.choice(
                VALUES
            )
        case _:
            parts[key] = changed(chance, parts[key], depth + 1)
    return parts if isinstance(value, dict) else list(parts.values())


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii="\\ud800" in json.dumps(value)).encode()


def damaged(chance: random.Random, data: bytes, name: str) -> bytes:
    """A file's bytes, damaged in a way that its form lets through to some depth."""
    if name.endswith(".gz") and chance.random() < 0.7:
        return gzip.compress(damaged(chance, gzip.decompress(data), name.removesuffix(".gz")), 1)
    if name.endswith((".json", ".jsonl")) and chance.random() < 0.6:
        lines = data.split(b"\n")
        place = chance.randrange(len(lines))
        try:
            lines[place] = as_json(changed(chance, json.loads(lines[place])))
        except ValueError:  # a line of an indented array
            return mutated(chance, data)
        return b"\n".join(lines)
    return mutated(chance, data)


def damage_one(chance: random.Random, source: Path, target: Path) -> None:
    """Copy a folder with one or two of its files damaged."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for file in chance.sample(files, min(len(files), chance.choice([1, 1, 2]))):
        file.write_bytes(damaged(chance, file.read_bytes(), file.name))


# Each reader: a function that makes real inputs below "real" once, and then returns what to do with one.


def folder() -> Attempt:
    import pandas

    from stages import corpus
    from stages.knobs import CorpusKnobs

    topics = "parcels letters stamps Straßen 東京 refunds".split()
    documents = [
        {
            "id": f"d{n}",
            "title": f"About {topics[n % 6]}",
            "text": f"How to send {n} {topics[n % 6]}, {n * n} times.",
        }
        for n in range(12)
    ]
    queries = [{"query": f"send {topics[n % 6]} {n}", "document_id": f"d{n}"} for n in range(12)]
    for ending in ("jsonl", "json", "csv", "tsv", "parquet"):
        home = Path("real") / ending
        home.mkdir(parents=True)
        for name, rows in (("documents", documents), ("queries", queries)):
            table, file = pandas.DataFrame(rows), home / f"{name}.{ending}"
            match ending:
                case "parquet":
                    table.to_parquet(file)
                case "jsonl" | "json":
                    table.to_json(file, orient="records", lines=ending == "jsonl")
                case _:
                    table.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")

    def attempt(chance: random.Random, target: Path) -> None:
        damage_one(chance, chance.choice(sorted(Path("real").iterdir())), target)
        repeated, share = chance.choice(["error", "join", "parts"]), chance.choice([0.01, 1])
        shares = dict.fromkeys(("val_share", "test_share", "test_queries"), 0.0)
        corpus.run("u", CorpusKnobs(path=str(target), repeated_id=repeated, skip_share=share, **shares))

    return attempt


def xc() -> Attempt:
    from stages.kinds.xc import corpus_xc
    from stages.kinds.xc.knobs import CorpusXcKnobs
    from tests.helpers import tiny, xc_fixture

    endings = {
        "xc": "metadata.jsonl",
        "gz": "metadata.json.gz",
        "dexml": "metadata.tsv",
        "renee": "metadata.json",
    }
    for form in ("xc", "gz", "dexml", "renee", "json"):
        metadata = endings.get(form, "metadata.jsonl")
        xc_fixture.orcas(Path("real") / form, 60, form, metadata)
        xc_fixture.wiki(Path("real") / f"wiki-{form}", 60, form, metadata)

    def attempt(chance: random.Random, target: Path) -> None:
        source = chance.choice(sorted(Path("real").iterdir()))
        damage_one(chance, source, target)
        points = "documents" if source.name.startswith("wiki") else "queries"
        share, metadata = chance.choice([0.05, 1]), chance.choice([None, None, None, "none"])
        knobs = {
            "points": points,
            "tokenizer": tiny.tokenizer_folder(),
            "skip_share": share,
            "metadata": metadata,
        }
        corpus_xc.run("u", CorpusXcKnobs(path=str(target), **knobs))

    return attempt


def _skills(suffix: str) -> Attempt:
    from stages.kinds.skills import skills
    from stages.kinds.skills.knobs import SkillsKnobs
    from stages.kinds.skills.parts.files import read_source
    from tests.helpers.skills_project import written

    Path("real").mkdir()
    for skill in read_source(ROOT / "prompts/otto/skills", lenient=True).skills.skills:
        Path("real", f"{skill.name}{suffix}").write_text(written(skill, suffix))

    def attempt(chance: random.Random, target: Path) -> None:
        damage_one(chance, Path("real"), target)
        skills.run("u", SkillsKnobs(path=str(target), lenient=chance.random() < 0.5))

    return attempt


def skills_text() -> Attempt:
    return _skills(".txt")


def skills_yaml() -> Attempt:
    return _skills(".yaml")


def answers() -> Attempt:
    """Bodies of a teacher, for requests of text, of JSON and of a tool call."""
    from stages.teacher.outcomes import read_answers, row_of

    schema = {
        "type": "object", "required": ["queries"], "additionalProperties": False,
        "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
    }  # fmt: skip
    said = json.dumps({"queries": ["send a parcel", "東京"]})
    call = {"id": "c", "type": "function", "function": {"name": "write", "arguments": said}}
    plain = {"model": "m", "messages": [{"role": "user", "content": "q"}], "params": {"n": 2}}
    json_schema = {"name": "write", "schema": schema, "strict": True}
    tool = {"type": "function", "function": {"name": "write", "parameters": schema}}
    pairs: list[tuple[dict, dict]] = [
        (plain, {"content": "<think>hm</think>one query"}),
        (
            {**plain, "response_format": {"type": "json_schema", "json_schema": json_schema}},
            {"content": said},
        ),
        ({**plain, "tools": [tool]}, {"content": None, "tool_calls": [call]}),
    ]
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}

    def attempt(chance: random.Random, target: Path) -> None:
        request, message = chance.choice(pairs)
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
        body = {"object": "chat.completion", "model": "m", "choices": [{**choice, "logprobs": logprobs}] * 2}
        data = as_json(changed(chance, {**body, "usage": usage}))
        data = mutated(chance, data) if chance.random() < 0.5 else data
        target.write_bytes(data)
        for answer in read_answers(data.decode("utf-8", "replace"), request) or ():
            json.dumps(row_of(answer), allow_nan=False, ensure_ascii=False).encode()

    return attempt


def responses() -> Attempt:
    """responses.jsonl of another machine: into a store, which is then shown, and into training rows."""
    from stages import collect, convert
    from stages.commands import store as shown
    from stages.knobs import ConvertKnobs
    from stages.teacher.knobs import CollectKnobs
    from stages.teacher.store.store import Store
    from tests.helpers.teacher_server import Teacher, make_requests

    make_requests("u", 12)
    with Teacher().running() as url:
        collect.run("u", CollectKnobs(base_url=url, api_key_env=""))
    file = Path("data/u/responses.jsonl")
    real = file.read_bytes()

    def attempt(chance: random.Random, target: Path) -> None:
        file.write_bytes(damaged(chance, real, file.name))
        shutil.copy(file, target)
        place = Path("data/again.sqlite")
        place.unlink(missing_ok=True)
        with Store(place) as store:
            store.refill(file)
        shown.show(place, False)
        convert.run("u", ConvertKnobs(task="queries", min_lines=1))

    return attempt


def review_csv() -> Attempt:
    from stages.kinds.skills.parts.review import table
    from tests.kinds.skills.review.test_decisions import make_project

    make_project(Path.cwd())
    table.export_csv("otto", Path("real.csv"))
    real = Path("real.csv").read_bytes()

    def attempt(chance: random.Random, target: Path) -> None:
        target.write_bytes(mutated(chance, real))
        table.import_csv("otto", target)

    return attempt


def bodies() -> Attempt:
    from stages.engines.serve.bodies import ChatBody, CompletionBody, read_body

    common = {
        "model": "m", "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3,
        "stream": True, "stop": ["a", "b"], "stream_options": {"include_usage": True}, "n": 1,
        "logprobs": None, "user": "me",
    }  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    real = [
        (ChatBody, {**common, "messages": [message], "tools": tools, "title": "t"}),
        (CompletionBody, {**common, "prompt": "hello"}),
    ]

    def attempt(chance: random.Random, target: Path) -> None:
        kind, body = chance.choice(real)
        data = as_json(changed(chance, changed(chance, body)))
        target.write_bytes(data)
        read_body(kind, json.loads(data))

    return attempt


def gguf() -> Attempt:
    from transformers import AutoModelForCausalLM

    from stages import base
    from stages.knobs import BaseKnobs
    from tests.helpers.tiny import tiny_model
    from tests.student.formats import test_from_gguf as written

    tiny_model(Path("real"), "llama", tied=True, vocab=written.VOCABULARY)
    model = AutoModelForCausalLM.from_pretrained("real")
    real = written.write_gguf("real.gguf", model, written.byte_bpe("smollm"), "smollm")
    real = Path(real).read_bytes()
    head = real.index(b"blk.0.attn_q.weight") + 4000

    def attempt(chance: random.Random, target: Path) -> None:
        cut = head if chance.random() < 0.8 else len(real)
        target.write_bytes(mutated(chance, real[:cut]) + real[cut:])
        base.run("u", BaseKnobs(path=str(target)))

    return attempt


READERS = (folder, xc, skills_text, skills_yaml, answers, responses, review_csv, bodies, gguf)


def stop_hanging(*_: object) -> None:
    raise Hung


def inputs(seconds: float, seed: int) -> Iterator[random.Random]:
    """A source of chance for each input, until the time is over."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        yield random.Random(f"{seed}/{number}")


def work(name: str, seconds: float, seed: int) -> dict:
    """Read damaged inputs in this process, in the working directory."""
    from stages.core.errors import UserError
    from stages.engines.serve.bodies import Refused

    attempt, refusals = {reader.__name__: reader for reader in READERS}[name](), (UserError, Refused)
    signal.signal(signal.SIGALRM, stop_hanging)
    counts, faults, slowest, target = Counter(), Counter(), 0.0, Path("input")
    for chance in inputs(seconds, seed):
        started = time.monotonic()
        # The first input waits for imports; cut in the middle, as on a busy machine, they leave wrecks.
        signal.alarm(HANG if counts.total() + faults.total() else 0)
        faulthandler.dump_traceback_later(
            3 * HANG, exit=True
        )  # a hang in compiled code, which no signal ends
        try:
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                attempt(chance, target)
            counts["taken"] += 1
        except refusals:
            counts["refused"] += 1
        except (Exception, Hung) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            faults[kind] += 1
            if faults[kind] == 1:
                keep(target, name, kind)
                print(f"{name}: {kind}: {str(error)[:200]}", file=sys.stderr, flush=True)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if peak > MEMORY:
        faults["memory"] += 1
    return {**counts, "faults": dict(faults), "slowest_s": round(slowest, 2), "peak_mib": peak >> 20}


def keep(target: Path, name: str, kind: str) -> None:
    place = KEPT / name / kind.replace(" ", "-").replace(":", "-")
    place.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.copytree(target, place, dirs_exist_ok=True)
    elif target.exists():
        shutil.copyfile(target, place)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [reader.__name__ for reader in READERS]
    arguments.add_argument(
        "readers", nargs="*", metavar="READER", help=f"of {', '.join(names)}; default: all"
    )
    arguments.add_argument("--seconds", type=float, default=600, help="for each reader")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # a process of main's
    given = arguments.parse_args()
    if unknown := set(given.readers) - set(names):
        arguments.error(f"no reader is called {', '.join(sorted(unknown))}")
    if given.here:
        print(json.dumps(work(given.readers[0], given.seconds, given.seed)))
        return
    figures = {}
    for name in given.readers or names:
        with tempfile.TemporaryDirectory() as scratch:
            options = ["--here", "--seconds", str(given.seconds), "--seed", str(given.seed)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"}
            command = [sys.executable, "-m", "benchmarks.fuzz", name, *options]
            process = subprocess.run(command, cwd=scratch, env=environment, stdout=subprocess.PIPE, text=True)
            told = process.stdout.splitlines()
            if process.returncode == 0 and told:
                figures[name] = json.loads(told[-1])
            else:
                keep(Path(scratch) / "input", name, "killed")
                figures[name] = {"faults": {f"ended with status {process.returncode}": 1}}
        print(f"{name}: {figures[name]}", flush=True)
    faults = sum(len(own["faults"]) for own in figures.values())
    print(f"{faults} kinds of fault" + (f"; an input of each is in {KEPT}" if faults else ""))
    print(json.dumps({"seconds": given.seconds, "seed": given.seed, "faults": faults, "readers": figures}))


if __name__ == "__main__":
    main()
