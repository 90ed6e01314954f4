"""The runner ray on a local cluster of two workers, one of which is killed in the middle of its shard."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stages.generate import run as stage
from stages.knobs import GenerateKnobs
from tests.helpers.completions import completions, decoding, make_project

ray = pytest.importorskip("ray", reason="pip install ray==2.60.0")


@pytest.fixture
def student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RETORT_SHARED", raising=False)
    make_project(20)
    with completions() as running:
        yield running


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    running = Cluster(True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", running.address)
    yield running
    running.shutdown()


def shard_bytes() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("data/d/generated").iterdir()}


def worker_of(part: Path) -> int | None:
    """The process that holds an attempt's file open."""
    for process in Path("/proc").iterdir():
        try:
            held = (
                [os.readlink(link) for link in (process / "fd").iterdir()] if process.name.isdigit() else []
            )
        except OSError:
            continue
        if str(part.resolve()) in held and int(process.name) != os.getpid():
            return int(process.name)
    return None


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_shard_costs_no_row(student, cluster, monkeypatch):
    knobs = {**decoding(student), "shards": 2}
    stage("d", GenerateKnobs(**knobs))
    local = shard_bytes()
    shutil.rmtree("data/d/generated")
    shutil.rmtree("data/.work")
    monkeypatch.setattr("stages.generate.prune", lambda scratch, used: None)
    student.asked.clear()
    student.delay, killed = 0.3, []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for part in Path("data/.work").glob("*/*.part"):
                if part.read_bytes().count(b"\n") >= 4 and (pid := worker_of(part)):
                    os.kill(pid, signal.SIGKILL)
                    killed.append((part, part.read_bytes().count(b"\n")))
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    metrics = stage("d", GenerateKnobs(**knobs, runner="ray", num_cpus=1))
    killer.join()
    assert killed and metrics["rows"] == 40 and shard_bytes() == local
    (part, before), key = killed[0], killed[0][0].name.split(".")[0]
    parts = {path: path.read_bytes().count(b"\n") for path in part.parent.glob(f"{key}.*.part")}
    assert len(parts) == 2 and parts[part] >= before, "the item was tried again"
    rows = (part.parent / f"{key}.jsonl").read_bytes().count(b"\n")
    assert sum(parts.values()) == rows, "the second attempt made rows again that the first one had finished"
    assert sum(student.asked.values()) <= 40 + 2 * knobs["batch_size"]  # and those in flight at the kill


def test_no_cluster_and_an_unknown_runner_end_with_code_2(student):
    flags = [part for key, value in decoding(student).items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "RAY_ADDRESS": "127.0.0.1:1"}
    for arguments, said in (
        (["--runner", "ray"], "no cluster at 127.0.0.1:1"),
        (["--runner", "x"], "runner"),
    ):
        command = [sys.executable, "-m", "stages", "generate", "d", *flags, *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 2 and said in ended.stderr.splitlines()[-1], ended.stderr
