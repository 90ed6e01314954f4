"""Papers become a corpus: split by paper, short paragraphs left out, and another paper moves nothing."""

from pathlib import Path

import pytest

from stages.core.files import read_json, read_jsonl, verify_manifest
from stages.sources import papers as papers_of_pdfs
from tests.helpers.cli import invoke
from tests.helpers.drawn_pdf import LEFT, draw, lines, paper, paragraph, read_here

SHIPPED = Path(__file__).parents[3] / "prompts/papers/articles"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papers_of_pdfs, "in_processes", read_here)
    Path("in").mkdir()


def run(*more: str):
    return invoke("corpus_papers", ["d", "--path", "in", *more])


def documents() -> list[dict]:
    verify_manifest(Path("data/d/corpus"))
    return read_jsonl(Path("data/d/corpus/documents.jsonl"))


def figures() -> dict:
    return read_json(Path("reports/d/figures/corpus.json"))


def papers(*numbers: int) -> None:
    for number in numbers:
        own = range(10 * number, 10 * number + 4)
        paper(f"in/paper {number}.pdf", list(own), title=f"The Paper of Number {number}")


def test_whole_papers_are_held_out():
    papers(1, 2, 3)
    assert run("--test", "paper 3", "--val", "paper 2.*", "--shortest", "0").exit_code == 0
    rows = documents()
    assert [row["id"] for row in rows] == [f"paper {n}#1.{k}" for n in (1, 2, 3) for k in (1, 2, 3, 4)]
    assert {row["id"][:7]: row["split"] for row in rows} == {
        "paper 1": "train",
        "paper 2": "val",
        "paper 3": "test",
    }
    assert rows[0] == {
        "id": "paper 1#1.1",
        "title": "The Paper of Number 1",
        "text": paragraph(10),
        "metadata": {"pdf": "paper 1.pdf", "page": 1, "para_num": 1},
        "split": "train",
    }
    assert figures()["papers_of_split"] == {"test": 1, "train": 1, "val": 1}


def test_splits_are_drawn_by_hash_of_the_paper():
    papers(*range(1, 8))
    assert run().exit_code == 0
    split_of = {}
    for row in documents():
        assert split_of.setdefault(row["metadata"]["pdf"], row["split"]) == row["split"]
    assert set(split_of.values()) == {"train", "val", "test"}


def test_another_paper_changes_nothing_of_the_others():
    papers(1, 2, 3)
    arguments = ("--test", "paper 3", "--val", "paper 2")
    run(*arguments)
    before = documents()
    draw("in/a new one.pdf", [lines(paragraph(77, words), LEFT, 100) for words in (200, 10, 30)])
    run(*arguments)
    assert [row for row in documents() if not row["id"].startswith("a new one")] == before


def test_the_shortest_are_left_out_strictly():
    texts = [paragraph(number, words) for number, words in enumerate((30, 30, 60, 90, 120), start=11)]
    places = [line for n, text in enumerate(texts) for line in lines(text, LEFT, 60 + 130 * n, width=90)]
    draw("in/one.pdf", [places])
    run("--test_share", "0", "--shortest", "0.25")  # the quantile is the length of the second: it stays
    assert [row["text"] for row in documents()] == texts
    run("--test_share", "0", "--shortest", "0.5")
    assert [row["text"] for row in documents()] == texts[2:]
    assert figures()["left_out"]["shortest"] == 2


def test_pages_are_documents_where_a_teacher_splits_them():
    draw("in/one.pdf", [lines(paragraph(n), LEFT, 100, indent=12) for n in (1, 2)])
    run("--unit", "pages", "--test_share", "0")
    assert [(row["id"], row["text"], row["metadata"]) for row in documents()] == [
        (
            f"one#{n}",
            paragraph(n),
            {"pdf": "one.pdf", "page": n, "words": len(paragraph(n).split()), "warnings": []},
        )
        for n in (1, 2)
    ]


def test_papers_of_one_text_share_a_split_and_a_paragraph_stands_once():
    papers(1, 2)
    paper("in/preprint.pdf", [10, 11, 12, 13], title="Submitted")
    paper("in/shares one.pdf", [20, 91, 92, 93])
    result = run("--val", "paper 1", "--test", "shares one", "--shortest", "0")
    assert "preprint and paper 1 hold nearly one text" in result.stderr
    rows = documents()
    assert {row["split"] for row in rows if row["id"].startswith(("preprint", "paper 1"))} == {"val"}
    assert sum(row["text"] == paragraph(20) for row in rows) == 1
    assert next(row["id"] for row in rows if row["text"] == paragraph(20)) == "shares one#1.1"
    assert figures()["left_out"]["repeated"] == 5
    result = run("--val", "paper 1", "--test", "preprint")
    assert result.exit_code == 2
    assert "test: preprint.pdf, or a paper of nearly its text, is named in val, too" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--test", "unknown*"],
            "test: 'unknown*' is no paper's name; expected some of paper 1.pdf, paper 2.pdf",
        ),
        (["--val", "*"], "nothing is left for train, with 8 paragraphs of 2 papers"),
        (["--path", "in/paper 1.pdf"], "nothing is left for test, with 4 paragraphs of 1 papers"),
        (["--shortest", "1"], "shortest: Input should be less than 1"),
    ],
)
def test_what_cannot_be_split(arguments, message):
    papers(1, 2)
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("error: ")) == (2, 1)
    assert message in result.stderr


def test_the_articles_that_ship(tmp_path):
    result = invoke(
        "corpus_papers", ["d", "--path", str(SHIPPED), "--test", "07-*", "--val", "06-*", "--shortest", "0"]
    )
    assert result.exit_code == 0
    # Of the 134 paragraphs of their sources two become one: they meet where a column ends, without a sign.
    assert figures()["documents"] == 133
    assert figures()["papers_of_split"] == {"test": 1, "train": 5, "val": 1}
    held_out = [row["text"] for row in documents() if row["split"] == "test"]
    assert held_out[3].endswith("just one correct hit.")
    assert all(text[-1] in ".:" for text in held_out)
