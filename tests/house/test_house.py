"""House rules that a machine can check, and the failures that every stage shares."""

import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages import params
from stages.commands import cost, new
from stages.core import files, layout
from stages.core.errors import UserError
from stages.core.stage import Knobs, stage
from tests.helpers.workspace import OF_SKILLS, ROOT

SCRIPTS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for folder in ("", "commands", "kinds/xc", "kinds/skills")
    for path in (ROOT / "stages" / folder).glob("*.py")
    if "click" in path.read_text("utf-8") or "@stage" in path.read_text("utf-8")
)
HEAVY = (
    "torch transformers litgpt lightning pandas numpy sklearn scipy openai mlflow pyarrow dvc ruamel".split()
)
HEAVY += ["jsonschema", "tiktoken"]
HELP = """
import runpy, sys
names, heavy = sys.argv[1].split(), sys.argv[2].split()
for name in names:
    sys.argv = [name.rpartition(".")[2], "--help"]
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
    loaded = [module for module in heavy if module in sys.modules]
    assert not loaded, f"{name} imports {loaded} for --help"
"""


def test_help_of_every_script_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", HELP, " ".join(SCRIPTS), " ".join(HEAVY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for name in SCRIPTS:
        assert re.search(rf"Usage: {name.rpartition('.')[2]} ", done.stdout), name


def test_garbage_is_looked_for_seldom_and_not_at_the_end():
    """A look through torch, transformers and PEFT takes a second."""
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
        "from stages.params import cli\n"
        "cli()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["10000 True"], done.stderr


def test_files_stay_short():
    for path in (ROOT / "stages").rglob("*.py"):
        lines = path.read_text("utf-8").count("\n")
        assert lines <= 400, f"{path}: {lines} lines"


LEVEL = dict.fromkeys(("sources", "teacher", "student", "engines", "retrieval", "evaluation", "reporting"), 1)
LEVEL |= {"core": 0, "kinds": 2, "scripts": 3, "commands": 4}
STILL_TO_MOVE = {"stages/reporting/page.py"}


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
    """commands → scripts → kinds → capabilities → core; a folder imports itself and what is below it."""
    for path in (ROOT / "stages").rglob("*.py"):
        parts = path.relative_to(ROOT / "stages").parts
        mine = parts[0] if len(parts) > 1 else "scripts"
        for name in imported(path):
            folder = name.split(".")[1] if name.startswith("stages.") else mine
            theirs = folder if folder in LEVEL else "scripts"
            allowed = theirs == mine or LEVEL[theirs] < LEVEL[mine]
            assert allowed or str(path.relative_to(ROOT)) in STILL_TO_MOVE, f"{path} imports {name}"


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


# params.yaml as a whole


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The shipped params.yaml and prompts, to spoil."""
    for name in (
        "params.yaml",
        *(str(p.relative_to(ROOT)) for p in (ROOT / "prompts").rglob("*") if p.is_file()),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spoil(project: Path, before: str, after: str) -> None:
    text = (project / "params.yaml").read_text()
    assert before in text
    (project / "params.yaml").write_text(text.replace(before, after, 1))


def test_shipped_params_are_valid(project):
    params.check()


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("\ncollect:", "\ncolect:", "no stage is called 'colect'; did you mean 'collect'?"),
        ("min_lines:", "min_line:", "convert.pydoc: unknown key 'min_line'; did you mean 'min_lines'?"),
        ("tokenize:\n  pydoc:", "tokenize:\n  pydocs:", "no folder prompts/pydocs; did you mean 'pydoc'?"),
        ("min_lines: 2", "min_lines: two", "convert.pydoc: min_lines: Input should be a valid integer"),
        ("min_lines: 2", "min_lines: null", "convert.pydoc: 'min_lines' has no value"),
        ("base_hub: {}", "base_hub:", "base_hub: expected datasets and their knobs"),
        ("base_hub: {}", "", "stage 'base_hub' is missing"),
        ("min_lines: 2}", "min_lines: 2", "params.yaml, line "),
        ("prices:", "price:", "no stage is called 'price'; did you mean 'prices'?"),
        ("{input: 0,", "{inputs: 0,", "prices: models.embedded.input: Field required"),
        ("output: 0}", "output: 0, cached: 0}", "prices: unknown key 'models.embedded.cached'"),
        (
            "output: 0}",
            "output: free}",
            "prices: models.embedded.output: Input should be a valid number",
        ),
        ('"2026-11-21"', "2026-11-21", "prices: version: Input should be a valid string"),
        ("    documents: 5000", "    temperature: hot", "prompt.pydoc: temperature"),
        (
            "    documents: 5000",
            "    body: '{\"n\": 2}'",
            "prompt.pydoc: body: Value error, n cannot be set here",
        ),
    ],
)
def test_a_slip_in_params_is_one_line(project, before, after, message):
    spoil(project, before, after)
    done = subprocess.run(
        [sys.executable, "-m", "stages", "params"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_prices_belong_to_no_stage_and_may_not_be_left_out(project):
    assert "prices" not in params.load() and "prices" not in params.check()
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(re.sub(r"(?ms)^prices:.*?^(?=base:)", "", text))
    assert params.load()
    with pytest.raises(
        UserError, match=r"'prices' is missing; write `prices: \{version: none, models: \{\}\}`"
    ):
        params.check()  # DVC would refuse, and tell less
    rest = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(f"{rest}\nprices: {params.NO_PRICES}\n")
    params.check()
    (project / "params.yaml").write_text(f"{rest}\nprices:\n")
    with pytest.raises(UserError, match="prices: expected a version and models; write `prices: {version"):
        params.check()


def test_a_template_with_prices_is_refused(project):
    with (project / "prompts/faire/params.yaml").open("a") as stream:
        stream.write(f"\nprices: {params.NO_PRICES}\n")
    before = (project / "params.yaml").read_text()
    with pytest.raises(
        UserError, match="faire/params.yaml: the block 'prices' is for all datasets; move it to"
    ):
        new.scaffold("faire")
    assert (project / "params.yaml").read_text() == before


def test_a_base_that_nobody_makes_is_named(project):
    blocks = params.load()
    name = blocks["finetune"]["pydoc"]["base"]
    text = (project / "params.yaml").read_text()
    merge = re.search(r"(?ms)^merge:.*?^\S", text)[0]
    (project / "params.yaml").write_text(text.replace(merge, merge.replace(name, f"{name}x", 1)))
    with pytest.raises(
        UserError, match=f"merge.pydoc: no base model is called '{name}x'; did you mean '{name}'"
    ):
        params.check()


@pytest.mark.parametrize("dataset", ["mine", "faire"])
def test_scaffolding_adds_valid_blocks_and_keeps_every_line(project, dataset):
    before = (project / "params.yaml").read_text().splitlines()
    new.scaffold(dataset, str(project))
    after = (project / "params.yaml").read_text().splitlines()
    blocks = params.check()
    assert [stage for stage in params.STAGES if dataset in blocks[stage]] == [
        stage for stage in params.STAGES if stage not in (*params.BASES, "corpus_xc", *OF_SKILLS)
    ]
    assert blocks["corpus"][dataset]["path"] == str(project)
    changed = [line for line in before if line not in after]
    assert all(re.fullmatch(r"\w+: \{\}.*", line) for line in changed)  # the first block of an empty stage
    assert new.scaffold(dataset, str(project)) == []
    assert (project / "params.yaml").read_text().splitlines() == after


@pytest.mark.parametrize(("dataset", "like"), [("otto", None), ("home", "otto")])
def test_scaffolding_a_dataset_of_skills(project, dataset, like):
    (project / "files").mkdir()
    (project / "prompts/otto/decisions.jsonl").write_text("{}\n")
    new.scaffold(dataset, "files", like)
    blocks = params.check()
    briefs = blocks["candidates"][dataset]["briefs"]
    assert briefs == f"{dataset}_candidates" and blocks["corpus_briefs"][briefs]["skills"] == dataset
    assert blocks["skills"][dataset]["path"] == "files"
    assert blocks["prompt"][dataset]["template"] == f"prompts/{dataset}/teacher.md"
    assert ((project / f"prompts/{dataset}/decisions.jsonl").read_text() == "") is bool(like)
    assert new.scaffold(dataset, "files", like) == []


@pytest.mark.parametrize("like", ["example", "../otto", "nothing"])
def test_a_bad_dataset_to_begin_with_is_refused(project, like):
    with pytest.raises(UserError, match=like.removeprefix("../")):
        new.scaffold("home", like=like)
    assert "home" not in (project / "params.yaml").read_text()


def test_showing_the_cost_of_skills_never_asks(project):
    new.scaffold("otto")
    first = ("otto_candidates", ["skills@otto", "corpus_briefs@otto_candidates", "prompt@otto_candidates"])
    assert cost.steps("otto", params.check()) == [first]
    layout.responses("otto_candidates").parent.mkdir(parents=True)
    layout.responses("otto_candidates").write_text("")
    own = ("otto", ["candidates@otto", "corpus_skills@otto", "prompt@otto"])
    assert cost.steps("otto", params.check()) == [first, own]
    assert cost.steps("pydoc", params.check()) == [("pydoc", ["corpus@pydoc", "prompt@pydoc"])]
    with pytest.raises(UserError, match="did you mean 'pydoc'"):
        cost.steps("pydok", params.check())


def test_a_dataset_of_skills_needs_its_briefs(project):
    new.scaffold("otto")
    text = (project / "params.yaml").read_text()
    for wrong in ("briefs: oto_candidates", "skills: oto,"):
        right = wrong.replace("oto", "otto")
        assert right in text
        (project / "params.yaml").write_text(text.replace(right, wrong))
        with pytest.raises(UserError, match="has no block 'oto"):
            params.check()


@pytest.mark.parametrize("name", ["My Data", "../up", "teacher", "example"])
def test_a_bad_name_for_a_dataset_is_refused(project, name):
    with pytest.raises(UserError, match="cannot name a dataset"):
        new.scaffold(name)


def test_no_dataset_can_have_the_name_of_a_make_target():
    phony = re.search(r"(?m)^\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1]
    assert set(phony.split()) - {"$(DATASETS)"} <= new.TAKEN


# Disk full, and writing whole or not at all


def test_a_full_disk_is_one_line_and_earlier_output_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def writes(dataset: str, knobs: Knobs) -> dict:
        files.write_text(Path("data/out.txt"), "new")
        return {}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/out.txt")

    files.write_text(Path("data/out.txt"), "earlier")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as end:
        stage("corpus", Knobs)(writes).main(["d"])
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
