"""Merge and export of a model against a plain copy of its weights, on this machine: time and peak memory.

A random Llama in bfloat16 with a random adapter of rank 16 on all linear layers. The plain copy is `cp` of
the base's lit_model.pth and fsync; it runs before, between and after the stages, for the speed of the disk
and of fresh memory changes from minute to minute, and its median is what stages are compared with. Stages are
whole processes, as DVC runs them, which removes their outputs first: start of Python, checksums of what is
read and written, and fsync included, and for export the parity gate. `export_weights` is the part of export
that writes hf/, as a process.

Peak memory is the process's own peak resident size, which counts mapped pages of files, and its anonymous
part, sampled. Both are given as multiples of the model's file. Nothing is dropped from the disk cache.

    python -m benchmarks.merge [--shape llama-135m] [--rounds 1] [--stages merge export] [--keep FOLDER]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LLAMA = {"model_type": "llama", "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1}
SHAPES = {
    "llama-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama-1b": {  # TinyLlama-1.1B
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
}
LORA = {"r": 16, "alpha": 32, "dropout": 0.0, "base": "m"}
TARGETS = ["query", "key", "value", "projection", "mlp"]
EXPORT_WEIGHTS = """
from pathlib import Path
from stages.student.formats import from_hf as convert, to_hf as export, merge
from stages.core.files import atomic_directory, verify_manifest
merged, hashed = Path("models/d/merged"), {}
verify_manifest(merged, sized=["lit_model.pth"])
config = merge.lora_config(Path("models/base/m"), Path("models/d/adapter"))
with atomic_directory(Path("models/d/weights"), producer="export", hashed=hashed) as hf:
    state, hf_config = convert.load_state(merged), convert.read_hf_config(merged)
    hashed["model.safetensors"] = export.write_hf(hf, state, hf_config, config, merged, mapped=True)
"""
STAGES = {
    "base": [sys.executable, "-m", "stages", "base", "m", "--path", "source"],
    "merge": [sys.executable, "-m", "stages", "merge", "d", "--base", "m"],
    "export_weights": [sys.executable, "-c", EXPORT_WEIGHTS],
    "export": [sys.executable, "-m", "stages", "export", "d", "--base", "m"],
}
OUTPUTS = {
    "base": ["models/base/m"],
    "merge": ["models/d/merged"],
    "export_weights": ["models/d/weights"],
    "export": ["models/d/hf", "models/d/peft"],
}


def make_source(directory: Path, shape: dict) -> None:
    """The random model as Hugging Face files, with a small tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.helpers.tiny import tiny_tokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(**LLAMA, **shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)


def make_adapter(base: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from stages.core.files import atomic_directory, write_json
    from stages.student.formats.litgpt import LoRAConfig, LoRAGPT

    targets = {f"lora_{name}": True for name in TARGETS}
    with torch.device("meta"):
        config = LoRAConfig.from_file(base / "model_config.yaml", lora_r=16, lora_alpha=32, **targets)
        model = LoRAGPT(config)
    torch.manual_seed(1)
    names = {n: p.shape for n, p in model.named_parameters() if "lora_" in n}
    with atomic_directory(target, producer="benchmark") as directory:
        save_file({n: torch.randn(s) * 0.02 for n, s in names.items()}, directory / "adapter.safetensors")
        write_json(directory / "lora.json", {**LORA, "targets": TARGETS})


def measured(command: list[str]) -> dict:
    """Seconds of a process, and the peaks of its resident and its anonymous memory, in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    anonymous = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, anonymous))
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    watcher.join()
    assert process.returncode == 0, f"{command} failed"
    return {"seconds": seconds, "resident": usage.ru_maxrss * 1024, "anonymous": max(anonymous)}


def _watch(pid: int, seen: list[int]) -> None:
    """Append the anonymous memory of the process, ten times a second, until it ends."""
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = [line for line in lines if line.startswith("RssAnon:")]
        if not found:
            return
        seen.append(int(found[0].split()[1]) * 1024)
        time.sleep(0.1)


def copy(file: Path) -> float:
    """Seconds of `cp` and fsync of the copy."""
    target = file.with_name("copy")
    started = time.perf_counter()
    subprocess.run(["cp", str(file), str(target)], check=True)
    with open(target, "rb") as stream:
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def prepare(shape: dict) -> None:
    """Source, base and adapter in the working directory, unless they are there."""
    here = "from pathlib import Path; from benchmarks import merge; merge."
    if not Path("models/d/adapter").exists():
        run([sys.executable, "-c", f"{here}make_source(Path('source'), {shape!r})"])
        run(STAGES["base"])
        run([sys.executable, "-c", f"{here}make_adapter(Path('models/base/m'), Path('models/d/adapter'))"])


def measure(stages: list[str], rounds: int) -> dict:
    model = Path("models/base/m/lit_model.pth")
    found, copies = {name: [] for name in stages}, [copy(model)]
    for _ in range(rounds):
        for name in stages:
            for output in OUTPUTS[name]:  # DVC removes them before it runs a stage
                shutil.rmtree(output, ignore_errors=True)
            found[name].append(measured(STAGES[name]))
            copies.append(copy(model))
            print(f"{name}: {found[name][-1]['seconds']:.1f} s; copy {copies[-1]:.1f} s", file=sys.stderr)
    return summary(found, copies, model.stat().st_size)


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def summary(found: dict[str, list[dict]], copies: list[float], size: int) -> dict:
    """Medians of the rounds; time as a multiple of the copy's, memory of the model's file."""
    plain = statistics.median(copies)
    result = {"model_bytes": size, "copy_s": round(plain, 2), "copies_s": [round(s, 2) for s in copies]}
    for name, rounds in found.items():
        seconds = statistics.median(each["seconds"] for each in rounds)
        resident, anonymous = (max(each[kind] for each in rounds) for kind in ("resident", "anonymous"))
        result[name] = {
            "seconds": round(seconds, 2),
            "times_copy": round(seconds / plain, 2),
            "resident_mib": resident >> 20,
            "resident_times_model": round(resident / size, 2),
            "anonymous_times_model": round(anonymous / size, 2),
        }
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--shape", choices=SHAPES, default="llama-135m")
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments.add_argument("--keep", help="folder to make the model in, and to find it in the next time")
    given = arguments.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "RETORT_TRACKING": "off"}
    home = Path.cwd()
    (ROOT / "data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "data") as scratch:
        place = Path(given.keep or scratch)
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        try:
            prepare(SHAPES[given.shape])
            print(json.dumps({"shape": given.shape} | measure(given.stages, given.rounds)))
        finally:
            os.chdir(home)


if __name__ == "__main__":
    main()
