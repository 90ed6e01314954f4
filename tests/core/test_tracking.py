"""MLflow runs: what a stage leaves behind, also when it fails, is killed, or is not alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.core import tracking

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

STAGE = """
import sys, time
from stages.core.tracking import stage_run
dataset, what = sys.argv[1:]
with stage_run("finetune", dataset, {"lr": 0.1, "base": "tiny"}) as record:
    if what == "fail":
        raise RuntimeError("planned")
    if what == "hang":
        time.sleep(60)
    figures = {"loss": {"best": 1.5}, "left, out": 3, "ok": True, "note": "no number", "none": None}
    record(figures, {"seconds": 2.0})
assert "mlflow" not in sys.modules
"""


def start(directory: Path, dataset: str, what: str, **more: str) -> subprocess.Popen:
    drop = {"RETORT_TRACKING", "MLFLOW_TRACKING_URI", "DVC_STAGE"}
    env = (
        {key: value for key, value in os.environ.items() if key not in drop}
        | {"PYTHONPATH": str(ROOT)}
        | more
    )
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, dataset, what],
        cwd=directory,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A repository in which four stages ran at once, before there was a database."""
    directory = tmp_path_factory.mktemp("tracked")
    (directory / "dvc.yaml").write_text(
        "stages: {finetune: {foreach: '${finetune}', do: {cmd: x, deps: ['data/${key}/tokens',"
        " 'models/base/${item.base}', stages/finetune.py]}}}\n"
    )
    (directory / "dvc.lock").write_text(
        "stages: {a: {outs: [{path: data/one/tokens, md5: aa.dir}, {path: models/base/tiny, md5: bb.dir}]},"
        " b: {outs: [{path: models/one/hf, md5: cc.dir}]}}\n"
    )
    curve = directory / "models/one/adapter/curve.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text(
        "".join(json.dumps({"step": s, "train_loss": 3.0 - s, "lr": 0.1}) + "\n" for s in (1, 2))
    )
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run([*git, "init", "-q"], cwd=directory, check=True)
    subprocess.run([*git, "add", "dvc.yaml"], cwd=directory, check=True)
    subprocess.run([*git, "commit", "-qm", "x"], cwd=directory, check=True)
    ran = [
        start(directory, "one", "work", DVC_STAGE="finetune@one"),
        start(directory, "one", "fail"),
        start(directory, "two", "work"),
        start(directory, "two", "hang"),
    ]
    assert [process.wait(120) for process in ran[:3]] == [0, 1, 0], [
        process.stderr.read() for process in ran[:3]
    ]
    ran[3].send_signal(signal.SIGKILL)
    return directory


def runs(store: Path, monkeypatch, experiment: str) -> list:
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = tracking.connect()
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_a_run_has_parameters_figures_curve_and_provenance(store, monkeypatch):
    found = {run.info.status: run for run in runs(store, monkeypatch, "one")}
    assert set(found) == {"FINISHED", "FAILED"}
    done = found["FINISHED"]
    assert done.info.run_name == "finetune@one"
    assert done.data.params == {"lr": "0.1", "base": "tiny"}
    expected = {
        "loss.best": 1.5,
        "left_ out": 3.0,
        "ok": 1.0,
        "time.seconds": 2.0,
        "curve.train_loss": 1.0,
        "curve.lr": 0.1,
    }
    assert done.data.metrics == expected
    history = tracking.connect().get_metric_history(done.info.run_id, "curve.train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
    tags = done.data.tags
    assert tags["dvc.stage"] == "finetune@one" and tags["git.dirty"] == "false"
    assert tags["dvc.input.data/one/tokens"] == "aa.dir" and tags["dvc.input.models/base/tiny"] == "bb.dir"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=store, capture_output=True, text=True
    ).stdout.strip()
    assert tags["mlflow.source.git.commit"] == head
    assert found["FAILED"].data.metrics == {}


def test_a_killed_stage_ends_failed_and_others_are_untouched(store, monkeypatch):
    deadline = time.monotonic() + 60
    while (states := sorted(r.info.status for r in runs(store, monkeypatch, "two"))) != [
        "FAILED",
        "FINISHED",
    ]:
        assert time.monotonic() < deadline, states
        time.sleep(0.5)


def test_a_store_that_cannot_be_reached_fails_no_stage(tmp_path):
    process = start(tmp_path, "one", "work", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/absent/mlflow.db")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors.count("\n") == 1 and errors.startswith("tracking: not logged to sqlite:///")


BUILD = """
import subprocess, sys, time
from stages.core import tracking
stages, begun = int(sys.argv[2]), time.monotonic()
with tracking.stage_run(tracking.BUILD, "shop", {"finetune.lr": 0.1}) as record:
    for _ in range(stages):
        subprocess.run([sys.executable, "-c", sys.argv[1], "shop", "work"], check=True)
    record({"student": {"hit_at_10": {"mean": 0.5}}} if stages else None, {})
print(time.monotonic() - begun)
"""


def build(directory: Path, stages: int, uri: str) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if key != "RETORT_TRACKING"}
    env |= {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-c", BUILD, STAGE, str(stages)]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_refuses_is_told_once_a_build_and_without_its_password(tmp_path, scheme):
    done = build(tmp_path, 3, f"{scheme}://alice:hunter2@127.0.0.1:9/db")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"tracking: not logged to {scheme}://127.0.0.1:9")
    assert "hunter2" not in done.stderr and "alice" not in done.stderr
    assert float(done.stdout) < 30  # at once: what remains is to import mlflow


def test_the_runs_of_a_build_are_children_of_its_own_and_a_build_of_nothing_has_none(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    build(tmp_path, 1, uri)
    build(tmp_path, 0, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = tracking.connect()
    found = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    ran = {run.info.run_name: run for run in found}
    assert len(found) == 2 and set(ran) == {"build", "finetune"}
    own = ran["build"]
    assert own.data.params == {"finetune.lr": "0.1"} and own.data.metrics["student.hit_at_10.mean"] == 0.5
    assert own.info.status == "FINISHED"
    assert ran["finetune"].data.tags["mlflow.parentRunId"] == own.info.run_id


def test_a_follower_of_a_distributed_run_logs_nothing(tmp_path):
    process = start(tmp_path, "one", "work", LOCAL_RANK="1")
    assert process.wait(60) == 0
    assert not (tmp_path / "mlflow.db").exists()


def test_register_points_to_the_student_and_copies_nothing(store, monkeypatch):
    from stages.commands.register import register
    from stages.core.errors import UserError

    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert [str(register("one", "current")) for _ in range(2)] == ["1", "2"]
    version = tracking.connect().get_model_version_by_alias("one", "current")
    assert (
        str(version.version) == "2"
        and version.source == "models/one/hf"
        and version.tags["dvc.md5"] == "cc.dir"
    )
    assert not (store / "mlruns").exists() and not (store / "mlartifacts").exists()
    with pytest.raises(UserError, match="make two"):
        register("two", "current")
