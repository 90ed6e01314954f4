"""The promises of the graph, on a real project in a temporary folder: what runs, and what does not."""

import json
import os
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers.teacher_server import Teacher
from tests.helpers.workspace import NO_NETWORK, PRICES, Workspace, ran

pytestmark = pytest.mark.slow
KEY = {"TEACHER_KEY": "sk-test"}


@pytest.fixture(scope="module")
def teacher():
    teacher = Teacher()
    with teacher.running() as url:
        teacher.url = url
        yield teacher


@pytest.fixture(scope="module")
def built(teacher, tmp_path_factory) -> Workspace:
    """Both datasets built at once, from two shells, with nothing there before; not even the base model."""
    project = Workspace.create(tmp_path_factory.mktemp("graph") / "project", teacher.url)
    shells = {name: project.start("stages", "build", name, **KEY) for name in ("alpha", "beta")}
    outputs = {name: shell.communicate(timeout=1500)[0] for name, shell in shells.items()}
    for name, shell in shells.items():
        assert shell.returncode == 0, outputs[name][-2000:]
    project.outputs, project.calls = outputs, teacher.calls
    project.commit("built")
    return project


@pytest.fixture
def project(built, tmp_path) -> Workspace:
    """A copy of the built project, cache and all, to change at will."""
    return Workspace(Path(shutil.copytree(built.directory, tmp_path / "project", symlinks=True)))


def test_two_datasets_are_built_at_once(built):
    both = [name for output in built.outputs.values() for name in ran(output)]
    expected = ["code", *(f"{stage}@{name}" for stage, blocks in built.params().items() for name in blocks)]
    assert sorted(both) == sorted(expected)
    assert set(built.lock()) == set(expected)
    assert built.calls == 24


def test_a_build_goes_on_while_another_one_reads_the_base(project):
    reader = {"pid": os.getpid(), "cmd": "dvc repro -s finetune@alpha"}
    claims = {
        str(project.directory / path): [reader] for path in ("models/base/tiny", "data/code/merge.json")
    }
    (project.directory / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {}, "read": claims}))
    assert ran(project.run("stages", "build", "beta", **KEY)) == []
    claimed = project.start("dvc", "repro", "-s", "base@tiny")
    assert "is busy" in claimed.communicate()[0] and claimed.returncode  # so it really was claimed


def test_a_change_of_code_makes_stale_what_imports_it(project):
    with open(project.directory / "stages/student/formats/merge.py", "a") as stream:
        stream.write("# a word\n")
    assert project.status() == ["code"]
    assert project.repro("-s", "code") == ["code"]
    stages = {name.split("@")[0] for name in project.status()}
    assert {"base", "merge", "export"} <= stages and not {
        "corpus",
        "collect",
        "tokenize",
        "generate",
    } & stages


def test_nothing_changed_nothing_runs(built):
    assert built.repro() == []


def test_a_price_of_another_model_makes_nothing_stale(project, teacher):
    """Of a dataset that asks one model, only the note of its price is looked at again."""
    asked = [f"{stage}@{name}" for name in ("alpha", "beta") for stage in ("price", "prompt", "collect")]
    file, calls = project.directory / "params.yaml", teacher.calls
    prices = {**PRICES, "models": {**PRICES["models"], "gpt-4.1": {"input": 2, "output": 8}}}
    blocks = YAML(typ="safe").load(file) | {"prices": prices}
    with open(file, "w") as stream:
        YAML(typ="safe").dump(blocks, stream)
    assert project.repro("-s", *asked) == ["price@alpha", "price@beta"]
    prices["models"]["embedded"] = {"input": 1, "output": 0}
    with open(file, "w") as stream:
        YAML(typ="safe").dump(blocks, stream)
    assert project.repro("-s", *asked, **KEY) == asked and teacher.calls == calls


def test_metrics_and_plots_show(built):
    shown = built.run("dvc", "metrics", "show", "--json", "reports/alpha/figures/metrics.json")
    assert set(json.loads(shown)[""]["data"]["reports/alpha/figures/metrics.json"]["data"]) >= {
        "base",
        "student",
        "teacher",
    }
    drawn = built.run("dvc", "plots", "show")
    assert "WARNING" not in drawn
    page = (built.directory / "dvc_plots/index.html").read_text()
    assert all(field in page for field in ("train_loss", "generated_tokens", "measure"))


def test_a_word_of_the_student_prompt_asks_the_teacher_nothing(project, built, teacher):
    prompt = project.directory / "prompts/alpha/student.md"
    prompt.write_text(prompt.read_text().replace("page", "text"))
    stale = set(project.status())
    assert "convert@alpha" in stale and not {"corpus@alpha", "prompt@alpha", "collect@alpha"} & stale
    assert project.repro("tokenize") == ["convert@alpha", "tokenize@alpha"]
    assert teacher.calls == built.calls


def test_a_new_document_costs_one_request_and_one_shard(project, teacher):
    before = project.hashes("data/alpha/generated")
    project.add_document("alpha", "permutation")
    calls = teacher.calls
    steps = [f"{stage}@alpha" for stage in ("corpus", "prompt", "collect", "generate")]
    output = project.run("dvc", "repro", "-s", *steps, **KEY)
    assert ran(output) == steps and "generate: 4 shards, 3 of them made before" in output
    assert teacher.calls == calls + 1
    after = project.hashes("data/alpha/generated")
    changed = {name for name in after if after[name] != before.get(name)}
    assert len(changed - {"manifest.json"}) == 1


def test_knobs_of_one_dataset_leave_the_other_alone(project):
    params = project.params()
    changes = {
        "corpus": ("hidden_pairs", 0.3),
        "prompt": ("temperature", 0.1),
        "collect": ("concurrency", 2),
        "convert": ("min_lines", 1),
        "tokenize": ("max_length", 100),
        "finetune": ("lr", 0.01),
        "export": ("parity_tolerance", 0.02),
        "generate": ("seed", 5),
        "baseline": ("seed", 5),
        "filter": ("copies", False),
        "map": ("top_k", 3),
        "xc": ("seed", 7),
        "evaluate": ("seed", 7),
    }
    for stage, (knob, value) in changes.items():
        params[stage]["alpha"][knob] = value
    project.write_params(params)
    stale = project.status()
    assert set(stale) >= {f"{stage}@alpha" for stage in changes}
    assert not [name for name in stale if not name.endswith("@alpha")]
    assert project.repro("tokenize", **KEY) == [
        f"{s}@alpha" for s in ("corpus", "price", "prompt", "collect", "convert", "tokenize")
    ]


def test_another_clone_rebuilds_offline_without_a_key(project, teacher, tmp_path):
    """After `dvc pull`, with no network, key or store: nothing is stale, and a rebuild asks nobody."""
    remote = tmp_path / "remote"
    project.run("dvc", "remote", "add", "-f", "-d", "local", str(remote))
    project.run("dvc", "push", "-q")
    project.commit("pushed")
    clone = project.clone(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    (tmp_path / "off").mkdir()
    (tmp_path / "off/sitecustomize.py").write_text(NO_NETWORK)
    off = {"PYTHONPATH": str(tmp_path / "off"), "TEACHER_KEY": ""}
    calls = teacher.calls
    assert clone.repro(**off) == []
    chain = [f"{stage}@alpha" for stage in ("corpus", "prompt", "collect", "convert")]
    assert clone.repro("-f", "-s", *chain, **off) == chain
    assert teacher.calls == calls
    for path in ("data/alpha/requests.jsonl", "data/alpha/responses.jsonl", "data/alpha/litgpt"):
        assert clone.output(path) == project.output(path)
