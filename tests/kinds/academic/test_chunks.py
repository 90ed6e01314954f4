"""Papers become chunks that never cross a page, and a file of questions a benchmark of them."""

import json
from pathlib import Path

import pytest

from stages.core.files import read_json, read_jsonl, verify_manifest
from stages.sources import papers as papers_of_pdfs
from tests.helpers.cli import invoke
from tests.helpers.drawn_pdf import LEFT, draw, lines, paper, paragraph, read_here
from tests.helpers.tiny import tiny_tokenizer, tokenizer_folder

SAI = Path(__file__).parents[4] / "shared/data/sai"
CSV = ";page;pdf_name;question;answer;gpt_response\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papers_of_pdfs, "in_processes", read_here)
    Path("in").mkdir()
    draw("in/one.pdf", [lines(paragraph(n, 200), LEFT, 100, 90) for n in (1, 2)])


def run(questions: str, name: str = "q.csv", *more: str):
    Path(name).write_text(questions)
    given = ["--path", "in", "--questions", name, "--tokenizer", tokenizer_folder()]
    return invoke("chunks", ["d", *given, "--chunk", "200", "--overlap", "40", *more])


def read(name: str) -> list[dict]:
    verify_manifest(Path("data/d/chunks"))
    return read_jsonl(Path("data/d/chunks", f"{name}.jsonl"))


def test_chunks_stay_within_a_page_and_overlap():
    paper("in/two.pdf", [5], title="Another Paper")
    assert run("question,answer\nWhat?,That.\n").exit_code == 0
    chunks = read("chunks")
    tokenizer = tiny_tokenizer()
    tokens = {one["id"]: len(tokenizer.encode(one["text"], add_special_tokens=False)) for one in chunks}
    assert max(tokens.values()) <= 200
    own = [one["id"] for one in chunks if one["source"] == "one"]
    assert own == [f"one#{n}" for n in range(len(own))]
    for one in chunks:
        assert not ("topic1" in one["text"] and "topic2" in one["text"])
    assert chunks[1]["start"] < chunks[0]["end"]
    assert {one["title"] for one in chunks} == {"one", "Another Paper"}
    figures = read_json(Path("reports/d/figures/chunks.json"))
    histogram = figures["histogram"]
    assert (len(histogram["edges"]), sum(histogram["chunks"])) == (11, len(chunks))
    assert [sum(column) for column in zip(*histogram["papers"].values(), strict=True)] == histogram["chunks"]
    assert figures["tokens"] == sum(tokens.values())


@pytest.mark.parametrize("separator", ";,\t|")
def test_the_table_of_the_original(separator):
    question = '"What is\n""it""\' and why?"'.replace("'", separator)  # what parts columns is quoted
    table = CSV + f"0;1;A Paper;{question};That;It is that.\n1;2;;Who?;The text does not say.;Nobody.\n"
    table = table.replace(";", separator)
    assert run(table).exit_code == 0
    first, second = read("questions")
    assert first == {
        "id": "question-1",
        "question": f'What is\n"it"{separator} and why?',
        "answer": "That",
        "source": "one",
        "answerable": True,
        "context": "",
        "extra": {"page": "1", "pdf_name": "A Paper", "gpt_response": "It is that."},
    }
    assert (second["answerable"], second["source"]) == (False, "one")


def test_rows_that_name_paragraphs_are_answered_there():
    rows = [
        {"question": "Who?", "answer": "They.", "paras": [3, 4]},
        {"question": "When?", "answer": "The text does not say.", "paras": []},
        {"question": "Where?", "answer": "There."},
    ]
    assert run("".join(json.dumps(row) + "\n" for row in rows), "q.jsonl").exit_code == 0
    assert [row["answerable"] for row in read("questions")] == [True, False, True]
    assert read("questions")[0]["extra"] == {"paras": "[3,4]"}


def test_a_question_knows_its_paper_by_name_or_title():
    paper("in/two.pdf", [5], title="Another Paper, Drawn")
    run("question,answer,pdf_name\nA?,a,one.pdf\nB?,b,another paper drawn\nC?,c,\nD?,d,two\n")
    assert [row["source"] for row in read("questions")] == ["one", "two", "", "two"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("question,answer\n", "q.csv: no question; expected rows with the columns question and answer"),
        (
            "question:answer\nWho?:They\n",
            "q.csv, row 1: question: Field required (the row has question:answer)",
        ),
        (";question\n0;Who?\n", "q.csv, row 1: answer: Field required (the row has question)"),
        (
            "question,answer\nWho?,\n",
            "q.csv, row 1: answer: String should have at least 1 character, found ''",
        ),
        ("question,answer\n ,They\n", "q.csv, row 1: question: String should have at least 1 character"),
        ("question,answer\nWho?,a\nWhat?,b\nwho,c\n", "q.csv, row 3: asks what q.csv, row 1 asks, 'who'"),
        ('question,answer\n"Who?,a\n', "q.csv, row 1: not valid CSV"),
        ("question,answer\nWho?,a,b\n", "q.csv, row 1: more fields than the header, 3 for 2"),
        (
            "question,answer,paper\nWho?,a,three.pdf\n",
            "q.csv, row 1: is about 'three.pdf', which is none of one.pdf, two.pdf",
        ),
        ("", "q.csv: no question"),
    ],
)
def test_wrong_files_of_questions(table, message):
    paper("in/two.pdf", [5])
    result = run(table)
    assert (result.exit_code, result.stderr.count("error: ")) == (2, 1)
    assert message in result.stderr


def test_a_file_of_questions_that_is_not_there():
    given = ["--path", "in", "--questions", "none.csv", "--tokenizer", tokenizer_folder()]
    result = invoke("chunks", ["d", *given])
    assert result.exit_code == 2
    assert "none.csv: no such file; set `questions`" in result.stderr


@pytest.mark.skipif(not SAI.is_dir(), reason="the original's files are not part of the repository")
def test_the_benchmark_of_the_original():
    given = ["--questions", f"{SAI}/single_paper_data.csv", "--tokenizer", tokenizer_folder()]
    assert invoke("chunks", ["d", "--path", f"{SAI}/single_paper.pdf", *given]).exit_code == 0
    questions = read("questions")
    assert len(questions) == 11
    assert all(row["extra"]["gpt_response"] for row in questions)
    assert {row["source"] for row in questions} == {"single_paper"}
