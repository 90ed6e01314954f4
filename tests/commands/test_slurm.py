"""The array job: tasks side by side make all shards, and generate finds them made."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stages import params
from stages.commands.slurm import cli, ranges
from stages.generate import run as stage
from stages.knobs import GenerateKnobs
from tests.helpers.completions import completions, decoding, make_project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A project that lies in a directory with a space, with params.yaml."""
    (home := tmp_path / "a project").mkdir()
    monkeypatch.chdir(home)
    monkeypatch.delenv("RETORT_SHARED", raising=False)
    make_project(20)
    with completions() as running:
        blocks = {name: {} for name, stage in params.STAGES.items() if not stage.block}
        blocks["generate"] = {"d": {**decoding(running), "shards": 5}}
        prices = {"version": "none", "models": {}}
        YAML(typ="safe").dump({"prices": prices, **blocks}, Path("params.yaml"))
        yield running


def script_of(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["d", *arguments])
    assert done.exit_code == 0, done.output
    path = re.search(r"`sbatch (.+?)`", done.output)
    return path[1] if path else done.output


def submit(script: str, task: int) -> subprocess.Popen:
    """As Slurm does: from another directory, with the number of the task."""
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        ["bash", str(Path(script).resolve())], cwd="/", env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_tasks_side_by_side_make_all_shards_and_generate_finds_them(student, capfd):
    knobs = GenerateKnobs(**decoding(student), shards=5)
    script = script_of("--tasks", "2", "--at_once", "1", "--gpus", "1", "--sbatch", "account=mine")
    text = Path(script).read_text()
    options = dict(re.findall(r"(?m)^#SBATCH --([\w-]+)=?(.*)$", text))
    assert options["array"] == "0-1%1" and options["gres"] == "gpu:1" and options["account"] == "mine"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    tasks = [submit(script, task) for task in (0, 1)]
    assert [task.wait(120) for task in tasks] == [0, 0], [task.stderr.read() for task in tasks]
    assert sum(student.asked.values()) == 40 and set(student.asked.values()) == {1}
    capfd.readouterr()
    assert stage("d", knobs)["rows"] == 40
    assert "5 shards, 5 of them made before" in capfd.readouterr().err
    assert sum(student.asked.values()) == 40


@pytest.mark.slow
def test_a_script_for_what_is_missing_has_the_tasks_of_that_alone(student):
    script = script_of()
    assert "--array=0-4%50" in Path(script).read_text()
    assert submit(script, 3).wait(120) == 0
    assert "--array=0-2,4%50" in Path(script_of()).read_text()
    assert "--array=0-1%50" in Path(script_of("--tasks", "2")).read_text()
    for done in Path("data/.work").glob("*/*.todo"):
        done.with_suffix(".jsonl").touch()
    assert "all shards are made; go on with: dvc repro generate@d" in script_of()


def test_ranges_are_written_as_slurm_reads_them():
    assert [ranges(numbers) for numbers in ([0], [0, 1], [0, 2, 3, 4, 9])] == ["0", "0-1", "0,2-4,9"]


def test_a_dataset_without_a_block_is_one_line(student):
    done = CliRunner().invoke(cli, ["b"])
    assert done.exit_code == 2 and "no block for 'b'" in done.output
