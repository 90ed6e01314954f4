"""dvc.yaml against the code: each stage's code dependencies are exactly the files that it imports."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import params
from tests.graph import HARMLESS, ROOT, code_of

GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
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
def test_code_dependencies_are_the_imports(stage):
    listed = {dep for dep in GRAPH[stage]["do"]["deps"] if dep.startswith("stages/")}
    needed = code_of(f"stages/{stage}.py")
    assert listed == needed, (
        f"dvc.yaml, {stage}: add {sorted(needed - listed)}, remove {sorted(listed - needed)}"
    )


@pytest.mark.parametrize("stage", sorted(GRAPH))
def test_every_stage_keeps_to_the_same_shape(stage):
    entry = GRAPH[stage]
    assert entry["foreach"] == f"${{{stage}}}"
    assert entry["do"]["cmd"] == f"python -m stages.{stage} ${{key}} ${{item}}"
    figures = STANDS_IN.get(stage, stage)
    assert f"reports/${{key}}/time/{figures}.json" in entry["do"]["outs"]
    assert f"reports/${{key}}/{figures}.json" in entry["do"]["metrics"]
    if STANDS_IN.get(stage, stage) != "report":
        assert not [dep for dep in entry["do"]["deps"] if "/time/" in dep], "only the report may read timings"


def test_the_walk_sees_imports_in_functions_and_modules_run_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "a": "def f():\n    from stages.support import b\n",
        "support/b": "ARGS = ['-m', 'stages.c']\nimport stages.support.progress\n",
        "c": "X = 1\n",
        "d": "X = 1\n",
        "support/progress": "import stages.d\n",
    }.items():
        Path(f"stages/{name}.py").parent.mkdir(parents=True, exist_ok=True)
        Path(f"stages/{name}.py").write_text(text)
    assert code_of("stages/a.py") == {"stages/a.py", "stages/support/b.py", "stages/c.py"}


def test_what_is_left_out_cannot_change_an_output():
    """The modules that no stage depends on write no file; what they import writes none on their behalf."""
    for name in HARMLESS - {"stages/support/tracking.py"}:
        text = (ROOT / name).read_text("utf-8")
        assert "open(" not in text and "write_" not in text
    assert "write_" not in (ROOT / "stages/support/tracking.py").read_text("utf-8")
