"""One MLflow run a stage: parameters, metrics, curves, provenance. Pointers go MLflow → git/DVC, never back.

`RETORT_TRACKING=off` switches it off. The store is `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db`.
A stage never imports mlflow: a child process does (`python -m stages.core.tracking`), while the stage
works. It reads one JSON line when the stage begins and one when it succeeds; if the second never comes,
whatever the reason, the run ends FAILED. Trouble with tracking is told on stderr and never fails a stage.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core import layout
from stages.core.files import read_jsonl
from stages.core.processes import collect_seldom, first_process
from stages.core.versions import git, locked_hashes
from stages.core.yaml_text import read_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
PATIENCE_S = 60.0
BATCH = 1000  # the most metrics that MLflow takes in one request

UNFIT = re.compile(r"[^\w\-. :/]")  # what MLflow takes in no name: it would refuse all metrics of the stage


@contextmanager
def stage_run(stage: str, dataset: str, params: dict) -> Iterator[Callable[[dict, dict], None]]:
    """Yield `record(metrics, timings)`; without a call to it (an error) the run ends FAILED."""
    if os.environ.get("RETORT_TRACKING") == "off" or not first_process():
        yield lambda metrics, timings: None
        return
    child = subprocess.Popen(
        [sys.executable, "-m", "stages.core.tracking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the stage; the child then sees its input end
    )
    assert child.stdin
    to_child = child.stdin

    def tell(message: dict) -> None:
        with suppress(BrokenPipeError):
            to_child.write(json.dumps(message) + "\n")
            to_child.flush()

    tell({"stage": stage, "dataset": dataset, "params": params})
    try:
        yield lambda metrics, timings: tell({"metrics": metrics, "timings": timings})
    finally:
        with suppress(BrokenPipeError):
            to_child.close()
        try:
            child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            print(f"tracking: gave up after {PATIENCE_S:.0f} s; is {uri()} reachable?", file=sys.stderr)


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def connect() -> "MlflowClient":
    """An MlflowClient; its sqlite database is made if need be."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    with one_at_a_time():
        client = MlflowClient(uri(), uri())
        client.search_experiments(max_results=1)
    return client


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Exclusive between processes that log to one sqlite file: two cannot make it, or write, at once."""
    with open((uri().partition("sqlite:///")[2] or "mlflow.db") + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def flat(values: object, prefix: str = "") -> dict[str, float]:
    """The numbers in nested dicts, under dotted names; anything else is left out."""
    if isinstance(values, dict):
        return {k: v for name, value in values.items() for k, v in flat(value, f"{prefix}.{name}").items()}
    return {prefix.lstrip("."): float(values)} if isinstance(values, (int, float)) else {}


def input_hashes(stage: str, dataset: str, params: dict) -> dict[str, str]:
    """Path → md5 of the outputs that `stage` reads, by its deps in dvc.yaml and the hashes in dvc.lock."""
    if not Path("dvc.yaml").is_file():
        return {}
    deps = read_yaml(Path("dvc.yaml"))["stages"].get(stage, {}).get("do", {}).get("deps", ())
    known = locked_hashes()
    for name, value in {"key": dataset, **{f"item.{key}": value for key, value in params.items()}}.items():
        deps = [dep.replace(f"${{{name}}}", str(value)) for dep in deps]
    return {dep: known[dep] for dep in deps if dep in known}


def provenance(stage: str, dataset: str, params: dict) -> dict[str, str]:
    """Tags that lead from a run back to git and DVC."""
    tags = {f"dvc.input.{path}": md5 for path, md5 in input_hashes(stage, dataset, params).items()}
    tags["dvc.stage"] = os.environ.get("DVC_STAGE", f"{stage}@{dataset}")
    if (commit := git("rev-parse", "HEAD")) is not None:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def measured(stage: str, dataset: str, result: dict) -> list:
    """MLflow metrics: the stage's figures, its timings under `time.`, and a finetuning's curve by step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    figures = {**flat(result["metrics"]), **flat(result["timings"], "time")}
    metrics = [
        Metric(UNFIT.sub("_", name.replace("@", "_at_")), value, now, 0) for name, value in figures.items()
    ]
    curve = layout.model(dataset, "adapter") / "curve.jsonl"
    for row in read_jsonl(curve) if stage == "finetune" and curve.is_file() else ():
        step = row.pop("step")
        metrics += [Metric(f"curve.{name}", value, now, step) for name, value in flat(row).items()]
    return metrics


def follow() -> None:
    """The child: log the run that standard input describes."""
    begun = json.loads(sys.stdin.readline())
    stage, dataset, params = begun["stage"], begun["dataset"], begun["params"]
    client = connect()
    from mlflow.entities import Param

    given = [Param(key, str(value)) for key, value in params.items() if value is not None]
    name, tags = os.environ.get("DVC_STAGE", stage), provenance(stage, dataset, params)
    with one_at_a_time():
        experiment = client.get_experiment_by_name(dataset)
        number = experiment.experiment_id if experiment else client.create_experiment(dataset)
        run = client.create_run(number, run_name=name, tags=tags).info.run_id
        client.log_batch(run, params=given)
    line = sys.stdin.readline()
    metrics = measured(stage, dataset, json.loads(line)) if line else []
    with one_at_a_time():
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics=metrics[start : start + BATCH])
        client.set_terminated(run, "FINISHED" if line else "FAILED")


if __name__ == "__main__":
    collect_seldom()
    try:
        follow()
    except Exception as error:  # tracking is a record of the work, not part of it
        print(f"tracking: not logged to {uri()}: {error}".splitlines()[0], file=sys.stderr)
