"""The three that benchmarks/collect.py compares: how each is started, and how many answers it ends with."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.collect_peers.fake_teacher import WORDS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CURATOR = "bespokelabs-curator==0.1.31"
RETRIES = 10  # curator's own number; the same for all


def write_requests(path: Path, count: int) -> None:
    """Rows as the prompt stage writes them, about 120 words each; one at a time, to stay small in memory."""
    from stages.teacher.identity import key_of

    words, params = WORDS.split(), {"temperature": 0.7, "max_tokens": 256}
    with open(path, "w", encoding="utf-8") as stream:
        for number in range(count):
            text = " ".join(words[(number + place * (1 + number % 5)) % len(words)] for place in range(120))
            messages, name = [{"role": "user", "content": f"Page {number}. {text}"}], f"page-{number:06}"
            row = {"id": name, "document_id": name, "prompt_hash": "0" * 64}
            row |= {"model": "benchmark", "messages": messages, "params": params}
            row["request_key"] = key_of(row)
            stream.write(json.dumps(row) + "\n")


@cache
def our_limits() -> bool:
    """Whether this version of the stage can be told a rate limit."""
    command = [sys.executable, "-m", "stages", "collect", "--help"]
    return "--rpm" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


@cache
def curator_python() -> str:
    """The interpreter of curator's environment; makes the environment where there is none."""
    venv = Path(os.environ.get("CURATOR_VENV") or ROOT / ".venv-curator")
    python = venv / "bin" / "python"
    if not list(venv.glob("lib/*/site-packages/bespokelabs/curator")):
        print(f"making {venv} with {CURATOR}, once; about a minute", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", CURATOR], check=True)
    return str(python)


def command(name: str, url: str, in_flight: int, rpm: int) -> list[str]:
    if name == "ours":
        asked = [sys.executable, "-m", "stages", "collect", "bench", "--base_url", url]
        asked += ["--api_key_env", "BENCH_KEY", "--concurrency", str(in_flight), "--timeout", "120"]
        asked += ["--retries", str(RETRIES)]
        return asked + (["--rpm", str(rpm), "--tpm", "0"] if our_limits() else [])
    python = curator_python() if name == "curator" else sys.executable
    return [python, str(HERE / f"with_{name}.py"), url, str(in_flight), str(RETRIES), str(rpm)]


def environment(directory: Path) -> dict[str, str]:
    home = str(directory / "home")
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "RETORT_TRACKING": "off",
        "BENCH_KEY": "none",
        "HOME": home,
        "HF_HOME": home,
        "CURATOR_CACHE_DIR": str(directory / "cache"),
        "TELEMETRY_ENABLED": "false",
        "CURATOR_VIEWER": "0",
        "OPENAI_API_KEY": "none",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise its import asks the network for prices first
    }


def answered(name: str, directory: Path) -> int:
    """Rows that the contestant holds an answer to at its end, by its own output."""
    if name == "curator":
        path = directory / "answered"
        return int(path.read_text()) if path.is_file() else 0
    path = directory / ("answers.jsonl" if name == "gather" else "data/bench/responses.jsonl")
    if not path.is_file():
        return 0
    with open(path, encoding="utf-8") as stream:
        return sum(json.loads(line)["response"] is not None for line in stream)
