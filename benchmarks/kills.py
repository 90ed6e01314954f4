"""kill -9 a build at random moments in every stage: does the next one go on, and to the same bytes?

A project with tiny datasets is built once, undisturbed: `alpha` takes part in the spine and in the kind xc,
`beta` in corpus_xc, `otto` in the kind skills. The teacher is a local server. For each kill, a copy in which
one stage has never run makes it, by the command of a build, and the whole process group gets SIGKILL: half of
the kills at any moment that the stage took undisturbed, half after the first trace that it left in the tree.
Then the dataset is built (`python -m stages build`), to the end.

- moments: where the kills struck. After its record in dvc.lock a stage is finished.
- refused: kills after which the build failed.
- mismatches: kills after which some file of a declared output was another than in the undisturbed project.
  Figures of time are left out, and so is the report, which shows them, unless the report itself was killed.
- left_over: files in the tree that the undisturbed project has not.
- asked_again: requests that the teacher got once more though their answer was in the store.
- in_flight: requests whose answer was not in the store when the kill struck, and which were asked again.
- bf16: `generate` with OpenVINO in bf16, killed a few times, too. A near tie may fall otherwise there beside
  other neighbours (docs/guide/engines.md), so its texts are counted that came out differently.

base_hub and base_package are not killed: what they read is fetched from a hub, or by set-up.

    python -m benchmarks.kills [--kills 50] [--seed 1]
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
from ruamel.yaml import YAML

from demo.teacher import queries
from stages.core import layout
from stages.core.hashing import sha256_file
from tests.helpers.teacher_server import Teacher, fake_answer
from tests.helpers.workspace import ROOT, Workspace, tiny_params
from tests.helpers.xc_fixture import orcas

DATASETS = ("alpha", "beta", "otto")
REPRO = ("stages.core.dvc", "--wait-for-lock", "repro", "-s")  # as a build calls it
MONEY = ("requests", "asked_again", "in_flight")
SHORT_S, TIME_LIMIT_S = 0.3, 600
UNTIMED = {"latency_requests": 0}  # latencies are figures of time
SMALL = {
    "corpus_briefs": {"positive": 1, "more": [], "near_miss": 1, "other": 1, "examples": 8},
    "corpus_skills": {"test_templates": 0.3, "test_values": 0.3},
    "tokenize": {"base": "tiny", "max_length": 200},
    "finetune": {"base": "tiny", "lora_r": 2, "precision": "32-true"},
    "merge": {"base": "tiny"},
    "export": {"base": "tiny", "parity_tolerance": 0.01},
    "evaluate_calls": {"base": "tiny", "precision": "f32", "bootstrap": 20, "limit": 8, **UNTIMED},
}
BF16 = {"engine": "openvino", "precision": "bf16", "threads": 2}


def answer(messages: list[dict]) -> str:
    """What the teacher says: by the demo's rules; they know nothing to say to alpha's word salad."""
    try:
        return queries.answer(messages)
    except ValueError:
        return fake_answer(messages)


def make_project(directory: Path, url: str) -> Workspace:
    """A project with the three datasets, of which nothing is built."""
    project = Workspace.create(directory, url)
    for number in range(12):
        project.add_document("alpha", f"subject{number}")
    blocks = tiny_params(url)
    for datasets in blocks.values():
        datasets.pop("beta", None)
    blocks["filter"]["alpha"]["well_formed"] = False  # the tiny model writes noise
    blocks["finetune"]["alpha"] |= {"epochs": 4, "save_interval": 1}
    blocks["generate"]["alpha"] |= {"share": 1, "workers": 2}
    orcas(directory / "sources/orcas")
    blocks["corpus_xc"]["beta"] = {
        "path": "sources/orcas",
        "points": "queries",
        "tokenizer": "models/shipped/tiny",
    }
    for stage, datasets in YAML(typ="safe").load(ROOT / "prompts/otto/params.yaml").items():
        for dataset, knobs in datasets.items():
            served = {"base_url": url, "api_key_env": ""} if stage == "collect" else {}
            blocks[stage][dataset] = knobs | SMALL.get(stage, {}) | served
    blocks["collect"]["alpha"]["api_key_env"] = ""
    project.write_params(blocks)
    eval_rows = directory / "prompts/otto/eval_rows.jsonl"
    eval_rows.write_text("".join(eval_rows.read_text().splitlines(keepends=True)[:4]))
    project.commit("a project to be killed")
    return project


def start(project: Workspace, log: Path, *command: str) -> subprocess.Popen:
    """Start a module in a process group of its own; what it prints goes to `log`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "RETORT_TRACKING": "off"}
    with open(log, "w") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=project.directory,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def running(log: Path) -> list[str]:
    """The stages that a build has begun, in order."""
    return [line.split("'")[1] for line in log.read_text().splitlines() if line.startswith("Running stage")]


def wait(process: subprocess.Popen, until: Callable[[], object]) -> bool:
    """Wait until something is so; False if the process ends before."""
    while not until():
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def undisturbed(project: Workspace, log: Path) -> dict[str, float]:
    """Build everything; returns the seconds of every stage, what DVC does after it included."""
    seconds: dict[str, float] = {}
    for dataset in DATASETS:
        process, begun = start(project, log, "stages", "build", dataset), {}
        while process.poll() is None:
            for target in running(log):
                begun.setdefault(target, time.monotonic())
            time.sleep(0.005)
        if process.returncode:
            sys.exit(f"the undisturbed build of {dataset} failed:\n{log.read_text()}")
        ends = [*list(begun.values())[1:], time.monotonic()]
        seconds |= {target: end - start for (target, start), end in zip(begun.items(), ends, strict=True)}
    return seconds


def targets(project: Workspace, kills: int) -> list[str]:
    """The stages to kill, in turn; one that has several datasets, each time with the next of them."""
    by_stage: dict[str, list[str]] = {}
    for target in sorted(project.lock()):
        by_stage.setdefault(target.split("@")[0], []).append(target)
    return [own[turn % len(own)] for turn in range(kills) for stage, own in by_stage.items()][:kills]


def dataset_of(target: str) -> str:
    """The dataset to build for a stage; what datasets share is built with alpha."""
    name = target.partition("@")[2].removesuffix("_candidates")
    return name if name in DATASETS else "alpha"


def undo(project: Workspace, target: str) -> None:
    """Bring the project to where this stage has never run; what it paid for is forgotten too."""
    lock = project.directory / "dvc.lock"
    content = YAML(typ="safe").load(lock)
    for out in content["stages"].pop(target)["outs"]:
        path = project.directory / out["path"]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    YAML(typ="safe").dump(content, lock)
    paid = [layout.STORE.parent] if target.startswith("collect@") else []
    for folder in (layout.SCRATCH, Path(".dvc/cache/runs"), *paid):
        shutil.rmtree(project.directory / folder, ignore_errors=True)


def outputs(project: Workspace) -> dict[str, str]:
    """sha256 of every file of a declared output, but for figures of time."""
    outs = [project.directory / out["path"] for stage in project.lock().values() for out in stage["outs"]]
    files = [file for out in outs for file in (out.rglob("*") if out.is_dir() else [out]) if file.is_file()]
    names = {file.relative_to(project.directory).as_posix(): file for file in files}
    return {name: sha256_file(file) for name, file in names.items() if "/figures/time/" not in name}


def tree(project: Workspace) -> set[str]:
    """All files but those of git, of DVC's own folder, and logs."""
    left_out = (".git", ".dvc", "logs")
    found = (file.relative_to(project.directory) for file in project.directory.rglob("*") if file.is_file())
    return {file.as_posix() for file in found if file.parts[0] not in left_out and file.suffix != ".pyc"}


def traces(project: Workspace, outs: list[str]) -> set[Path]:
    """What lies beside the stage's outputs, in scratch and beside the store."""
    root, folders = project.directory, {layout.STORE.parent, *(Path(out).parent for out in outs)}
    beside = (path for folder in folders for path in (root / folder).glob("*"))
    return {*beside, *(root / layout.SCRATCH).rglob("*")}


def stored(project: Workspace) -> int:
    """Requests whose answer is in the store."""
    store = project.directory / layout.STORE
    if not store.exists():
        return 0
    with sqlite3.connect(store, timeout=10) as connection:
        try:
            query = "SELECT count(DISTINCT request_key) FROM attempts WHERE raw IS NOT NULL"
            return connection.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # killed before it had made its tables
            return 0


def moment_of(project: Workspace, target: str, traced: bool) -> str:
    """Where a kill struck."""
    if target in project.lock():
        return "after its record"
    return "after its first trace" if traced else "before its first trace"


class Killer:
    """Kills builds of copies of a project, one after the other, and counts what comes of it."""

    def __init__(self, folder: Path, teacher: Teacher, seed: int):
        self.folder, self.teacher, self.chance = folder, teacher, random.Random(seed)
        self.moments: Counter[str] = Counter()
        self.counts = dict.fromkeys(("refused", "mismatches", "left_over", *MONEY), 0)

    def kill(self, pristine: Workspace, target: str, seconds: float, busy: bool) -> Workspace | None:
        """Kill `target` and build the dataset; returns the project, None if that is refused."""
        place, log = self.folder / "killed", self.folder / "log"
        shutil.rmtree(place, ignore_errors=True)
        project = Workspace(Path(shutil.copytree(pristine.directory, place, symlinks=True)))
        outs = [out["path"] for out in project.lock()[target]["outs"]]
        undo(project, target)
        self.teacher.seen.clear()
        before, process = traces(project, outs), start(project, log, *REPRO, target)
        wait(process, lambda: target in running(log))
        began = time.monotonic()
        if busy:
            wait(process, lambda: traces(project, outs) - before)
        time.sleep(self.chance.random() * max(began + seconds - time.monotonic(), SHORT_S))
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        moment = moment_of(project, target, bool(traces(project, outs) - before))
        self.moments[moment] += 1
        print(f"{target}: killed {moment}", file=sys.stderr, flush=True)
        time.sleep(SHORT_S)  # the server ends with what is in flight
        kept, calls = stored(project), self.teacher.calls
        ended = start(project, log, "stages", "build", dataset_of(target)).wait(TIME_LIMIT_S)
        self.count_money(calls, kept if target.startswith("collect@") else None)
        if not ended:
            return project
        self.counts["refused"] += 1
        print(log.read_text()[-2000:], file=sys.stderr, flush=True)
        return None

    def count_money(self, calls: int, kept: int | None) -> None:
        """`calls` before the kill; answers `kept` in the store then, None for a stage that asks nothing."""
        asked = len(self.teacher.seen)
        to_ask = 0 if kept is None else asked - kept
        self.counts["requests"] += asked
        self.counts["asked_again"] += self.teacher.calls - calls - to_ask
        self.counts["in_flight"] += calls - (kept or 0)

    def compare(self, project: Workspace, pristine: Workspace, target: str) -> None:
        found, expected = outputs(project), outputs(pristine)
        differ = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
        if not target.startswith("report@"):
            differ = {name for name in differ if not name.endswith("/report.html")}
        left = tree(project) - tree(pristine)
        self.counts["mismatches"] += bool(differ)
        self.counts["left_over"] += len(left)
        if differ or left:
            print(f"  differ: {sorted(differ)}; left over: {sorted(left)}", file=sys.stderr, flush=True)


def texts(project: Workspace) -> dict[tuple[str, int], str]:
    """The text of every generated row of alpha."""
    shards = sorted((project.directory / layout.generated("alpha")).glob("*.parquet"))
    rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    return {(row["document_id"], row["sample"]): row["text"] for row in rows}


def in_bf16(killer: Killer, pristine: Workspace, kills: int, seconds: float) -> dict[str, int]:
    """Kill `generate` in a project where it runs in bf16; `pristine` is changed into it."""
    blocks = pristine.params()
    blocks["generate"]["alpha"] |= BF16
    pristine.write_params(blocks)
    if start(pristine, killer.folder / "log", "stages", "build", "alpha").wait():
        sys.exit((killer.folder / "log").read_text())
    expected, changed, missing = texts(pristine), 0, 0
    for number in range(kills):
        project = killer.kill(pristine, "generate@alpha", seconds, busy=number % 2 == 1)
        found = texts(project) if project else {}
        missing += len(expected.keys() - found.keys())
        changed += sum(expected[key] != text for key, text in found.items())
    return {"kills": kills, "rows": kills * len(expected), "rows_missing": missing, "texts_changed": changed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    teacher = Teacher(delay=0.05, answer=answer)
    with teacher.running() as url, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pristine, killer = make_project(folder / "project", url), Killer(folder, teacher, given.seed)
        seconds = undisturbed(pristine, folder / "log")
        print({target: round(own, 1) for target, own in seconds.items()}, file=sys.stderr, flush=True)
        chosen = targets(pristine, given.kills)
        for number, target in enumerate(chosen):
            # Each stage in one round at any moment, in the next after its first trace.
            busy = (number + chosen[:number].count(target)) % 2 == 1
            if project := killer.kill(pristine, target, seconds[target], busy):
                killer.compare(project, pristine, target)
            print(f"{number + 1} kills: {killer.counts}", file=sys.stderr, flush=True)
        found = {"stages": len({target.split("@")[0] for target in chosen}), "moments": killer.moments}
        found |= killer.counts
        found["bf16"] = in_bf16(killer, pristine, max(given.kills // 10, 1), seconds["generate@alpha"])
    print(json.dumps({"benchmark": "kills", "kills": given.kills, "seed": given.seed, **found}))


if __name__ == "__main__":
    main()
