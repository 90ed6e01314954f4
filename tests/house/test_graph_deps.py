"""dvc.yaml and the code agree: every stage once, in one shape, with the code that it really imports."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stages import params
from stages.code import DECLARATIONS, HARMLESS, cli, code_of, record
from stages.core.hashing import sha256_file
from stages.core.stage import Knobs, Stage
from tests.helpers.workspace import ROOT

GRAPH = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
STAGES = sorted(GRAPH.keys() - {"code"})


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def outputs(entry: dict) -> list[str]:
    listed = [out for part in ("outs", "metrics", "plots") for out in entry.get(part, ())]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def test_the_graph_has_every_stage_once():
    assert sorted(params.STAGES) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_knob_that_the_graph_needs_has_no_default(stage):
    """DVC cannot fill in a default: a dataset that leaves it out breaks every command."""
    needed = set(re.findall(r"\$\{item\.(\w+)\}", str(GRAPH[stage].get("do"))))
    optional = {name for name in needed if not params.STAGES[stage].knobs.model_fields[name].is_required()}
    assert optional <= ({"path"} if stage == "corpus" else set())  # pydoc's source needs the lock file there


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_its_one_dependency_on_code(stage):
    code = [dep for dep in GRAPH[stage]["do"]["deps"] if "data/code" in dep or dep.startswith("stages")]
    assert code == [f"data/code/{stage}.json"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_keeps_to_the_same_shape(stage):
    entry, figures = GRAPH[stage]["do"], params.STAGES[stage].figures_name
    assert GRAPH[stage]["foreach"] == f"${{{params.STAGES[stage].block or stage}}}"
    assert entry["cmd"] == f'python -m stages {stage} "$DVC_STAGE" ${{item}}'
    if stage == "report":
        return
    folder = "reports/${key}/figures"
    assert f"{folder}/time/{figures}.json" in entry["outs"]
    assert f"{folder}/{figures}.json" in entry["outs"]
    names = ("metrics", "retriever", "rag", "academic")
    allowed = [[], *([{f"{folder}/{name}.json": {"cache": False}}] for name in names)]
    assert entry.get("metrics", []) in allowed, "figures are outs"
    others = {"reports/${key}/answers"}  # tables of answers, for spreadsheets: no page is made of them
    reports = {out for out in outputs(entry) if out.startswith("reports/")}
    assert all(out.startswith(f"{folder}/") for out in reports - others)
    assert not [dep for dep in entry["deps"] if dep.startswith("reports/")], "only the report reads figures"


def test_the_report_depends_on_the_folder_of_figures_and_lies_beside_it():
    entry = GRAPH["report"]["do"]
    assert "reports/${key}/figures" in entry["deps"]
    assert outputs(entry) == ["reports/${key}/report.html"]


def test_the_record_of_the_code_holds_what_a_stage_really_imports(tmp_path, monkeypatch):
    """Against Python's own list of the modules that `export` loads beside those that declare knobs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    CliRunner().invoke(cli, catch_exceptions=False)
    files = json.loads((tmp_path / "data/code/export.json").read_text())
    assert len(files.pop("knobs")) == 64
    probe = (
        "import sys, stages.knobs\n"
        "before = set(sys.modules)\n"
        "import stages.export\n"
        "print(*{sys.modules[n].__file__ for n in set(sys.modules) - before if n.startswith('stages.')})"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = {str(Path(file).relative_to(ROOT)) for file in done.stdout.split()} - HARMLESS
    wanted = {file for file in loaded if (ROOT / file).stat().st_size}
    assert "stages/student/formats/litgpt.py" in wanted <= set(files)
    assert "stages/core/stage.py" in files  # runs every stage
    assert not [file for file in files if any(Path(file).match(pattern) for pattern in DECLARATIONS)]
    assert all(files[file] == sha256_file(ROOT / file) for file in files)


def test_every_file_that_a_stage_prompts_for_a_task_is_its_code():
    for stage in ("prompt", "convert", "generate", "baseline"):
        files = record(params.STAGES[stage])
        assert "stages/kinds/xc/parts/queries.py" in files and "stages/kinds/skills/parts/task.py" in files
        assert "stages/kinds/written.py" in files  # three tasks of one module
    assert "stages/kinds/xc/parts/queries.py" not in record(params.STAGES["finetune"])
    assert "stages/kinds/xc/samples.html.j2" in record(params.STAGES["report"])


def test_the_example_of_a_kind_is_code_of_no_stage():
    assert not [file for stage in params.STAGES.values() for file in record(stage) if "/example" in file]


def test_a_default_of_a_knob_is_code_of_its_stage_alone():
    class Before(Knobs):
        top: int = 3

    class After(Knobs):
        top: int = 4

    stage = params.STAGES["merge"]
    records = [record(Stage(stage.name, knobs)) for knobs in (Before, After)]
    assert records[0]["knobs"] != records[1]["knobs"]
    assert {**records[0], "knobs": ""} == {**records[1], "knobs": ""}
    assert not [file for file in record(stage) if file.endswith("knobs.py") and "kinds" in file]


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
