"""A student of a dataset on the rows of any file, of both forms, and rows that cannot be read."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from stages.commands import evaluate_rows
from stages.core.files import read_json, write_json, write_text
from stages.kinds.rag.parts.any_rows import questions_of
from stages.kinds.rag.parts.rows import read_passages
from tests.helpers.rag_student import NONE, make_project, passage


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project()
    decoding = {"engine": "transformers", "threads": 1, "batch_size": 4, "max_new_tokens": 6}
    answer = {"base": "b", "beside": NONE, "fid": NONE, "encoder": NONE, "reranker": NONE, **decoding}
    blocks = {"answer": {"d": answer}, "evaluate_rag": {"d": {"bootstrap": 20}}}
    write_json(Path("params.yaml"), blocks)  # JSON is YAML


def scored(text: str, *arguments: str):
    write_text(Path("rows.jsonl"), text)
    return CliRunner().invoke(evaluate_rows.cli, ["d", "--rows=rows.jsonl", "--out=scores.json", *arguments])


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(name: str = "median", **changes) -> dict:
    metadata = {"source": name, "title": name, "seq_num": 0}
    text = passage(name)["text"].replace(" ", "\n ", 1)  # white space apart
    row = {"question": f"what is the {name}", "gold_answer": "a sorted array", "chat_history": []}
    return {**row, "gold_docs": [{"page_content": text, "fmt_content": "", "metadata": metadata}], **changes}


def own(**changes) -> dict:
    return {"question": "what is the kernel", "answer": "a sorted array", "document_id": "kernel", **changes}


def test_rows_of_localrqa():
    result = scored(lines(pair(), pair(question=""), pair("kernel")))
    assert result.exit_code == 0, result.output
    made = read_json(Path("scores.json"))
    assert made.keys() == {"trained", "untrained", "first_words", "nearest_question", "differences"}
    assert made["trained"]["gold"]["questions"] == made["trained"]["retrieved"]["questions"] == 2
    assert made["trained"]["retrieved"]["recall@1"]["mean"] == 1  # by words of the question
    assert "rows.jsonl, row 2: has no question, so it is left out" in result.output
    assert "gold passages, 2 rows" in result.output and "nearest_question" in result.output


def test_rows_that_name_a_document():
    result = scored(lines(own()), "--systems=trained")
    assert result.exit_code == 0, result.output
    made = read_json(Path("scores.json"))
    assert made.keys() == {"trained", "differences"} and made["differences"] == {}


def test_turns_before_a_question_are_kept():
    turns = [{"speaker": "user", "message": "hello"}, {"speaker": "assistant", "message": "yes?"}]
    write_text(Path("rows.jsonl"), lines(pair(chat_history=turns)))
    (row,) = questions_of(Path("rows.jsonl"), read_passages("d"))
    assert [turn["message"] for turn in row["history"]] == ["hello", "yes?"] and row["gold"] == ["median"]


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("", [], "rows.jsonl"),
        (lines(own(answer="")), [], "rows.jsonl, row 1: answer:"),
        (lines(own(document_id="x")), [], "rows.jsonl, row 1: the dataset has no passage 'x'"),
        (lines({"question": "x", "answer": "y"}), [], "row 1: the dataset has no passage ''"),
        (lines(pair(gold_docs=[])), [], "rows.jsonl, row 1: gold_docs"),
        (lines(pair(gold_answer="")), [], "rows.jsonl, row 1: gold_answer"),
        (
            lines(pair(gold_docs=[{"page_content": "else", "metadata": {"source": "median"}}])),
            [],
            "row 1: the dataset has no passage 'else' (source 'median'), which is named as gold",
        ),
        (
            lines(pair(chat_history=[{"speaker": "x", "message": "y"}])),
            [],
            "speaker: Input should be 'user' or",
        ),
        (lines(own()), ["--systems=best"], "--systems: none is called 'best'; expected some of trained"),
        ("[1]", [], "rows.jsonl, row 1"),
    ],
)
def test_bad_rows_of_a_file(text, arguments, told):
    result = scored(text, *arguments)
    assert result.exit_code == 2 and told in result.output, result.output
    assert "Traceback" not in result.output and not Path("scores.json").exists()
