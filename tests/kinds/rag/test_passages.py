"""LocalRQA's files and a folder of one's own become passages and questions; wrong ones are refused."""

import json
import pickle
from pathlib import Path

import pytest

from stages.core.files import read_json, read_jsonl, verify_manifest
from stages.kinds.rag import places
from stages.kinds.rag.parts.rows import SPLITS, read_passages, read_questions
from tests.helpers.cli import invoke
from tests.helpers.tiny import WORDS, tokenizer_folder

FAIRE = Path(__file__).parents[4] / "shared/data/faire"
PEOPLE = "people.jsonl"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path(PEOPLE).touch()


def write(name: str, rows: list[dict]) -> None:
    Path("in", name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*more: str):
    given = ["--path", "in", "--tokenizer", tokenizer_folder(), "--eval_rows", PEOPLE, "--chunk", "99"]
    return invoke("passages", ["d", *given, "--overlap", "5", *more])


def text(number: int) -> str:
    """Words that no other number has beside each other."""
    words = WORDS.split()
    return " ".join(words[number * 5 : number * 5 + 20]) + f" number{number}"


def piece(number: int, **more) -> dict:
    metadata = {"source": f"page-{number}", "title": f"Page {number}", "seq_num": number}
    return {"page_content": text(number), "fmt_content": "", "metadata": metadata, **more}


def pair(number: int, **more) -> dict:
    row = {"gold_docs": [piece(number)], "hard_neg_docs": [piece(number + 5)], "chat_history": []}
    return {**row, "question": f"what is {number}", "gold_answer": f"it is {number}", **more}


def local_rqa(train: list[dict] | None = None, documents: bool = True) -> None:
    """Three rows of train, two of eval and two of test; documents that hold their passages and one more."""
    write("train_w_qa.jsonl", [pair(0), pair(1), pair(2)] if train is None else train)
    write("eval_w_qa.jsonl", [pair(3), pair(4)])
    write("test_w_qa.jsonl", [pair(5), pair(6)])
    more = {
        "source": "more",
        "title": "More",
        "text": " ".join(f"article {n} of its own." for n in range(60)),
    }
    pages = [
        {"source": f"page-{n}", "title": f"Page {n}", "text": f"before\n{text(n)}  \n after"}
        for n in range(12)
    ]
    pages[0]["text"] += " ".join(f"and much more {n}." for n in range(60))
    if documents:
        write("docs.jsonl", [*pages, more, {"source": "none", "title": "", "text": "\n"}])


def own(questions: list[dict] | None = None) -> None:
    rows = [
        {"question": f"what is {n}", "answer": f"number{n} of all", "document_id": f"p{n}"} for n in range(20)
    ]
    write("documents.jsonl", [{"id": f"p{n}", "title": f"P {n}", "text": text(n)} for n in range(20)])
    write("questions.jsonl", rows if questions is None else questions)


def test_local_rqa_is_read_as_it_is():
    local_rqa()
    result = run()
    assert result.exit_code == 0, result.output
    verify_manifest(places.passages("d"))
    passages = read_passages("d")
    questions = {split: read_questions("d", split) for split in SPLITS}
    assert {split: len(rows) for split, rows in questions.items()} == {
        "train": 3,
        "val": 2,
        "test": 2,
        "people": 0,
    }
    first = questions["train"][0]
    assert (first["question"], first["answer"], first["source"]) == ("what is 0", "it is 0", "page-0")
    gold, hard = passages[first["gold"][0]], passages[first["hard"][0]]
    assert (gold["title"], gold["text"], hard["text"]) == ("Page 0", text(0), text(5))
    assert (gold["start"], gold["end"]) == (7, 7 + len(text(0)))  # in its document
    # Passages of the pairs once each, then pieces of what shares nothing with them.
    pairs = [f"page-{n}#0" for n in (3, 8, 4, 9, 5, 10, 6, 11, 0, 1, 2, 7)]
    assert list(passages)[: len(pairs)] == pairs
    rest = [passage for name, passage in passages.items() if name not in pairs]
    assert {passage["source"] for passage in rest} == {"page-0", "more"}
    assert "and much more 59." in "".join(one["text"] for one in rest)
    assert not any("number0" in passage["text"] for passage in rest)


def test_without_documents_the_corpus_is_that_of_the_pairs():
    local_rqa(documents=False)
    assert run().exit_code == 0
    assert len(read_passages("d")) == 12


def test_names_of_files_need_say_no_more_than_the_split():
    local_rqa(documents=False)
    for split in ("train", "eval", "test"):
        Path(f"in/{split}_w_qa.jsonl").rename(f"in/shop-{split}.jsonl")
    assert run().exit_code == 0
    assert [len(read_questions("d", split)) for split in SPLITS] == [3, 2, 2, 0]


def test_questions_without_answers_bring_passages_alone():
    local_rqa(documents=False)
    row = {"gold_docs": [piece(15)], "hard_neg_docs": [], "chat_history": [], "questions": ["one", "two"]}
    write("train_w_q.jsonl", [row])
    assert run().exit_code == 0
    assert "page-15#0" in read_passages("d")
    assert len(read_questions("d", "train")) == 3


def test_what_is_held_out_is_not_trained_on():
    nearly = piece(3, page_content=text(3).upper(), metadata={"source": "other", "title": ""})
    leaks = [pair(7, gold_docs=[nearly]), pair(8, question="What is 5?!")]
    local_rqa([pair(0), *leaks, pair(9, question=" ")], documents=False)
    assert run().exit_code == 0
    assert [row["question"] for row in read_questions("d", "train")] == ["what is 0"]
    figures = read_json(Path("reports/d/figures/passages.json"))
    assert (figures["leaks"], figures["without_question"]) == (2, 1)


def test_history_is_kept_with_its_speakers():
    said = [
        {"speaker": "human", "message": "hi", "source_documents": []},
        {"speaker": "Bot", "message": "hello"},
    ]
    local_rqa([pair(0, chat_history=said), pair(1)])
    assert run().exit_code == 0
    rows = read_questions("d", "train")
    assert rows[0]["history"] == [
        {"speaker": "user", "message": "hi"},
        {"speaker": "assistant", "message": "hello"},
    ]
    assert "history" not in rows[1]


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.csv", "questions.tsv", "questions.parquet"])
def test_a_folder_of_ones_own_is_split_by_document(name):
    own()
    rows = read_jsonl(Path("in/questions.jsonl"))
    Path("in/questions.jsonl").unlink()
    import pandas

    table = pandas.DataFrame(rows)
    if name.endswith("parquet"):
        table.to_parquet(f"in/{name}")
    elif name.endswith("jsonl"):
        table.to_json(f"in/{name}", orient="records", lines=True)
    else:
        table.to_csv(f"in/{name}", sep="\t" if name.endswith("tsv") else ",", index=False)
    result = run()
    assert result.exit_code == 0, result.output
    questions = {split: read_questions("d", split) for split in ("train", "val", "test")}
    assert all(questions.values())
    assert sorted(row["source"] for own in questions.values() for row in own) == sorted(
        f"p{n}" for n in range(20)
    )
    passages = read_passages("d")
    for row in questions["train"]:
        assert row["source"].replace("p", "number") in passages[row["gold"][0]]["text"]


def test_gold_may_be_a_text_of_a_document_and_files_may_name_splits():
    own([{"question": "what is 3", "answer": "three", "gold": f"  {text(3)[-25:]} "}])
    for n, split in enumerate(("val", "test")):
        write(f"questions_{split}.jsonl", [{"question": f"q {n}", "answer": "a", "document_id": f"p{n}"}])
    assert run().exit_code == 0
    assert [row["gold"] for row in read_questions("d", "train")] == [["p3#0"]]
    assert [row["source"] for row in read_questions("d", "test")] == ["p1"]


def test_peoples_questions_are_for_measuring():
    own()
    row = {"question": "tell me about two", "answer": "number2", "document_id": "p2"}
    Path(PEOPLE).write_text(json.dumps(row))
    assert run().exit_code == 0
    asked = read_questions("d", "people")
    assert [(one["question"], one["gold"], one["source"]) for one in asked] == [
        ("tell me about two", ["p2#0"], "p2")
    ]


def broken(kind: str) -> None:  # one case a line
    local_rqa()
    match kind:
        case "no gold":
            local_rqa([pair(0, gold_docs=[piece(0, page_content="not there")])])
        case "other source":
            local_rqa([pair(0, gold_docs=[piece(1) | {"metadata": {"source": "page-0"}}])])
        case "gold without text":
            local_rqa([pair(0, gold_docs=[piece(0, page_content=" ")])])
        case "no gold_docs":
            local_rqa([pair(0, gold_docs=[])])
        case "speaker":
            local_rqa([pair(0, chat_history=[{"speaker": "narrator", "message": "x"}])])
        case "field":
            local_rqa([{key: value for key, value in pair(0).items() if key != "gold_answer"}])
        case "answer":
            local_rqa([pair(0, gold_answer=" ")])
        case "no row":
            write("test_w_qa.jsonl", [])
        case "all leak":
            local_rqa([pair(3)])
        case "pickle":
            Path("in/docs.jsonl").unlink()
            Path("in/document.pkl").write_bytes(pickle.dumps([]))
        case "pickled docs":
            Path("in/docs.jsonl").rename("in/docs.pkl")
        case "no document text":
            write("docs.jsonl", [{"source": "a", "title": "A"}])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            "no gold",
            "in/train_w_qa.jsonl, row 1: field 'gold_docs': the passage 'not there' is in no",
        ),
        ("other source", "is in no document of source 'page-0'"),
        ("gold without text", "row 1: a passage of source 'page-0' has no text"),
        ("no gold_docs", "row 1: gold_docs: List should have at least 1 item"),
        ("speaker", "row 1: chat_history.0.speaker: Input should be 'user' or 'assistant', found 'narrator'"),
        ("field", "row 1: field 'gold_answer' is missing"),
        ("answer", "row 1: gold_answer: String should have at least 1 character"),
        ("no row", "no question is left for test"),
        ("all leak", "no question is left for train"),
        ("pickle", "in/document.pkl: pickles are refused"),
        ("pickled docs", "in/docs.pkl: pickles are refused"),
        ("no document text", "in/docs.jsonl, row 1: text: Field required"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(kind, told):
    broken(kind)
    result = run()
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert not places.passages("d").exists()


@pytest.mark.parametrize(
    ("questions", "people", "told"),
    [
        (
            [{"question": "q", "answer": "a", "document_id": "zz"}],
            None,
            "field 'document_id': 'zz' is in no",
        ),
        (
            [{"question": "q", "answer": "a", "gold": "zz"}],
            None,
            "field 'gold': the text 'zz' is in no",
        ),
        ([{"question": "q", "answer": "a"}], None, "row 1: field 'document_id': '' is in no document"),
        ([{"question": "q", "document_id": "p1"}], None, "row 1: answer: Field required"),
        (
            None,
            {"question": "q", "answer": "a", "document_id": "zz"},
            "there is no document 'zz'",
        ),
        (None, {"question": "q", "answer": "a"}, "people.jsonl, row 1: document_id: Field required"),
        (None, {"question": "What is 1?", "answer": "a", "document_id": "p1"}, "stands in training, too"),
    ],
)
def test_questions_of_ones_own_that_are_wrong(questions, people, told):
    own(questions)
    if people:
        Path(PEOPLE).write_text(json.dumps(people))
    result = run()
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_files_says_which_are_missing():
    assert "in: no file docs.* documents.*" in run().stderr
    own()
    Path("in/questions.jsonl").unlink()
    assert "in: no file questions.*" in run().stderr
    assert "nowhere: no such folder" in run("--path", "nowhere").stderr


@pytest.mark.skipif(not FAIRE.is_dir(), reason="without the data of LocalRQA")
def test_faire():
    result = run("--path", str(FAIRE), "--chunk", "400", "--overlap", "50")
    assert result.exit_code == 0, result.output
    figures = read_json(Path("reports/d/figures/passages.json"))
    assert (figures["train"], figures["val"], figures["test"]) == (556, 73, 75)
