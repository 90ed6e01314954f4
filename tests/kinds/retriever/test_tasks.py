"""Rows that people bring: LLM-Embedder's unchanged, plain ones, documents and questions; what is refused."""

import json
from pathlib import Path

import pytest

from stages.core.files import read_json, verify_manifest, write_jsonl
from stages.kinds.retriever.parts.made import same_query
from stages.kinds.retriever.parts.rows import SPLITS, TASKS
from tests.helpers.cli import invoke
from tests.helpers.retrieval_rows import read_keys, read_rows
from tests.helpers.workspace import ROOT

UPSTREAM = ROOT.parent / "shared" / "data" / "llm_embedder"
MADE = Path("data/d/tasks")
TRAIN = ("--val_share", "0", "--test_share", "0")
ONE = {"query": "where is it", "pos": ["here"], "neg": ["there"]}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()


def run(*options: str, path: str = "rows") -> dict:
    """Run the stage on `path`; returns its figures."""
    result = invoke("tasks", ["d", "--path", path, *options])
    assert result.exit_code == 0, result.output
    return read_json(Path("reports/d/figures/tasks.json"))


def refused(*options: str, path: str = "rows") -> str:
    """The one line that says why `path` cannot be used."""
    result = invoke("tasks", ["d", "--path", path, *options])
    assert result.exit_code == 2 and not MADE.exists(), result.output
    assert result.output.count("\n") == 1, result.output
    return result.output


def write(name: str, *rows: dict) -> None:
    path = Path("rows") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)


def rows_of(task: str) -> dict[str, dict]:
    return {row["id"]: {**row, "split": split} for split in SPLITS for row in read_rows(MADE / task, split)}


def check_whole(task: str) -> None:
    """Ids are keys, scores are as many as texts, no group and no query is in two splits."""
    keys, split_of = read_keys(MADE / task), {}
    for row in rows_of(task).values():
        named = [*row["pos"], *row.get("neg", [])]
        assert named and set(named) <= keys.keys() and len(set(named)) == len(named)
        assert "teacher_scores" not in row or len(row["teacher_scores"]) == len(named)
        for name in (("group", row["group"]), ("query", same_query(row["query"]))):
            assert split_of.setdefault(name, row["split"]) == row["split"]


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="the rows of LLM-Embedder are not here")
def test_upstreams_rows_are_read_unchanged():
    figures = run(path=str(UPSTREAM))["tasks"]
    assert list(figures) == list(TASKS)
    for task in TASKS:
        assert sum(figures[task][split] for split in SPLITS) == 8
        check_whole(task)
        source = [json.loads(line) for line in (UPSTREAM / f"{task}.json").read_text("utf-8").splitlines()]
        keys, rows = read_keys(MADE / task), rows_of(task)
        for number, given in enumerate(source):
            row = rows[str(given.get("query_id", given.get("qid", number)))]
            wanted = dict.fromkeys([*given.get("pos", []), *given.get("neg", given.get("history", []))])
            assert [keys[name] for name in [*row["pos"], *row["neg"]]] == [text.strip() for text in wanted]
            if len(wanted) == len(given.get("teacher_scores", [])):
                assert row["teacher_scores"] == given["teacher_scores"]


def test_upstreams_odd_fields():
    scores = {"pos_scores": [-1.5], "neg_score": [-2.5], "teacher_scores": [-1.5, -2.5]}
    write("icl.json", {**ONE, **scores}, {**ONE, "query": "and this"})
    history = {"query": "And you?", "history": ["a: b", "c: d"], "answers": ["I do not."], "task": "chat"}
    write("dialogues.json", {**history, "query_id": 7, "teacher_scores": [-3.0, -1.0]})
    write(
        "lrlm.json", {"query_id": 3, "query": "q", "pos": [], "neg": ["k"], "context": "c", "answers": ["o"]}
    )
    write("tool/toolbench/train.json", {**ONE, "qid": "49635"})
    write("conversation/qrecc/train.json", {**ONE, "pos_index": [54386775], "query_id": 0, "neg_index": [2]})
    figures = run(*TRAIN)
    assert list(figures["tasks"]) == ["convsearch", "chat", "lrlm", "icl", "tool"]
    assert rows_of("icl")["0"]["teacher_scores"] == [-1.5, -2.5] and list(rows_of("icl")) == ["0", "1"]
    chat = rows_of("chat")["7"]
    assert chat["pos"] == [] and chat["among"] == chat["neg"] and chat["teacher_scores"] == [-3.0, -1.0]
    assert rows_of("lrlm")["3"]["context"] == "c" and "among" in rows_of("lrlm")["3"]
    assert list(rows_of("tool")) == ["49635"] and list(rows_of("convsearch")) == ["0"]


def test_the_prefix_of_upstreams_paths_is_the_folder():
    for name in ("qa/msmarco/train.json", "qa/nq/test.json", "convsearch/qrecc/train.json"):
        write(name, {**ONE, "query": name})
    files = ("llm-embedder:qa/msmarco/train.json", "llm-embedder:conversation/qrecc/train.json")
    figures = run(*TRAIN, *(word for name in files for word in ("--files", name)))
    assert {task: own["train"] for task, own in figures["tasks"].items()} == {"qa": 1, "convsearch": 1}
    assert "rows/qa/dev.json: no such file" in (
        MADE.rename("away") and refused("--files", "llm-embedder:qa/dev.json")
    )


def test_places_are_looked_up_in_the_corpus_which_counts():
    write("corpus.jsonl", *({"title": f"T{n}", "content": f"text {n}"} for n in range(4)))
    write(
        "qa.json", {"query": "q", "pos": ["T1 text 1"], "neg": ["other"], "pos_index": [1], "neg_index": [3]}
    )
    write(
        "more.jsonl",
        {"query": "r", "pos_index": 2},
        {"query": "s", "pos": "T3 text 3"},
        {"query": "t", "pos": "u"},
    )
    figures = run("--key_template", "{title} {content}", *TRAIN)
    assert figures["found"] == {"texts of neg unlike the corpus's at neg_index, which counts": 1}
    rows = rows_of("qa")
    assert rows["qa/0"]["pos"] == ["1"] and rows["qa/0"]["neg"] == ["3"]
    assert rows["more/0"]["pos"] == ["2"] and rows["more/1"]["pos"] == ["3"]
    assert len(read_keys(MADE / "qa")) == 5 and read_keys(MADE / "qa")["2"] == "T2 text 2"


def test_documents_and_questions():
    write("documents.jsonl", *({"id": 100 - n, "title": "", "text": f"text {n}"} for n in range(20)))
    asked = [{"question": f"about {n}?", "document_id": 100 - n, "answer": f"{n}"} for n in range(20)]
    write("questions.jsonl", *asked)
    figures = run()["tasks"]["qa"]
    assert figures["keys"] == 20 and min(figures[split] for split in SPLITS) >= 1
    assert rows_of("qa")["4"]["pos"] == ["96"] and rows_of("qa")["4"]["answers"] == ["4"]
    check_whole("qa")


def test_a_table_is_read_and_two_corpora_keep_apart():
    Path("rows/a").mkdir()
    Path("rows/a/train.csv").write_text("\ufeffquery,pos\r\nwhere,here\r\n", "utf-8", newline="")
    write("a/corpus.jsonl", {"title": "A", "text": "a"})
    write("b/corpus.jsonl", {"title": "B", "text": "b"})
    write("b/train.jsonl", {"query": "to b", "pos_index": 0})
    run(*TRAIN)
    assert {key: text for key, text in read_keys(MADE / "qa").items() if "/" in key} == {
        "a/0": "A a",
        "b/0": "B b",
    }
    assert rows_of("qa")["b/train/0"]["pos"] == ["b/0"]


def test_files_say_what_is_held_out_and_the_rest_is_by_hash():
    write("train.jsonl", *({"query": f"q{n}", "pos": f"p{n}"} for n in range(40)))
    write("test.jsonl", {"query": "held out", "pos": "p0"})
    run("--val_share", "0.2")
    split_of = {name: row["split"] for name, row in rows_of("qa").items()}
    assert [name for name, split in split_of.items() if split == "test"] == ["test/0"]
    assert 2 <= list(split_of.values()).count("val") <= 14


def test_rows_to_measure_with_may_have_answers_alone():
    """As upstream's of PopQA: found is what holds an answer."""
    write("corpus.jsonl", {"title": "T", "text": "t"})
    write("eval.json", {"query": "who", "answers": ["t"], "key": ["T t"], "key_index": [0]})
    assert run()["tasks"]["qa"] == {"keys": 1, "train": 0, "val": 0, "test": 1, "groups": 1, "scored": 0}
    assert rows_of("qa")["0"]["pos"] == [] and "among" not in rows_of("qa")["0"]


def test_a_query_in_two_files_is_an_error_and_in_one_file_stays_in_one_split():
    write("train.jsonl", {"query": "Where  IS it", "pos": "p"}, {"query": "other", "pos": "r"})
    write("test.jsonl", {"query": "where is it", "pos": "s"})
    message = "qa: row 'test/0' of test asks the same as row 'train/0' of train, 'where is it'; delete one"
    assert message in refused(*TRAIN)
    Path("rows/test.jsonl").unlink()
    asked = [f"Q {n // 2}" if n % 2 else f"q  {n // 2}" for n in range(40)]
    write("train.jsonl", *({"query": query, "pos": f"p{n}"} for n, query in enumerate(asked)))
    run("--test_share", "0.4")
    assert len(read_rows(MADE / "qa", "test")) > 4
    check_whole("qa")


def test_the_first_place_of_a_key_counts():
    write(
        "qa.json",
        {"query": "q", "pos": ["a", "b", "a"], "neg": ["c", "b", "c"], "teacher_scores": [6, 5, 4, 3, 2, 1]},
    )
    figures = run(*TRAIN)
    row, keys = rows_of("qa")["0"], read_keys(MADE / "qa")
    assert [keys[name] for name in row["pos"] + row["neg"]] == ["a", "b", "c"]
    assert row["teacher_scores"] == [6, 5, 3]
    assert figures["found"] == {"keys that a row names again": 3}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"pos": ["a"]}, "row 2: field 'query': is missing; expected what is asked: correct the row"),
        ({"query": "q"}, "row 2: field 'pos' is missing; expected what the query should find"),
        ({"query": "q", "neg": ["a"]}, "row 2: field 'pos' is missing"),
        ({"query": " ", "pos": ["a"]}, "row 2: field 'query': is empty, found ' '"),
        ({"query": "q", "pos": ["a", ""]}, "row 2: field 'pos': is empty"),
        ({"query": "q", "pos": [{}]}, "row 2: field 'pos': Input should be a valid string, found '{}'"),
        ({"query": "q", "pos": ["a\0"]}, "row 2: field 'pos': holds a NUL character"),
        ({"query": ["q"], "pos": ["a"]}, "row 2: field 'query': Input should be a valid string"),
        ({"query": {"a": "x" * 10**6}, "pos": ["a"]}, "row 2: field 'query': Input should be a valid string"),
        (
            {**ONE, "teacher_scores": [1]},
            "row 2: field 'teacher_scores': 1 numbers for 2 texts; expected",
        ),
        (
            {**ONE, "teacher_scores": [1, None]},
            "row 2: field 'teacher_scores': Input should be a valid",
        ),
        ({**ONE, "teacher_scores": [1, "nan"]}, "row 2: field 'teacher_scores': Input should be a finite"),
        ({"query": "q", "pos": ["a"], "history": ["h"]}, "row 2: has `history` beside pos or neg"),
        ({**ONE, "task": "icl"}, "row 2: is of the task icl, rows above of qa; give each a file"),
        ({**ONE, "task": "qaa"}, "row 2: field 'task': Input should be 'qa', 'convsearch', 'chat'"),
        ({**ONE, "query_id": "0"}, "row 2: the id '0' is that of a row above, too"),
        ({**ONE, "query_id": [0]}, "row 2: field 'query_id': Input should be a valid string, found '[0]'"),
        (
            {"query": "q", "pos_index": [0]},
            "row 2: names 0 of a corpus as pos, and there is none; put it",
        ),
        ({"query": "q", "pos_index": [0.5]}, "row 2: field 'pos_index': Input should be a valid integer"),
        ({**ONE, "pos_index": [0, 1]}, "row 2: 1 texts in pos, 2 places in pos_index; give as many"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_line(row, message):
    write("qa.json", ONE, row)
    assert f"error: rows/qa.json, {message}" in (told := refused()) and len(told) < 400


@pytest.mark.parametrize(
    "raw, message",
    [
        (b'{"query": "q", "pos": [NaN]}', "row 1: not valid JSON (field 'pos': NaN is no number"),
        (b'{"query": "\\ud800", "pos": "a"}', "row 1: not valid JSON (holds '\\ud800', half of a character"),
        (b'{"query": "q\xff"}', "row 1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"[1]\n", "row 1: expected an object with fields, found a whole number"),
        (b"", "zero rows; put rows there or delete the file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(raw, message):
    Path("rows/qa.json").write_bytes(raw)
    assert message in refused()


@pytest.mark.parametrize(
    "rows, row, message",
    [
        (
            [{"text": "a"}],
            ONE,
            "row 1: key_template '{title} {text}' names 'title', which is no text",
        ),
        ([{"title": "", "text": " "}], ONE, "row 1: its text is empty or no text"),
        ([{"title": "", "text": "a", "id": None}], ONE, "row 1: its id is empty or no text"),
        ([{"title": "", "text": "a", "id": 1}] * 2, ONE, "row 2: the id '1' is that of a row above"),
        (
            [{"title": "", "text": "a"}],
            {"query": "q", "pos_index": 1},
            "row 1: 1, named as pos, is not in rows/corpus.jsonl",
        ),
        ([{"title": "", "text": "a"}], {"query": "q", "pos_index": "x"}, "'x', named as pos, is not in"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_one_line(rows, row, message):
    write("corpus.jsonl", *rows)
    write("qa.json", row)
    assert message in refused()


@pytest.mark.parametrize("template", ["{", "{}", "{0}", "{text!r}", "{text:9}", "{text.x}", "text"])
def test_a_template_that_is_none_is_one_line(template):
    write("corpus.jsonl", {"text": "a"})
    write("qa.json", ONE)
    assert "params.yaml, tasks.d: key_template: String should match" in refused("--key_template", template)


def test_folders_and_files_that_are_not_there():
    assert "nowhere: no such folder; set `path`" in refused(path="nowhere")
    assert "rows: no file of rows (.jsonl, .json" in refused()
    write("qa.json", ONE)
    assert "rows/keys.jsonl: no such file; correct its name" in refused("--corpus", "keys.jsonl")
    write("corpus.jsonl", {"title": "a", "text": "b"})
    write("documents.jsonl", {"title": "a", "text": "b"})
    assert "rows: a folder in it holds two corpora; set `corpus`" in refused()
    Path("rows/corpus.jsonl").unlink()
    Path("rows/documents.jsonl").unlink()
    assert "rows: no row of qa is left for train: all 1 share positives" in refused("--test_share", "0.49999")


def test_the_same_rows_give_the_same_bytes():
    rows = [{"query": f"q{n}", "pos": f"p{n}", "neg": ["n"], "query_id": n} for n in range(30)]
    write("qa.json", *rows)
    run()
    manifest = verify_manifest(MADE)
    write(
        "qa.json",
        *({"query": f"q{n}", "pos": f"p{n}", "neg": ["n"], "query_id": n} for n in reversed(range(30))),
    )
    run()
    assert verify_manifest(MADE) == manifest
