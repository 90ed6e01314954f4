"""Models of a dataset on the rows of any file, and answers that the file has."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from stages.commands import evaluate_rows
from stages.core.files import read_json, write_json, write_text
from tests.helpers.papers_answers import all_questions, publish
from tests.helpers.papers_student import KNOBS, NONE, make_project


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project()
    measuring = {"encoder": NONE, "published": NONE, "bootstrap": 20}
    write_json(Path("params.yaml"), {"benchmark": {"d": KNOBS}, "evaluate_papers": {"d": measuring}})


def scored(file: str, *arguments: str):
    return CliRunner().invoke(evaluate_rows.cli, ["d", f"--rows={file}", "--out=scores.json", *arguments])


def test_a_published_file_is_scored_beside_the_models():
    publish(Path("p_results_one.csv"), all_questions(), separator=";")
    result = scored("p_results_one.csv")
    assert result.exit_code == 0, result.output
    made = read_json(Path("scores.json"))
    assert list(made) == ["untrained", "trained", "first_words", "reference", "given", "differences"]
    assert made["given"]["f1"]["mean"] == made["given"]["unanswerable_recall"]["mean"] == 1
    assert made["differences"]["trained-given"]["f1"]["mean"] < 0
    assert "unanswerable_recall" in result.output and "first_words" in result.output


def test_questions_alone_and_models_by_name():
    row = {"question": "what does the kernel return", "answer": "a sorted array"}
    other = row | {"question": "what is a median"}
    write_text(Path("rows.jsonl"), f"{json.dumps(row)}\n{json.dumps(other)}\n")
    assert scored("rows.jsonl", "--systems=first_words,trained").exit_code == 0
    made = read_json(Path("scores.json"))
    assert made.keys() == {"trained", "first_words", "differences"}
    result = scored("rows.jsonl", "--systems=given")
    assert result.exit_code == 2 and "none is called 'given'; expected some of untrained" in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rows.jsonl: no question"),
        ('{"question": "q"}\n', "row 1: answer: Field required"),
        ('{"question": "q", "answer": " "}\n', "row 1: answer: String should have"),
        ('{"question": "q", "answer": 3}\n', "row 1: answer: Input should be a valid string"),
        (
            '{"question": "q", "answer": "a", "model_response": "b"}\n{"question": "p", "answer": "a"}\n',
            "1 rows lack an answer of 'given'",
        ),
    ],
)
def test_rows_that_cannot_be_scored(text, message):
    write_text(Path("rows.jsonl"), text)
    result = scored("rows.jsonl")
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output
    assert not Path("scores.json").exists()
