"""dvc.yaml against the code: a stage depends on exactly the files that it imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stages import params
from stages.code import HARMLESS, cli, code_of
from stages.core.hashing import sha256_file
from tests.helpers.workspace import ROOT

GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
CODE = GRAPH.pop("code")
STANDS_IN = {  # a stage's figures have the name of the stage it stands in for
    "corpus_xc": "corpus",
    "corpus_briefs": "corpus",
    "corpus_skills": "corpus",
    "evaluate_calls": "evaluate",
    "report_skills": "report",
}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_graph_has_every_stage_once():
    assert sorted(GRAPH) == sorted(params.STAGES)


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_the_code_of_a_stage_is_its_one_dependency_on_code(stage):
    code = [dep for dep in GRAPH[stage]["do"]["deps"] if "data/code" in dep or dep.startswith("stages")]
    assert code == [f"data/code/{stage}.json"]


def test_the_record_of_the_code_holds_what_a_stage_really_imports(tmp_path, monkeypatch):
    """Against Python's own list of the modules that a run of `convert` loaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    CliRunner().invoke(cli, catch_exceptions=False)
    recorded = json.loads((tmp_path / "data/code/export.json").read_text())
    probe = (
        "import sys; from stages.student.formats import from_hf, merge, parity, to_hf\n"
        "print(*{m.__file__ for n, m in sys.modules.items() if n.startswith('stages.') and m.__file__})"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = {str(Path(file).relative_to(ROOT)) for file in run.stdout.split()}
    wanted = {file for file in loaded - HARMLESS if (ROOT / file).stat().st_size}
    assert "stages/student/formats/litgpt.py" in wanted <= set(recorded)
    assert all(recorded[file] == sha256_file(ROOT / file) for file in recorded)


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_every_stage_keeps_to_the_same_shape(stage):
    entry = GRAPH[stage]
    assert entry["foreach"] == f"${{{stage}}}"
    assert entry["do"]["cmd"] == f"python -m {params.module(stage)} ${{key}} ${{item}}"
    figures = STANDS_IN.get(stage, stage)
    assert f"reports/${{key}}/figures/time/{figures}.json" in entry["do"]["outs"]
    assert f"reports/${{key}}/figures/{figures}.json" in entry["do"]["metrics"]
    if STANDS_IN.get(stage, stage) != "report":
        assert not [dep for dep in entry["do"]["deps"] if "/time/" in dep], "only the report may read timings"


def test_the_walk_sees_imports_in_functions_and_modules_run_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "a": "def f():\n    from stages.core import b\n",
        "core/b": "ARGS = ['-m', 'stages.c']\nimport stages.core.progress\n",
        "c": "X = 1\n",
        "d": "X = 1\n",
        "core/progress": "import stages.d\n",
    }.items():
        Path(f"stages/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        Path(f"stages/{name}.py").write_text(text)
    assert code_of("stages/a.py") == {"stages/a.py", "stages/core/b.py", "stages/c.py"}


def test_what_is_left_out_cannot_change_an_output():
    """The modules that no stage depends on write no file; what they import writes none on their behalf."""
    for name in HARMLESS - {"stages/core/tracking.py"}:
        text = (ROOT / name).read_text("utf-8")
        assert "open(" not in text and "write_" not in text
    assert "write_" not in (ROOT / "stages/core/tracking.py").read_text("utf-8")
