"""One MLflow run a stage: parameters, metrics, curves, provenance. Pointers go MLflow → git/DVC, never back.

`RETORT_TRACKING=off` switches it off. The store is `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db`.
A stage never imports mlflow: a child process does (`python -m stages.core.tracking`), while the stage
works. It reads one JSON line when the stage begins and one when it succeeds; if the second never comes,
whatever the reason, the run ends FAILED. A build is a run, too, the parent of those of its stages. Trouble
with tracking is one line on stderr, without the login in the address, and never fails a stage.
"""

import fcntl
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_jsonl
from stages.core.messages import say
from stages.core.processes import collect_seldom, first_process
from stages.core.versions import git, locked_hashes
from stages.core.yaml_text import read_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
PATIENCE_S = 60.0
BATCH = 1000  # the most metrics that MLflow takes in one request
FEW = 100  # and the most parameters
BUILD, PARENT = "build", "RETORT_PARENT_RUN"  # the run of a build, and where its stages find the id of it
# A server that does not answer is given up within seconds; a user's own settings win.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

UNFIT = re.compile(r"[^\w\-. :/]")  # what MLflow takes in no name: it would refuse all metrics of the stage


@contextmanager
def stage_run(stage: str, dataset: str, params: dict) -> Iterator[Callable[[dict | None, dict], None]]:
    """Yield `record(metrics, timings)`; without a call to it (an error) the run ends FAILED.

    Of a BUILD, `params` are those of all its stages. If it cannot be logged, they do not try again. After
    `record(None, {})`, which says that nothing was to be built, no run is kept.
    """
    if os.environ.get("RETORT_TRACKING") == "off" or not first_process():
        yield lambda metrics, timings: None
        return
    child = subprocess.Popen(
        [sys.executable, "-m", "stages.core.tracking"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the stage; the child then sees its input end
    )
    assert child.stdin and child.stdout
    to_child = child.stdin

    def tell(message: dict) -> None:
        with suppress(BrokenPipeError):
            to_child.write(json.dumps(message) + "\n")
            to_child.flush()

    tell({"stage": stage, "dataset": dataset, "params": params})
    patience = PATIENCE_S
    if stage == BUILD:
        answers, _, _ = select.select([child.stdout], [], [], PATIENCE_S)
        run = child.stdout.readline().strip() if answers else ""
        os.environ.update({PARENT: run} if run else {"RETORT_TRACKING": "off"})
        patience = PATIENCE_S if answers else 0
    try:
        yield lambda metrics, timings: tell({"metrics": metrics, "timings": timings})
    finally:
        with suppress(BrokenPipeError):
            to_child.close()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            say(f"tracking: gave up after {PATIENCE_S:.0f} s; is {address()} reachable?")


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def login() -> str:
    """`user:password` of the store's address, or ""; a password may hold any character, also / and @."""
    rest = uri().partition("://")[2] or uri()
    return "" if rest.startswith("/") else rest.rpartition("@")[0]


def address() -> str:
    """The store's address without what logs in: to be shown."""
    text = uri().replace(f"{login()}@", "", 1) if login() else uri()
    return text.partition("?")[0]


def blanked(text: str) -> str:
    """The first line of `text`, such as a message of MLflow, without any part of the login in any form."""
    user, _, password = login().partition(":")
    query = re.split(r"[&=]", uri().partition("?")[2])
    secrets = {login(), user, password, *query, *(os.environ.get(name, "") for name in LOGINS)}
    secrets |= {unquote(secret) for secret in secrets}
    secrets |= {b64encode(secret.encode()).decode() for secret in secrets}  # as a server is told it
    text = (text.splitlines() or [""])[0].replace(uri(), address())
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = re.sub(
            rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", "***", text
        )  # "a" is not part of "database"
    return text


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """Raise what MLflow raises as UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"MLflow at {address()}: {blanked(str(error)) or type(error).__name__}") from None


def connect() -> "MlflowClient":
    """An MlflowClient; its sqlite database is made if need be. Raises OSError where nothing listens."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    place = urlsplit(uri().replace(f"{login()}@", "", 1))
    if port := PORTS.get(place.scheme.partition("+")[0]):  # MLflow would try a database for minutes
        socket.create_connection((place.hostname or "localhost", place.port or port), 10).close()
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


def follow(begun: Callable[[str], None]) -> None:
    """The child: log the run that standard input describes; `begun` is told its id."""
    message = json.loads(sys.stdin.readline())
    stage, dataset, params = message["stage"], message["dataset"], message["params"]
    client = connect()
    from mlflow.entities import Param

    given = [Param(key, str(value)) for key, value in params.items() if value is not None]
    name, tags = os.environ.get("DVC_STAGE", stage), provenance(stage, dataset, params)
    if parent := os.environ.get(PARENT):
        tags["mlflow.parentRunId"] = parent
    with one_at_a_time():
        experiment = client.get_experiment_by_name(dataset)
        number = experiment.experiment_id if experiment else client.create_experiment(dataset)
        run = client.create_run(number, run_name=name, tags=tags).info.run_id
        for start in range(0, len(given), FEW):
            client.log_batch(run, params=given[start : start + FEW])
    begun(run)
    line = sys.stdin.readline()
    result = json.loads(line) if line else {"metrics": {}, "timings": {}}
    with one_at_a_time():
        if result["metrics"] is None:
            client.delete_run(run)
            return
        metrics = measured(stage, dataset, result) if line else []
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics=metrics[start : start + BATCH])
        client.set_terminated(run, "FINISHED" if line else "FAILED")


if __name__ == "__main__":
    collect_seldom()
    stdout = sys.stdout
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            follow(lambda run: print(run, file=stdout, flush=True))
    except Exception as error:  # tracking is a record of the work, not part of it
        reason = blanked(str(error)) or type(error).__name__
        say(f"tracking: not logged to {address()}: {reason}")
