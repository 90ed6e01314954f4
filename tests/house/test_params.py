"""params.yaml, the datasets' params and dvc.yaml as a whole: what is refused, and what `make new` adds."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stages import params
from stages.commands import build, cost, new, remove
from stages.core import layout
from stages.core.errors import UserError
from stages.core.names import TAKEN, check_name
from stages.core.stage import Knobs, Stage
from stages.kinds import registry
from stages.kinds.registry import KINDS
from stages.knobs import SPINE, ConvertKnobs
from stages.teacher.prices import NO_PRICES
from tests.helpers.cli import invoke
from tests.helpers.workspace import ROOT, copy_graph

PYDOC = "prompts/pydoc/params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    copy_graph(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spoil(file: str, before: str, after: str) -> None:
    text = Path(file).read_text()
    assert before in text
    Path(file).write_text(text.replace(before, after, 1))


def test_shipped_params_are_valid(project):
    params.check()


@pytest.mark.parametrize(
    "file, before, after, message",
    [
        (PYDOC, "\ncollect:", "\ncolect:", "no stage is called 'colect'; did you mean 'collect'?"),
        (
            PYDOC,
            "min_lines:",
            "min_line:",
            "convert.pydoc: unknown key 'min_line'; did you mean 'min_lines'?",
        ),
        (
            PYDOC,
            "tokenize:\n  pydoc:",
            "tokenize:\n  pydocs:",
            "no folder prompts/pydocs; did you mean 'pydoc'",
        ),
        (
            PYDOC,
            "min_lines: 2",
            "min_lines: two",
            "convert.pydoc: min_lines: Input should be a valid integer",
        ),
        (PYDOC, "min_lines: 2", "min_lines: null", "convert.pydoc: 'min_lines' has no value"),
        (PYDOC, "pack:\n  pydoc: {}", "pack:", "pack: expected datasets and their knobs"),
        (PYDOC, "pack:\n  pydoc: {}", "pack:\n  pydoc:", "pack.pydoc: expected knobs"),
        (PYDOC, "min_lines: 2}", "min_lines: 2", "params.yaml, line "),
        (PYDOC, "    documents: 420", "    temperature: hot", "prompt.pydoc: temperature"),
        (
            PYDOC,
            "    documents: 420",
            "    body: '{\"n\": 2}'",
            "prompt.pydoc: body: Value error, n cannot be",
        ),
        (
            PYDOC,
            "min_lines: 2",
            "task: querys",
            "convert.pydoc: task: Value error, no task is called 'querys'; did",
        ),
        (
            PYDOC,
            "pages: 300",
            "task: skills",
            "evaluate.pydoc: task: Input should be 'queries' or 'categories'",
        ),
        ("params.yaml", "prices:", "price:", "no stage is called 'price'; did you mean 'prices'?"),
        ("params.yaml", "{input: 0,", "{inputs: 0,", "prices: models.embedded.input: Field required"),
        (
            "params.yaml",
            "output: 0}",
            "output: 0, cached: 0}",
            "prices: unknown key 'models.embedded.cached'",
        ),
        (
            "params.yaml",
            "output: 0}",
            "output: free}",
            "prices: models.embedded.output: Input should be a valid",
        ),
        ("params.yaml", '"2026-11-21"', "2026-11-21", "prices: version: Input should be a valid string"),
        (
            "dvc.yaml",
            "  - prompts/pydoc",
            "  - prompts/pidoc",
            "vars: there is no file prompts/pidoc/params.yaml",
        ),
        (
            "dvc.yaml",
            "  pack:\n    foreach",
            "  pak:\n    foreach",
            "no kind has the stage 'pak'; did you mean 'pack'",
        ),
        ("dvc.yaml", "pack: {}, ", "", "vars: 'pack' is not in the first line; add `pack: {}`"),
    ],
)
def test_a_slip_is_one_line(project, file, before, after, message):
    spoil(file, before, after)
    done = subprocess.run(
        [sys.executable, "-m", "stages", "params"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_block_in_two_files_is_refused(project):
    """DVC refuses it, too, and names neither file."""
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "convert:\n  pydoc: {min_lines: 3}\n")
    with pytest.raises(UserError, match=r"pydoc/params.yaml, convert.pydoc: params.yaml has a block of that"):
        params.check()


def test_a_stage_that_is_not_in_the_graph_is_named(project):
    graph = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(re.sub(r"(?ms)^  pack:\n.*?(?=^  \w)", "", graph))
    with pytest.raises(UserError, match=r"the stage 'pack' \(stages.kinds.xc.pack\) is not in the graph"):
        params.check()


def test_a_kind_registered_twice_is_refused():
    kind = KINDS[0]
    with pytest.raises(UserError, match=f"the kind '{kind.name}' is registered twice"):
        registry.check([*KINDS, kind])
    task = next(iter(kind.tasks))
    with pytest.raises(UserError, match=f"the task '{task}' is registered twice, by the kind '{kind.name}'"):
        registry.check([*KINDS, replace(kind, name="other", stages=())])
    with pytest.raises(UserError, match="the stage 'corpus' is registered twice, by the spine"):
        registry.check([replace(kind, name="other", stages=(Stage("corpus", Knobs),))], SPINE)
    registry.check(KINDS, SPINE)


def test_an_unknown_task_is_an_error_and_none_means_the_first():
    with pytest.raises(ValueError, match="no task is called 'query'; did you mean 'queries'"):
        registry.task("query")
    assert ConvertKnobs().task == registry.default_task() == next(iter(KINDS[0].tasks))


def test_prices_belong_to_no_stage_and_may_not_be_left_out(project):
    assert "prices" not in params.blocks() and "prices" not in params.check()
    text = Path("params.yaml").read_text()
    rest = re.sub(r"(?ms)^prices:.*?^(?=base_package:)", "", text)
    Path("params.yaml").write_text(rest)
    assert params.blocks()
    with pytest.raises(
        UserError, match=r"'prices' is missing; write `prices: \{version: none, models: \{\}\}`"
    ):
        params.check()  # DVC would refuse, and tell less
    Path("params.yaml").write_text(f"{rest}\nprices: {NO_PRICES}\n")
    params.check()
    Path("params.yaml").write_text(f"{rest}\nprices:\n")
    with pytest.raises(UserError, match="prices: expected a version and models; write `prices: {version"):
        params.check()


def test_prices_in_the_file_of_a_dataset_are_refused_and_nothing_changes(project):
    with Path("prompts/faire/params.yaml").open("a") as stream:
        stream.write(f"\nprices: {NO_PRICES}\n")
    before = Path("dvc.yaml").read_text()
    with pytest.raises(
        UserError, match="faire/params.yaml: the block 'prices' is for all datasets; move it to"
    ):
        new.scaffold("faire")
    assert Path("dvc.yaml").read_text() == before


def test_a_base_that_nobody_makes_is_named(project):
    name = params.blocks()["finetune"]["pydoc"]["base"]
    text = Path(PYDOC).read_text()
    merge = re.search(r"(?ms)^merge:.*?^\S", text)[0]
    Path(PYDOC).write_text(text.replace(merge, merge.replace(name, f"{name}x", 1)))
    with pytest.raises(
        UserError, match=f"merge.pydoc: no base model is called '{name}x'; did you mean '{name}'"
    ):
        params.check()


# make new


@pytest.mark.parametrize("dataset", ["mine", "faire"])
def test_scaffolding_lists_one_file_and_keeps_every_line(project, dataset):
    graph, shared = Path("dvc.yaml").read_text(), Path("params.yaml").read_text()
    done = new.scaffold(dataset, str(project))
    file = f"prompts/{dataset}/params.yaml"
    assert f"added to dvc.yaml, vars: {file}" in done
    after = Path("dvc.yaml").read_text()
    assert after == graph.replace("\nstages:\n", f"\n  - {file}\nstages:\n", 1) and after != graph
    assert Path("params.yaml").read_text() == shared
    blocks = params.check()
    chain = {stage.name for stage in params.stages_of(dataset, blocks)}
    of_others = {stage.name for kind in KINDS if kind.name != "xc" for stage in kind.stages}
    assert chain == params.STAGES.keys() - {*params.BASE_STAGES, "corpus_xc", *of_others}
    assert blocks["corpus"][dataset]["path"] == str(project)
    own = Path(file).read_text()
    assert new.scaffold(dataset, str(project)) == []
    assert Path("dvc.yaml").read_text() == after and Path(file).read_text() == own


@pytest.mark.parametrize(("dataset", "like"), [("otto", None), ("home", "otto")])
def test_scaffolding_a_dataset_of_skills(project, dataset, like):
    (project / "files").mkdir()
    Path("prompts/otto/decisions.jsonl").write_text("{}\n")
    assert Path("prompts/otto/eval_rows.jsonl").read_text()
    new.scaffold(dataset, "files", like)
    blocks = params.check()
    briefs = blocks["candidates"][dataset]["briefs"]
    assert briefs == f"{dataset}_candidates" and blocks["corpus_briefs"][briefs]["skills"] == dataset
    assert blocks["skills"][dataset]["path"] == "files"
    assert blocks["prompt"][dataset]["template"] == f"prompts/{dataset}/teacher.md"
    for name in ("decisions.jsonl", "eval_rows.jsonl"):
        assert (Path(f"prompts/{dataset}/{name}").read_text() == "") is bool(like)
    assert blocks["evaluate_calls"][dataset]["eval_rows"] == f"prompts/{dataset}/eval_rows.jsonl"
    assert new.scaffold(dataset, "files", like) == []


@pytest.mark.parametrize("of", [None, "pydoc"])
def test_scaffolding_a_retriever(project, of):
    done = new.scaffold("mine", None if of else "files", kind="retriever", of=of)
    assert "made prompts/mine/: edit params.yaml" in done
    blocks = params.check()
    chain = [stage.name for stage in params.stages_of("mine", blocks)]
    rest = ["mine", "score", "train_retriever", "train_reranker", "evaluate_retriever", "report"]
    assert chain == ["tasks_synthetic" if of else "tasks", *rest]
    source = blocks["tasks_synthetic"]["mine"]["of"] if of else blocks["tasks"]["mine"]["path"]
    assert source == (of or "files")
    assert blocks["evaluate_retriever"]["mine"]["eval_rows"] == "prompts/mine/eval_rows.jsonl"
    assert Path("prompts/mine/eval_rows.jsonl").read_text() == ""


def test_scaffolding_answers_from_passages(project):
    done = new.scaffold("mine", "files", kind="rag")
    assert "made prompts/mine/: edit params.yaml, student.md" in done
    blocks = params.check()
    chain = [stage.name for stage in params.stages_of("mine", blocks)]
    student = ["tokenize", "finetune", "merge", "export"]
    assert chain == ["passages", "retrieved", "convert_rag", *student, "answer", "evaluate_rag", "report"]
    assert blocks["passages"]["mine"]["path"] == "files"
    assert Path("prompts/mine/eval_rows.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("kind", "of", "told"),
    [
        (
            "retriver",
            None,
            "--kind: 'retriver' has no example to begin with; name academic, rag or retriever",
        ),
        (None, "pydoc", "--kind: None has no example"),
        ("retriever", "nothing", "--of: no dataset is called 'nothing'"),
        ("retriever", "../x", "cannot be a name"),
    ],
)
def test_a_kind_or_dataset_to_build_upon_that_is_not_there_is_refused(project, kind, of, told):
    with pytest.raises(UserError, match=re.escape(told)):
        new.scaffold("home", kind=kind, of=of)
    assert not Path("prompts/home").exists()


def test_a_base_that_two_datasets_share_is_listed_once(project):
    def listed() -> list[str]:
        return re.findall(r"(?m)^  - (prompts/.*)", Path("dvc.yaml").read_text())

    before = listed()  # pydoc, and what was built in this clone
    for dataset in ("orcas", "wikihierarchy"):
        new.scaffold(dataset)
    assert listed() == [
        *before,
        "prompts/orcas/params.yaml",
        "prompts/bases/llama2.yaml",
        "prompts/wikihierarchy/params.yaml",
    ]
    assert params.check()["base_hub"]["llama2"]["id"] == "meta-llama/Llama-2-7b-hf"


def test_all_that_a_dataset_is_built_upon_is_listed(project):
    """A judge's answers are another dataset's, whose student is compared with a third one's."""
    new.join("pydoc_rag_judged", None)
    listed = re.findall(r"(?m)^  - prompts/(\w+)/", Path("dvc.yaml").read_text())
    assert {"pydoc", "pydoc_rag", "pydoc_rag_sft", "pydoc_rag_judged"} <= set(listed)
    targets = params.before("pydoc_rag_judged", params.check())
    assert targets[0] == "corpus@pydoc" and targets[-1] == "answer@pydoc_rag"
    assert "export@pydoc_rag_sft" in targets


def test_two_students_are_compared_with_each_other(project):
    for one, other in (("pydoc_rag", "pydoc_rag_sft"), ("pydoc_rag_sft", "pydoc_rag")):
        path = Path(f"prompts/{one}/params.yaml")
        text = re.sub(r"(?ms)^answer:\n.*?(?=^\w|\Z)", "", path.read_text())
        none = "models/shipped/none"
        path.write_text(
            f"{text}\nanswer:\n  {one}: {{base: smol_chat, beside: models/{other}/hf, fid: {none}, "
            f"encoder: {none}, reranker: {none}}}\n"
        )
    new.join("pydoc_rag", None)
    assert "prompts/pydoc_rag_sft/params.yaml" in Path("dvc.yaml").read_text()
    assert "export@pydoc_rag" in params.before("pydoc_rag_sft", params.check())


def test_a_folder_is_set_where_the_dataset_is_read(project):
    done = new.scaffold("orcas", str(project))
    assert f"set corpus_xc.orcas.path in prompts/orcas/params.yaml to {project}" in done
    assert params.blocks()["corpus_xc"]["orcas"]["path"] == str(project)
    new.scaffold("mine", str(project))
    assert params.blocks()["corpus"]["mine"]["path"] == str(project)


@pytest.mark.parametrize("like", ["example", "../otto", "nothing"])
def test_a_bad_dataset_to_begin_with_is_refused(project, like):
    with pytest.raises(UserError, match=like.removeprefix("../")):
        new.scaffold("home", like=like)
    assert "home" not in Path("dvc.yaml").read_text() and not Path("prompts/home").exists()


@pytest.mark.parametrize("dataset", ["faire", "orcas"])
def test_a_build_lists_no_dataset_whose_files_are_missing(project, dataset, capsys):
    """Otherwise a plain `dvc repro` would fail from then on."""
    before = {path: Path(path).read_text() for path in ("dvc.yaml", f"prompts/{dataset}/params.yaml")}
    for arguments in ([dataset], [dataset, "--path", "nowhere"]):
        with pytest.raises(SystemExit) as end:
            build.cli(arguments, standalone_mode=False)
        assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert {path: Path(path).read_text() for path in before} == before


@pytest.mark.parametrize("fails", ["copytree", "replace", "write_text"])
def test_a_full_disk_leaves_no_half_made_dataset(project, monkeypatch, fails):
    def full(*arguments, **named) -> None:
        raise OSError(errno.ENOSPC, "full")

    graph = Path("dvc.yaml").read_text()
    with monkeypatch.context() as patch:
        place = {"copytree": new.shutil, "replace": new.os, "write_text": new}[fails]
        patch.setattr(place, fails, full)
        with pytest.raises(OSError):
            new.scaffold("shop")
    left = [path.name for path in Path("prompts").iterdir() if "shop" in path.name]
    assert not left and Path("dvc.yaml").read_text() == graph
    new.scaffold("shop")


def test_removing_a_dataset_takes_its_lines_out_and_deletes_nothing_unasked(project):
    graph = Path("dvc.yaml").read_text()
    new.scaffold("shop")
    new.scaffold("orcas")
    new.scaffold("wikihierarchy")
    for folder in ("data/shop", "models/shop", "reports/shop", "data/sources/shop"):
        Path(folder).mkdir(parents=True)
    assert "data/shop" in remove.remove("shop")[1] and Path("data/shop").is_dir()
    remove.remove("orcas")
    assert "prompts/bases/llama2.yaml" in Path("dvc.yaml").read_text()  # the other one uses it
    remove.remove("wikihierarchy")
    assert Path("dvc.yaml").read_text() == graph and Path("prompts/shop/params.yaml").is_file()
    with pytest.raises(UserError, match="no line prompts/pidoc/params.yaml; did you mean 'pydoc'"):
        remove.remove("pidoc")
    new.scaffold("shop")
    remove.remove("shop", built=True)
    kept = [folder for folder in ("data", "models", "reports") if Path(folder, "shop").exists()]
    assert not kept and Path("data/sources/shop").is_dir()


# Names


BAD_NAMES = ["My Data", "../up", "teacher", "example", "bases", "base", "code", "a b", "", "a.b", "/abs", "ü"]
BAD_NAMES += ["$(touch x)", "a;b", "`b`", "a'b", "-a", "a\n", "x@pydoc", "a" * 65, "2024"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_by_make_new_the_check_and_every_stage(project, name):
    with pytest.raises(UserError, match="cannot be a name"):
        new.scaffold(name)
    Path("params.yaml").write_text(Path("params.yaml").read_text() + f"corpus:\n  {json.dumps(name)}: {{}}\n")
    with pytest.raises(UserError, match="params.yaml, corpus: .* cannot be a name"):
        params.check()
    for stage in ("corpus", "base", "collect"):
        for given in (name, f"{stage}@{name}"):
            shown = invoke(stage, ["--", given])
            assert shown.exit_code == 2 and "cannot be a name" in shown.output
    assert not Path("data").exists() and not Path("reports").exists()


@pytest.mark.parametrize("key", ["2024", "1e3", "2024-01-01", "true", "null", "[1, 2]", "1.5"])
def test_a_key_of_yaml_that_is_no_text_is_one_line(project, key):
    shared = Path("params.yaml").read_text()
    for block, where in ((f"corpus: {{{key}: {{}}}}", "corpus"), (f"base: {{{key}: {{path: x}}}}", "base")):
        Path("params.yaml").write_text(f"{shared}\n{block}\n")
        with pytest.raises(UserError, match=f"params.yaml, {where}: .* cannot be a name: it is no text"):
            params.check()
    Path("params.yaml").write_text(
        shared.replace("    embedded:", f"    {key}: {{input: 1, output: 1}}\n    embedded:")
    )
    with pytest.raises(UserError, match="params.yaml, prices: ") as end:
        params.check()
    assert "\n" not in str(end.value)
    Path("params.yaml").write_text(f"{shared}\n{key}: {{}}\n")
    with pytest.raises(UserError, match="no stage is called"):
        params.check()


@pytest.mark.parametrize("name", ["no", "on", "u", "a-b_c9"])
def test_a_good_name_is_taken_as_it_is(project, name):
    assert check_name(name) == name
    new.scaffold(name)
    assert name in params.check()["corpus"]


def test_no_key_of_params_is_part_of_a_line_for_the_shell():
    for name, stage in params.graph()["stages"].items():
        entry = stage.get("do", stage)
        assert "${key}" not in entry["cmd"] and ('"$DVC_STAGE"' in entry["cmd"]) is (name != "code")


@pytest.mark.parametrize(
    "block",
    [
        {"../../elsewhere": {"source": "folder", "path": "sources"}},
        {"shop": {"path": "sources", "text_field": "x", "$(touch ran)": "y"}},
    ],
)
def test_a_clone_refuses_names_before_dvc_deletes_what_is_there_or_asks_a_shell(project, block):
    shutil.copytree(ROOT / "stages", "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "sources").mkdir()
    (precious := project.parent / "elsewhere/corpus/file").parent.mkdir(parents=True, exist_ok=True)
    precious.write_text("precious")
    with open("params.yaml", "a") as stream:
        stream.write(f"corpus: {json.dumps(block)}\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for arguments in (["init", "--no-scm", "-q"], ["repro"]):
        command = [sys.executable, "-m", "dvc", *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode and "error: params.yaml, corpus" in ended.stderr, ended.stderr
    assert precious.read_text() == "precious" and not Path("ran").exists()


def test_no_dataset_can_have_the_name_of_a_make_target():
    phony = re.search(r"(?m)^\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1]
    assert set(phony.split()) - {"$(DATASETS)"} <= TAKEN


# Datasets that are built upon others


def test_showing_the_cost_of_skills_never_asks(project):
    new.scaffold("otto")
    first = (
        "otto_candidates",
        ["skills@otto", "corpus_briefs@otto_candidates", "price@otto_candidates", "prompt@otto_candidates"],
    )
    assert cost.steps("otto", params.check()) == [first]
    layout.responses("otto_candidates").parent.mkdir(parents=True)
    layout.responses("otto_candidates").write_text("")
    own = ("otto", ["candidates@otto", "corpus_skills@otto", "price@otto", "prompt@otto"])
    assert cost.steps("otto", params.check()) == [first, own]
    assert cost.steps("pydoc", params.check()) == [("pydoc", ["corpus@pydoc", "price@pydoc", "prompt@pydoc"])]
    with pytest.raises(UserError, match="did you mean 'pydoc'"):
        cost.steps("pydok", params.check())


def begins_with(dataset: str, base: str, of: str) -> None:
    """Let the student of `dataset` be trained upon `base`, which is that of `of`."""
    path = Path(f"prompts/{dataset}/params.yaml")
    text = re.sub(r"\bbase: \w+", f"base: {base}", path.read_text())
    path.write_text(f"{text}\nbase_student:\n  {base}: {{of: {of}}}\n")


@pytest.mark.parametrize("shared", [False, True])
def test_a_student_to_begin_with_is_made_first(project, shared):
    begins_with("pydoc_rag", "two", "pydoc_rag_sft")
    if shared:
        spoil("prompts/pydoc_rag/params.yaml", "base_student:\n  two: {of: pydoc_rag_sft}\n", "")
        Path("prompts/bases/two.yaml").write_text("base_student:\n  two: {of: pydoc_rag_sft}\n")
    new.join("pydoc_rag", None)
    blocks = params.check()
    targets = params.before("pydoc_rag", blocks)
    taught = ["passages_embedded", "retrieved", "convert_rag", "tokenize", "finetune", "merge", "export"]
    order = ["corpus@pydoc", *(f"{stage}@pydoc_rag_sft" for stage in taught), "base_student@two"]
    assert targets[: len(order)] == order and set(targets) == set(order)
    assert {"smol_chat", "two"} <= build.bases_of("pydoc_rag", targets, blocks)
    assert "base_student@two" not in params.before("pydoc_rag_sft", blocks)


def test_a_student_may_be_compared_with_the_one_that_begins_with_it(project):
    """What is made from each other are datasets then, but no stages."""
    test_two_students_are_compared_with_each_other(project)
    begins_with("pydoc_rag", "two", "pydoc_rag_sft")
    targets = params.before("pydoc_rag_sft", params.check())
    made = [targets.index(f"{stage}@pydoc_rag") for stage in ("tokenize", "export")]
    assert targets.index("export@pydoc_rag_sft") < targets.index("base_student@two") < min(made)


@pytest.mark.parametrize(
    ("bases", "told"),
    [
        ({"pydoc_rag": ("two", "pydoc_rg")}, "base_student.two.of: export has no block 'pydoc_rg'; did you"),
        (
            {"pydoc_rag": ("two", "pydoc_rag")},
            "rag/params.yaml, base_student.two.of: 'pydoc_rag' is made from 'two' itself: base_student@two, ",
        ),
        (
            {"pydoc_rag": ("two", "pydoc_rag_sft"), "pydoc_rag_sft": ("three", "pydoc_rag")},
            "base_student.t.* itself: .*@pydoc_rag, .*@pydoc_rag_sft",
        ),
    ],
)
def test_a_student_that_nobody_makes_or_that_begins_with_itself_is_named(project, bases, told):
    for dataset, (base, of) in bases.items():
        begins_with(dataset, base, of)
    with pytest.raises(UserError, match=told) as caught:
        new.join("pydoc_rag", None)
    assert "\n" not in str(caught.value)


def test_documents_that_are_made_from_each_other_are_named(project):
    asks = "{template: prompts/papers/questions.md, task: question}"
    for one, other in (("papers", "sai"), ("sai", "papers")):
        Path(f"prompts/{one}/params.yaml").write_text(
            f"corpus_asked: {{{one}: {{of: {other}}}}}\nprompt: {{{one}: {asks}}}\n"
            f"collect: {{{one}: {{base_url: embedded}}}}\n"
        )
    with pytest.raises(UserError, match=r"\.(papers|sai): is made from itself: .*, .*") as caught:
        new.join("papers", None)
    assert "\n" not in str(caught.value)


def test_the_cost_of_a_student_to_begin_with_is_shown(project):
    new.scaffold("mine", str(project))
    begins_with("mine", "two", "pydoc")
    asks = [
        (name, [f"{stage}@{name}" for stage in ("corpus", "price", "prompt")]) for name in ("pydoc", "mine")
    ]
    assert cost.steps("mine", params.check()) == asks


def test_a_dataset_of_skills_needs_its_briefs(project):
    new.scaffold("otto")
    text = Path("prompts/otto/params.yaml").read_text()
    for wrong in ("briefs: oto_candidates", "skills: oto,"):
        right = wrong.replace("oto", "otto")
        assert right in text
        Path("prompts/otto/params.yaml").write_text(text.replace(right, wrong))
        with pytest.raises(UserError, match="has no block 'oto"):
            params.check()


def test_two_stages_that_make_the_same_are_refused(project):
    new.scaffold("orcas")
    with Path("prompts/orcas/params.yaml").open("a") as stream:
        stream.write("\ncorpus:\n  orcas: {path: x}\n")
    with pytest.raises(UserError, match="'orcas' is in corpus and in corpus_xc, which make the same"):
        params.check()
