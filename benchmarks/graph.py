"""What the graph itself costs: a `dvc repro` with nothing to do, and what one more document costs.

Makes a project of DATASETS datasets with SHARDS shards of generated rows in a temporary folder. The first
dataset is really built, with a tiny model and a local teacher; the others are copies of its outputs, put on
record with `dvc commit`. Then a document is added to the first: `added_document_s` is one `dvc repro` of its
request, its answer and the shard that it is in, and `own_shard_s` that shard made by a process that does
nothing else. Last, two small datasets are built from nothing, one after the other and side by side.

    python -m benchmarks.graph [--datasets 8] [--shards 400]
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from stages.core.files import read_json
from tests.helpers.teacher_server import Teacher
from tests.helpers.workspace import Workspace, tiny_params

os.environ["RETORT_TRACKING"] = "off"
KEY = {"TEACHER_KEY": "sk-test"}
ADDED = ("corpus", "prompt", "collect", "generate")  # what a new document needs to be written for
SHARDS = "data/.work/generate-alpha-*/*.jsonl"
BAR_S = 5.0  # more than its shard alone takes


def timed(project: Workspace, *command: str) -> tuple[float, str]:
    began = time.perf_counter()
    output = project.run(*command, **KEY)
    return time.perf_counter() - began, output


def first_dataset(directory: Path, teacher_url: str, shards: int) -> Workspace:
    """A project in which the dataset alpha has a document for each shard, and is built."""
    project = Workspace.create(directory, teacher_url)
    for number in range(2 * shards):
        project.add_document("alpha", f"subject{number}")
    blocks = tiny_params(teacher_url)
    for knobs in blocks.values():
        knobs.pop("beta", None)
    for stage in ("generate", "baseline"):
        # One thread: the tiny model has no work for two.
        blocks[stage]["alpha"] |= {"shards": shards, "batch_size": 4, "threads": 1}
    blocks["filter"]["alpha"] = {"well_formed": False}  # the tiny model writes noise
    project.write_params(blocks)
    project.run("stages", "build", "alpha", **KEY)
    return project


def copies(project: Workspace, datasets: int) -> None:
    """Datasets with the outputs of alpha under names of their own, on record in dvc.lock."""
    blocks, directory = project.params(), project.directory
    for name in (f"copy{number}" for number in range(1, datasets)):
        for parent in ("sources", "prompts", "data", "models", "reports"):
            if (directory / parent / "alpha").exists():
                shutil.copytree(directory / parent / "alpha", directory / parent / name)
        for knobs in blocks.values():
            if "alpha" in knobs:
                knobs[name] = json.loads(json.dumps(knobs["alpha"]).replace("alpha", name))
    project.write_params(blocks)
    project.run("dvc", "commit", "--force", "--quiet")


def one_document(project: Workspace) -> dict:
    """Seconds until a new document has its answer and a renewed shard; and of the shard alone."""
    before = set(project.directory.glob(SHARDS))
    project.add_document("alpha", "permutation")
    whole, output = timed(project, "stages.core.dvc", "repro", "-s", *(f"{stage}@alpha" for stage in ADDED))
    (made,) = set(project.directory.glob(SHARDS)) - before
    assert all(f"Running stage '{stage}@alpha'" in output for stage in ADDED), output
    alone = shard_alone(project, made)
    own = {name: read_json(project.directory / f"reports/alpha/figures/time/{name}.json") for name in ADDED}
    return {
        "added_document_s": round(whole, 2),
        "own_shard_s": round(alone, 2),
        "difference_s": round(whole - alone, 2),
        "bar_s": BAR_S,
        "stages_s": {name: figures["seconds"] for name, figures in own.items()},
    }


def shard_alone(project: Workspace, made: Path) -> float:
    """Seconds of a process that starts, loads the model and makes the rows of this shard again."""
    rows = made.read_bytes()
    made.unlink()
    project.run("stages", "slurm", "alpha")  # lays the one open shard out for such a process
    keys = [item["key"] for item in read_json(made.parent / "job.json")["items"]]
    part = ("--part", str(keys.index(made.stem)), "--of", str(len(keys)))
    seconds, _ = timed(project, "stages", "shard", str(made.parent), *part)
    assert made.read_bytes() == rows
    return seconds


def side_by_side(directory: Path, teacher_url: str) -> dict:
    """Seconds for two small datasets, up to their tokens, from nothing but the base model."""
    found = {}
    for name, together in (("one_by_one_s", False), ("side_by_side_s", True)):
        project = Workspace.create(directory / name, teacher_url)
        blocks = tiny_params(teacher_url)
        for stage in list(blocks)[list(blocks).index("finetune") :]:
            blocks[stage] = {}
        project.write_params(blocks)
        project.run("dvc", "repro", "code", "base@tiny", **KEY)
        began = time.perf_counter()
        shells = [project.start("stages", "build", "alpha", **KEY)]
        if not together:
            shells[0].wait()
        shells.append(project.start("stages", "build", "beta", **KEY))
        for shell in shells:
            output, _ = shell.communicate()
            assert shell.returncode == 0, output
        found[name] = round(time.perf_counter() - began, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=8)
    parser.add_argument("--shards", type=int, default=400)
    given = parser.parse_args()
    with Teacher().running() as url, tempfile.TemporaryDirectory() as folder:
        project = first_dataset(Path(folder) / "project", url, given.shards)
        copies(project, given.datasets)
        project.run("dvc", "repro")
        nothing = [timed(project, "dvc", "repro") for _ in range(3)]
        assert all("Running stage" not in output for _, output in nothing)
        seconds = statistics.median(seconds for seconds, _ in nothing)
        found = {"stages": len(project.lock()), "no_op_s": round(seconds, 2), **one_document(project)}
        print(found, flush=True)
        found |= side_by_side(Path(folder), url)
    print(json.dumps({"benchmark": "graph", "datasets": given.datasets, "shards": given.shards, **found}))


if __name__ == "__main__":
    main()
