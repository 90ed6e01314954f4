"""What the graph itself costs: a `dvc repro` with nothing to do, and what one more document costs.

Makes a project of DATASETS datasets with SHARDS shards of generated rows in a temporary folder. The first
dataset is really built, with a tiny model and a local teacher; the others are copies of its outputs, put on
record with `dvc commit`. Then a document is added to the first: its request and answer, and the shard that it
is in. Last, two small datasets are built from nothing, one after the other and side by side.

    python -m benchmarks.graph [--datasets 8] [--shards 400]
"""

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from stages.support.files import read_json
from tests.graph import Workspace, tiny_params
from tests.teacher_server import Teacher

os.environ["RETORT_TRACKING"] = "off"
KEY = {"TEACHER_KEY": "sk-test"}


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
        blocks[stage]["alpha"] |= {"shards": shards, "batch_size": 4}
    blocks["filter"]["alpha"] = {"well_formed": False}  # the tiny model writes noise
    project.write_params(blocks)
    project.run("stages.build", "alpha", **KEY)
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
    """Seconds to the answer for a new document; then to renew its shard, and the stage's own part of it."""
    project.add_document("alpha", "permutation")
    answered, _ = timed(
        project, "dvc", "repro", "-s", *(f"{stage}@alpha" for stage in ("corpus", "prompt", "collect"))
    )
    renewed, output = timed(project, "dvc", "repro", "-s", "generate@alpha")
    made = re.search(r"generate: (\d+) shards, (\d+) of them made before", output)
    assert int(made[1]) - int(made[2]) == 1, output
    stage = read_json(project.directory / "reports/alpha/time/generate.json")["seconds"]
    found = {"answer": round(answered, 2), "shard": round(renewed, 2), "stage": stage}
    return {f"one_document_{name}_s": seconds for name, seconds in found.items()}


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
        shells = [project.start("stages.build", "alpha", **KEY)]
        if not together:
            shells[0].wait()
        shells.append(project.start("stages.build", "beta", **KEY))
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
