"""Questions that follow from docstrings: what is asked of a page, its words as answers, splits, leaks."""

import json
from pathlib import Path

import pytest

from stages.core import layout
from stages.core.files import atomic_directory, write_jsonl
from stages.kinds.rag.parts.docstrings import Names, asked_of, question_of, sections, sentences, third_person
from stages.kinds.rag.parts.rows import read_passages, read_questions
from tests.helpers.cli import invoke
from tests.helpers.tiny import tokenizer_folder

PAGE = """Return the bins of a histogram of all values that are finite.

If density is set, the bins are scaled to an area of one. See the notes.

Parameters

values : array_like
Values to count, flattened where they have more than one dimension.
bins, width : int, optional
How many bins there are, or how wide each of them shall be. Default is 10.
side : {'left', 'right'}, default: 'left'
Which edge of a bin belongs to it and not to the bin next to it.

Returns

counts : ndarray
The number of values in each of the bins, as weighted as they are.

Raises

ValueError
If there is no finite value in what is given.
scipy.linalg.LinAlgError: When the matrix that is used is singular.

Notes

The algorithm sorts all values once and then counts them by bisection. It is described in."""


def page(name: str = "numpy.lib.histogram", text: str = PAGE, split: str = "train", kind: str = "function"):
    return {"id": name, "title": name, "text": text, "metadata": {"kind": kind}, "split": split}


def test_what_can_be_asked_about_a_page():
    asked = {(one.sort, one.entry): one.answer for one in asked_of(page())}
    assert asked == {
        ("summary", ""): "It returns the bins of a histogram of all values that are finite.",
        ("which", "returns the bins of a histogram of all values that are finite"): (
            "numpy.lib.histogram returns the bins of a histogram of all values that are finite."
        ),
        ("parameter", "values"): "Values to count, flattened where they have more than one dimension.",
        ("parameter", "bins, width"): (
            "How many bins there are, or how wide each of them shall be. Default is 10."
        ),
        ("parameter", "side"): "Which edge of a bin belongs to it and not to the bin next to it.",
        ("default", "side"): (
            "The default of side is 'left'. Which edge of a bin belongs to it and not to the bin next to it."
        ),
        ("both", "side"): (
            "Which edge of a bin belongs to it and not to the bin next to it. The default is 'left'."
        ),
        ("takes", ""): "It takes values, bins, width and side.",
        ("returns", ""): "The number of values in each of the bins, as weighted as they are.",
        ("raises", "ValueError"): "ValueError is raised if there is no finite value in what is given.",
        ("raises", "scipy.linalg.LinAlgError"): (
            "scipy.linalg.LinAlgError is raised when the matrix that is used is singular."
        ),
        ("condition", "density is set"): "If density is set, the bins are scaled to an area of one.",
        ("how", ""): "The algorithm sorts all values once and then counts them by bisection.",
    }


def test_sections_of_a_page():
    found = sections(PAGE)
    assert list(found) == ["", "Parameters", "Returns", "Raises", "Notes"]
    assert sections("Parameters\n\nx : int\nA number.") == {"": "", "Parameters": "x : int\nA number."}


@pytest.mark.parametrize(
    ("summary", "does"),
    [
        ("Return the sum.", "returns the sum."),
        ("Computes it.", "computes it."),
        ("Apply f.", "applies f."),
        ("Display it.", "displays it."),
        ("Match it.", "matches it."),
        ("A class.", ""),
        ("Axis of it.", ""),
    ],
)
def test_what_a_function_does(summary, does):
    assert third_person(summary) == does


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("One  sentence\nin two lines , e.g. this . And", "One sentence in two lines, e.g. this. And."),
        ("First.\n\nSecond", "First. Second."),
        ("These are:\n- one\n- two", "These are."),
        ("word " * 70, ""),
        ("", ""),
    ],
)
def test_the_first_sentences(text, told):
    assert sentences(text) == told


def test_a_page_has_one_question_that_stays():
    names = Names([page(), page("numpy.other.histogram"), page("numpy.special_name")])
    asked = question_of(page(), names)
    assert asked == question_of(page(), names)
    assert names.of(page("numpy.other.histogram"))[2:] == [
        "other.histogram in NumPy",
        "other.histogram of NumPy",
        "NumPy other.histogram",
    ]  # not by its own name, which another page has, too
    assert "NumPy's special_name" in names.of(page("numpy.special_name"))
    assert question_of(page(text="None."), names) is None


def test_half_of_the_pages_are_asked_two_things():
    pages = [page(f"numpy.one.function_{number}") for number in range(60)]
    names = Names(pages)
    asked = [question_of(one, names) for one in pages]
    twice = [one for one in asked if len(one.answers) == 2]
    assert 15 < len(twice) < 45 and all(one.answers[0] != one.answers[1] for one in twice)
    assert all(", and " in one.question and one.question.count("?") == 1 for one in twice)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """40 pages of train, 6 of val and of test; two of train say what a page of test says."""
    monkeypatch.chdir(tmp_path)
    splits = ["train"] * 40 + ["val"] * 6 + ["test"] * 6
    text = "Return the thing that number {} is called by, in every case."
    pages = [page(f"pkg.module{n}.name{n}", text.format(n), split) for n, split in enumerate(splits)]
    pages[0] |= {"text": pages[50]["text"]}
    pages[1] |= {"text": f" {pages[51]['text'].upper()}"}
    with atomic_directory(layout.corpus("of"), "corpus", {}) as folder:
        write_jsonl(folder / "documents.jsonl", pages)
    row = {"question": "who am I", "answer": "number 51", "document_id": "pkg.module51.name51"}
    Path("people.jsonl").write_text(json.dumps(row))


def run(*more: str):
    given = ["--of", "of", "--tokenizer", tokenizer_folder(), "--eval_rows", "people.jsonl"]
    return invoke("passages_embedded", ["d", *given, "--train", "30", "--val", "4", "--test", "6", *more])


def test_questions_have_the_split_of_their_page(made):
    result = run()
    assert result.exit_code == 0, result.output
    passages = read_passages("d")
    assert len(passages) == 52
    for split, count in (("train", 30), ("val", 4), ("test", 6)):
        rows = read_questions("d", split)
        assert len(rows) == count
        numbers = [int(row["source"].rpartition("name")[2]) for row in rows]
        assert all({"train": n < 40, "val": 40 <= n < 46, "test": n >= 46}[split] for n in numbers)
        for row in rows:
            assert passages[row["gold"][0]]["source"] == row["source"]
            assert f"number {numbers[rows.index(row)]}" in row["answer"] or split == "train"
    assert read_questions("d", "people")[0]["gold"] == ["pkg.module51.name51#0"]


def test_more_rows_change_none_and_what_is_held_out_is_not_asked_in_training(made):
    assert run().exit_code == 0
    few = read_questions("d", "train")
    assert run("--train", "1000").exit_code == 0
    all_rows = read_questions("d", "train")
    assert all_rows[:30] == few
    held_out = {row["answer"].lower() for row in read_questions("d", "test")}
    assert not held_out & {row["answer"].lower() for row in all_rows}


def test_peoples_question_about_no_page(made):
    Path("people.jsonl").write_text(json.dumps({"question": "q", "answer": "a", "document_id": "pkg"}))
    result = run()
    assert result.exit_code == 2
    assert "people.jsonl, row 1: field 'document_id': there is no document 'pkg'" in result.stderr
