"""The original's instruction rows, and Alpaca's: fields, papers, splits, and files that are none."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from stages.core import layout
from stages.core.files import read_json, read_jsonl, verify_manifest, write_text
from stages.evaluation.unanswered import NOT_SAID
from stages.kinds.academic.parts.instructions import parsed
from tests.helpers.cli import invoke
from tests.helpers.workspace import ROOT

SAI = ROOT.parent / "shared/data/sai"
ALPACA = ROOT.parent / "shared/data/alpaca_data.json"
HEAD = "Below is an instruction that describes a task.\n\n### Instruction: Use the context.\n\nText: "
COLUMNS = "page,para_num,text,pdf_name,text_synthetic,,"


def whole(text: str, question: str = "What is it?", answer: str = "It is.") -> str:
    """A row as the original wrote it: its script rewrote the paragraph, too."""
    shown = text.replace("Human:", "### Input:").replace("Assistant:", "### Response:")
    return f"{HEAD}{shown}\n### Input: {question}\n### Response: {answer}\n\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(layout.prompt("d", "student"), "{{ document.text }}\n\n{{ document.metadata.question }}\n")
    (tmp_path / "rows").mkdir()
    return tmp_path / "rows"


def table(path: Path, rows: list[tuple]) -> None:
    """Rows of (page, number, text, paper) with what the original made of them."""
    with open(path, "w", newline="") as stream:
        stream.write(f"{COLUMNS}\n")
        csv.writer(stream).writerows((*row, whole(row[2]), "", "") for row in rows)


def papers(count: int = 10, each: int = 3) -> list[tuple]:
    return [
        (n + 1, 1, f"Paragraph {n} of paper {p}.", f"paper {p}") for p in range(count) for n in range(each)
    ]


def run(*arguments: str):
    return invoke("instruct", ["d", "--path", "rows", *arguments])


def litgpt() -> dict[str, list[dict]]:
    verify_manifest(layout.litgpt_data("d"))
    return {split: read_json(layout.litgpt_data("d") / f"{split}.json") for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    "text",
    [
        "A plain paragraph.",
        "A talk. Human: hello\nAssistant: yes? Human: no",
        "It shows\n### Input: a prompt\n### Response: and its answer",
        "Text: and ### Instruction: amid a line",
    ],
)
def test_a_paragraph_may_hold_markers(text):
    row = parsed("p#1.1", whole(text, "Is it?", "Yes."), "p", text)
    assert row is not None and row[1:] == (text, "Is it?", "Yes.", "p")
    if "Human" not in text:  # without the column the original's rewriting cannot be told
        alone = parsed("p#1.1", whole(text, "Is it?", "Yes."))
        assert alone is not None and alone[1:] == (text, "Is it?", "Yes.", "")


def test_json_rows_get_their_papers_from_the_csv_and_are_no_second_ones(folder):
    rows = papers()
    table(folder / "a.csv", rows)
    write_text(folder / "b.json", "".join(json.dumps({"text": whole(row[2])}) + "\n" for row in rows[:9]))
    write_text(folder / "bench.csv", "page;question;answer\n1;Why?;So.\n")
    assert run().exit_code == 0
    figures = read_json(layout.figures("d") / "convert.json")
    assert figures["rows"] == {"a.csv": 30, "b.json": 9}
    assert (figures["repeated"], figures["papers"]) == (9, 10)
    split_of = {name: {row["id"].split("#")[0] for row in own} for name, own in litgpt().items()}
    assert {name: len(own) for name, own in split_of.items()} == {"train": 7, "val": 1, "test": 2}
    assert not split_of["train"] & split_of["test"] and not split_of["train"] & split_of["val"]
    assert litgpt()["test"][0]["output"] == "It is."
    assert litgpt()["test"][0]["instruction"].endswith(".\n\nWhat is it?")


def test_a_text_that_semicolons_broke_is_mended(folder):
    rows = [*papers(), (9, 9, "One; two; three.", "paper 3")]
    table(folder / "a.csv", rows[:-1])
    page, number, text, paper = rows[-1]
    with open(folder / "a.csv", "a", newline="") as stream:
        csv.writer(stream).writerow((page, number, *text.split(";"), paper, whole(text)))
    assert run().exit_code == 0
    instruction = {row["id"]: row["instruction"] for own in litgpt().values() for row in own}["paper 3#9.9"]
    assert instruction.startswith("One; two; three.")


def test_alpaca_rows_without_input_are_rejects_and_a_fifth_of_the_others_is_held_out(folder):
    rows = [
        {"instruction": f"Do {n}.", "input": f"Text {n}." * (n % 4 > 0), "output": f"Done {n}."}
        for n in range(40)
    ]
    write_text(folder / "alpaca.json", json.dumps(rows))
    assert run("--shortest", "0.5").exit_code == 0
    figures = read_json(layout.figures("d") / "convert.json")
    assert figures["rejected"] == {
        "a text of the shortest": 7,
        "no input": 10,
    }
    assert figures["accepted"] == {"train": 17, "val": 2, "test": 4}
    rejects = read_jsonl(layout.litgpt_data("d") / "rejects.jsonl")
    assert Counter(row["reason"] for row in rejects) == figures["rejected"]


def test_limit_takes_the_same_rows_first(folder):
    table(folder / "a.csv", papers())
    assert run("--limit", "5").exit_code == 0
    few = litgpt()
    assert run("--limit", "8").exit_code == 0
    more = litgpt()
    assert len(few["train"]) == 5 and len(more["train"]) == 8 and few["test"] == more["test"]
    assert {row["id"] for row in few["train"]} < {row["id"] for row in more["train"]}


def test_few_rows_that_say_nothing_are_trained_on_and_all_are_held_out(folder):
    rows = [
        {
            "instruction": f"What is {n}?",
            "input": f"Text {n}.",
            "output": "The text does not mention it." if n % 2 else "It.",
        }
        for n in range(100)
    ]
    write_text(folder / "alpaca.json", json.dumps(rows))
    assert run("--unanswerable", "0.2").exit_code == 0
    said = {split: Counter(row["output"] for row in own) for split, own in litgpt().items()}
    assert said["train"][NOT_SAID] == round(said["train"]["It."] / 4)
    assert said["test"].total() == 20 and said["test"][NOT_SAID] > 4


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("", "", "rows: no rows to train with"),
        ("bench.csv", "question;answer\nWhy?;So.\n", "a CSV with a column 'question' is a benchmark"),
        ("a.csv", "page,text\n1,x\n", "a.csv: no column 'para_num'"),
        ("a.csv", f"{COLUMNS}\n1,1,A text.,p,Nothing of it,,\n", "a.csv, row 1: field 'text_synthetic'"),
        ("a.csv", f"{COLUMNS}\n1,1,A text.\n", "a.csv, row 1: fewer fields"),
        ("a.csv", f'{COLUMNS}\n1,1,"A text.\n', "a.csv, row 1: not valid CSV"),
        (
            "a.csv",
            f"{COLUMNS}\n" + '1,1,A.,p,"' + whole("A.") + '"\n1,1,B.,p,"' + whole("B.") + '"\n',
            "two rows are 'p#1.1'",
        ),
        ("a.json", '{"text": "Below is an instruction"}\n', "a.json, row 1: field 'text': expected 'Below"),
        ("a.json", json.dumps({"text": whole("A.").partition("### Resp")[0]}), "a.json, row 1: field 'text'"),
        (
            "a.json",
            '{"instruction": "Do.", "output": "Done."}',
            "field 'input': expected a text, found no such",
        ),
        (
            "a.json",
            '{"instruction": "Do.", "input": 1, "output": "Done."}',
            "'input': expected a text, found a whole number",
        ),
        (
            "a.json",
            '[{"instruction": "Do.", "input": "", "output": "Done."}]',
            "no row is left to train with, of 1",
        ),
        ("a.json", "[1]", "a.json, row 1: expected an object"),
        ("a.json", "{", "a.json, row 1: not valid JSON"),
    ],
)
def test_a_bad_file_is_one_line(folder, name, text, told):
    if name:
        write_text(folder / name, text)
    result = run()
    assert result.exit_code == 2 and told in result.output
    assert result.output.count("\n") == 1 and "Traceback" not in result.output


def test_no_such_folder_is_one_line(folder):
    result = invoke("instruct", ["d", "--path", "nowhere"])
    assert (result.exit_code, "nowhere: no such file or folder" in result.output) == (2, True)


@pytest.mark.skipif(not SAI.is_dir(), reason="David & Goliath's data are not here")
def test_the_originals_files_as_they_are(folder):
    assert invoke("instruct", ["d", "--path", str(SAI), "--unanswerable", "0.99"]).exit_code == 0
    figures = read_json(layout.figures("d") / "convert.json")
    assert figures["rows"] == {
        "SAI_dataset_0312.csv": 1332,
        "dataset_test.json": 267,
        "dataset_train.json": 1065,
    }
    # 23 names stand in the column, three of which are pieces of texts; one row is there twice.
    assert (figures["papers"], sum(figures["accepted"].values()), figures["rejected"]) == (20, 1331, {})
    assert figures["repeated"] == 1332 + 1


@pytest.mark.skipif(not ALPACA.is_file(), reason="Alpaca's rows are not here")
def test_alpaca_as_it_is(folder):
    assert invoke("instruct", ["d", "--path", str(ALPACA)]).exit_code == 0
    assert read_json(layout.figures("d") / "convert.json")["accepted"]["test"] == 4135
