"""House rules that a machine can check, and the failures that every stage shares."""

import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import params
from stages.__main__ import modules as commands
from stages.core import files
from stages.core.stage import Knobs, Stage, command
from stages.kinds import registry
from stages.kinds.registry import KINDS
from tests.helpers.workspace import ROOT

HEAVY = "torch transformers litgpt lightning pandas numpy sklearn scipy openai mlflow pyarrow dvc".split()
HEAVY += ["jsonschema", "matplotlib", "faiss", "datasketch"]
HELP = """
import sys
from stages.__main__ import cli
names, heavy = sys.argv[1].split(), sys.argv[2].split()
for name in names:
    cli([name, "--help"], prog_name="retort", standalone_mode=False)
    loaded = [module for module in heavy if module in sys.modules]
    assert not loaded, f"{name} imports {loaded} for --help"
"""
NAMES = [*params.STAGES, *commands()]


def test_help_of_every_stage_and_command_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", HELP, " ".join(NAMES), " ".join(HEAVY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert re.search(rf"Usage: retort {name} ", done.stdout), name


def test_one_help_lists_every_stage_and_command_in_a_line_each():
    done = subprocess.run(
        [sys.executable, "-m", "stages", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    entries = [line.split() for line in done.stdout.splitlines() if re.match(r"  \w+  ", line)]
    assert [entry[0] for entry in entries] == NAMES and all(len(entry) > 3 for entry in entries)
    headings = [line for line in done.stdout.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings[1:] == [
        "Stages of the spine:",
        *(f"Stages of the kind {k.name}:" for k in KINDS),
        "Commands:",
    ]


def test_an_unknown_command_gets_a_suggestion():
    done = subprocess.run(
        [sys.executable, "-m", "stages", "corpsu"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 2
        and "no stage or command is called 'corpsu'; did you mean 'corpus'?" in done.stderr
    )


@pytest.mark.parametrize("module", ["corpus", "filter", "kinds.xc.filter", "commands.store"])
def test_the_module_of_a_command_is_no_command(module):
    command = [sys.executable, "-m", f"stages.{module}", "d"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: use `python -m stages {module.rpartition('.')[2]}`\n"


def test_garbage_is_looked_for_seldom_and_not_at_the_end():
    """A look through torch, transformers and PEFT takes a second."""
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
        "from stages.core.stage import guarded\n"
        "guarded(lambda: None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["10000 True"], done.stderr


def test_files_stay_short():
    for path in (ROOT / "stages").rglob("*.py"):
        lines = path.read_text("utf-8").count("\n")
        assert lines <= 400, f"{path}: {lines} lines"


LEVEL = dict.fromkeys(("sources", "teacher", "student", "engines", "retrieval", "evaluation", "reporting"), 1)
LEVEL |= {"core": 0, "kinds": 2, "scripts": 3, "commands": 4}


def imported(path: Path) -> set[str]:
    """Dotted names of what a module imports, at its top or in functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_point_one_way():
    """Commands → scripts → kinds → capabilities → core; a folder imports itself and what is below it."""
    for path in (ROOT / "stages").rglob("*.py"):
        parts = path.relative_to(ROOT / "stages").parts
        mine = parts[0] if len(parts) > 1 else "scripts"
        for name in imported(path):
            folder = name.split(".")[1] if name.startswith("stages.") else mine
            theirs = folder if folder in LEVEL else "scripts"
            allowed = theirs == mine or LEVEL[theirs] < LEVEL[mine]
            assert allowed, f"{path} imports {name}"
            assert not name.startswith("demo"), f"{path} imports the stand-in teacher"


def test_kinds_do_not_import_each_other():
    """Nor does one import the registry, which imports all; what two need lies beside them or below."""
    kinds = {kind.name for kind in KINDS}
    for path in (ROOT / "stages/kinds").glob("*/**/*.py"):
        own = path.relative_to(ROOT / "stages/kinds").parts[0]
        for name in imported(path):
            parts = name.split(".")
            if parts[:2] == ["stages", "kinds"]:
                assert parts[2] not in (kinds | {"registry"}) - {own}, f"{path} imports {name}"


def test_the_spine_names_no_kind():
    names = {kind.name for kind in KINDS} | set(registry.task_names())
    for path in [*(ROOT / "stages").glob("*.py"), *(ROOT / "stages/core").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named = isinstance(node, ast.Constant) and node.value in names
            assert not named, f"{path}, line {getattr(node, 'lineno', 0)}: names {node.value!r}"


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"(?m)^\.PHONY: (.*)", makefile)[1].split()) - {"$(DATASETS)"}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0] for line in shown.splitlines()}
    assert targets <= listed
    assert all(len(line.split()) > 2 for line in shown.splitlines())
    assert "pydoc" in shown


def test_continuous_integration_runs_make_test():
    text = (ROOT / ".ci/run").read_text()
    assert re.search(r"(?m)\bexec make test$", text) and os.access(ROOT / ".ci/run", os.X_OK)


# Disk full, and writing whole or not at all


def test_a_full_disk_is_one_line_and_earlier_output_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def writes(dataset: str, knobs: Knobs) -> dict:
        files.write_text(Path("data/out.txt"), "new")
        return {}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/out.txt")

    files.write_text(Path("data/out.txt"), "earlier")
    stage = Stage("corpus", Knobs)
    monkeypatch.setattr(Stage, "load", lambda self: SimpleNamespace(run=writes))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as end:
        command(stage).main(["d"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "disk is full" in error and "data/out.txt" in error
    assert Path("data/out.txt").read_text() == "earlier"
    assert [p.name for p in Path("data").iterdir()] == ["out.txt"]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    for text, fails in (("one", False), ("two", True)):
        try:
            with files.atomic_directory(tmp_path / "out", "test") as directory:
                files.write_text(directory / "a.txt", text)
                if fails:
                    raise OSError(errno.ENOSPC, "full")
        except OSError:
            pass
    files.verify_manifest(tmp_path / "out")
    assert (tmp_path / "out/a.txt").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
