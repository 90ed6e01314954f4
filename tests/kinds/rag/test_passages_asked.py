"""Documents that nobody has asked about: a teacher's questions and answers become rows."""

from pathlib import Path

import pytest

from stages.core import layout
from stages.core.files import atomic_directory, write_jsonl
from stages.kinds.rag.parts.rows import read_passages, read_questions
from tests.helpers.cli import invoke
from tests.helpers.tiny import tokenizer_folder

SPLITS = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test"}


def document(name, text, split, **metadata):
    return {"id": name, "title": name, "text": text, "metadata": metadata, "split": split}


def answer(name, text, **fields):
    return {"id": name, "document_id": name, "accepted": True, "outcome": "ok", "response": text} | fields


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {name: f"The {name} harbour opens at {n} in the morning." for n, name in enumerate(SPLITS, 5)}
    with atomic_directory(layout.corpus("docs"), "corpus", {}) as folder:
        write_jsonl(folder / "documents.jsonl", [document(n, t, SPLITS[n]) for n, t in texts.items()])
    asked = [
        document(f"{n}#q1", t, SPLITS[n], document_id=n, question=f"When does the {n} harbour open?")
        for n, t in texts.items()
    ]
    asked += [
        document("a#q2", texts["a"], "train", document_id="a", question="when does the d harbour open"),
        document("b#q2", texts["b"], "train", document_id="b", question="Who owns it?"),
        document("b#q3", texts["b"], "train", document_id="b", question="Is it open at night?"),
        document("a#x", texts["a"], "train", document_id="a", question="Why?", answerable=False),
    ]
    with atomic_directory(layout.corpus("asked"), "corpus_asked", {}) as folder:
        write_jsonl(folder / "documents.jsonl", asked)
    said = [answer(f"{n}#q1", f"It opens at {number}.") for number, n in enumerate(SPLITS, 5)]
    said += [
        answer("a#q2", "It opens at five."),
        answer("b#q2", "The text does not say."),
        answer("b#q3", None, accepted=False, outcome="refusal"),
        answer("a#x", "It opens."),
    ]
    layout.responses("asked").parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(layout.responses("asked"), said)
    Path("people.jsonl").write_text('{"question": "opening hours", "answer": "at 9", "document_id": "e"}\n')


def run(asked="asked"):
    given = ["--of", "docs", "--asked", asked, "--tokenizer", tokenizer_folder()]
    return invoke("passages_asked", ["d", *given, "--eval_rows", "people.jsonl"])


def test_a_teachers_answers_are_rows_in_the_split_of_their_document(made):
    result = run()
    assert result.exit_code == 0, result.output
    assert len(read_passages("d")) == 5
    train = read_questions("d", "train")
    assert [row["id"] for row in train] == ["a#q1", "b#q1"]  # a#q2 asks what is held out
    assert train[0] == {
        "id": "a#q1",
        "question": "When does the a harbour open?",
        "answer": "It opens at 5.",
        "gold": ["a#0"],
        "source": "a",
    }
    assert [len(read_questions("d", split)) for split in ("val", "test", "people")] == [1, 2, 1]
    assert "1 not_said" in result.output and "2 not_answered" in result.output
    assert "1 repeated" in result.output


def test_what_is_no_answer_to_a_question_is_told(made):
    write_jsonl(layout.responses("asked"), [answer("zz#q1", "It is.")])
    result = run()
    assert result.exit_code == 2 and "'zz#q1' is no document with a question" in result.output
    with atomic_directory(layout.corpus("asked"), "corpus_asked", {}) as folder:
        rows = [document("z#q1", "text", "train", document_id="z", question="What is it?")]
        write_jsonl(folder / "documents.jsonl", rows)
    write_jsonl(layout.responses("asked"), [answer("z#q1", "It is.")])
    result = run()
    assert result.exit_code == 2 and "no document of data/docs/corpus" in result.output
