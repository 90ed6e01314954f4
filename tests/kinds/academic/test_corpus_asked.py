"""From a teacher's paragraphs, or questions, to documents; and on to training rows."""

import pytest

from demo.teacher.queries import answer
from stages import collect, convert, prompt
from stages.core import layout
from stages.core.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl
from stages.evaluation.unanswered import NOT_SAID
from stages.kinds.academic import KIND, corpus_asked
from stages.kinds.academic.knobs import CorpusAskedKnobs
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.teacher.knobs import CollectKnobs
from tests.helpers.cli import invoke
from tests.helpers.teacher_server import Teacher
from tests.helpers.workspace import ROOT

TEXTS = {
    "a#1.1": "The labels are incomplete because nobody can read a million of them. The tail suffers most.",
    "a#1.2": "Propensities rise with the number of examples that a label has in the training set.",
    "b#1.1": "A reranker reads the query and the passage together, so it is slower than an index.",
    "b#2.1": "An inverted index makes lexical search fast on lists of any length.",
    "c#1.1": "Quantised weights need four bits each, whereas their scales need eight.",
}
SPLITS = {"a": "train", "b": "train", "c": "test"}


def documents(texts: dict[str, str]) -> list[dict]:
    return [
        {
            "id": name,
            "title": name[0],
            "text": text,
            "metadata": {"pdf": f"{name[0]}.pdf", "page": int(name[2]), "words": len(text.split())},
            "split": SPLITS[name[0]],
        }
        for name, text in texts.items()
    ]


def given(answers: dict[str, list[str]], texts: dict[str, str] = TEXTS) -> None:
    """The dataset `of`: documents, and what a teacher answered about each."""
    with atomic_directory(layout.corpus("of"), "corpus_papers") as directory:
        write_jsonl(directory / "documents.jsonl", documents(texts))
    rows = [
        {
            "id": f"{name}#{n}",
            "document_id": name,
            "accepted": bool(text),
            "outcome": "ok" if text else "blank",
            "response": text,
        }
        for name, own in sorted(answers.items())
        for n, text in enumerate(own)
    ]
    write_jsonl(layout.responses("of"), rows)


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(**knobs) -> tuple[list[dict], dict]:
    figures = corpus_asked.run("d", CorpusAskedKnobs(of="of", **knobs))
    return read_jsonl(layout.corpus("d") / "documents.jsonl"), figures


def test_each_question_is_a_document_with_its_text():
    given(
        {
            "a#1.1": [
                "Why are the labels incomplete?\nWhat suffers most?",
                "why are the labels incomplete?",
            ],
            "b#1.1": [""],
        }
    )
    rows, figures = made(unanswerable=0)
    assert [(row["id"], row["metadata"]["question"], row["split"]) for row in rows] == [
        ("a#1.1#q1", "Why are the labels incomplete?", "train"),
        ("a#1.1#q2", "What suffers most?", "train"),
    ]
    assert all(row["text"] == TEXTS["a#1.1"] and row["metadata"]["answerable"] for row in rows)
    assert (figures["responses"], figures["rejected"]) == (3, {"blank": 1})


def test_unanswerable_ones_are_put_to_the_likest_text_of_another_paper_and_to_none_held_out():
    given(
        {
            "a#1.1": ["Which lists can nobody read fast?"],
            "c#1.1": ["What do weights need as many of as labels?"],
        }
    )
    rows, figures = made(unanswerable=0.999)
    elsewhere = {row["id"]: row for row in rows if not row["metadata"]["answerable"]}
    assert set(elsewhere) == {"a#1.1#q1-elsewhere", "c#1.1#q1-elsewhere"} and figures["unanswerable"] == 2
    row = elsewhere["a#1.1#q1-elsewhere"]
    assert (row["text"], row["split"]) == (TEXTS["b#2.1"], "train")  # lists, fast; c is held out
    assert elsewhere["c#1.1#q1-elsewhere"]["split"] == "test"


def test_another_paper_adds_documents_and_changes_none():
    questions = {name: [f"What does the text of {name[0]} say there?"] for name in TEXTS}
    less = {name: text for name, text in TEXTS.items() if name[0] != "b"}
    given({name: questions[name] for name in less}, less)
    before, _ = made(unanswerable=0)
    given(questions)
    after, _ = made(unanswerable=0)
    assert [row for row in after if row["id"][0] != "b"] == before


PAGE = "Labels are many. Nobody reads the whole list of labels, so some are missing from every document."


def test_paragraphs_of_pages_less_the_shortest_and_how_they_compare_with_their_pages():
    pages = {"a#1": PAGE, "a#3": PAGE, "b#4": "A page of nothing but figures."}
    given(
        {
            "a#1": [f"{PAGE}\nFig. 1"],
            "a#3": [f"Labels are many.\n{PAGE}"],
            "b#4": ["No meaningful paragraphs found."],
        },
        pages,
    )
    rows, figures = made(task="paragraphs", shortest=0.25)
    assert [(row["id"], row["metadata"]) for row in rows] == [
        ("a#1.1", {"pdf": "a.pdf", "page": 1, "para_num": 1}),
        ("a#3.2", {"pdf": "a.pdf", "page": 3, "para_num": 2}),
    ]
    assert figures["rejected"] == {"10 characters or fewer": 1, "no meaningful paragraphs": 1}
    assert figures["shortest"] == 1
    compared = figures["qc"]  # page 1 is none of qc_pages
    assert compared["pages"] == 2 and compared["cosine"]["max"] > 0.9 and compared["cosine"]["min"] == 0
    assert sum(compared["cosine"]["histogram"]) == 2 and compared["length_difference"]["min"] < 0
    assert made(task="paragraphs", qc_pages=[9])[1]["qc"] == {"pages": 0}


def test_what_cannot_be_used_is_one_line():
    given({"z#1.1": ["Why is it so?"]})
    result = invoke("corpus_asked", ["d", "--of", "of"])
    assert result.exit_code == 2 and "document 'z#1.1' is not in the corpus" in result.output
    given({"a#1.1": ["No question at all."]})
    result = invoke("corpus_asked", ["d", "--of", "of"])
    assert (
        result.exit_code == 2 and "no question about a document of train can be used, of 1" in result.output
    )


def test_the_stand_in_teacher_asks_and_answers_and_rows_to_train_with_come_of_it():
    """Through the store and a real server; an answer that was not asked for is no row."""
    with atomic_directory(layout.corpus("of"), "corpus_papers") as directory:
        write_jsonl(directory / "documents.jsonl", documents(TEXTS))
    with Teacher(answer=answer).running() as url:
        for dataset, task, template in (("of", "question", "questions"), ("d", "answer", "teacher")):
            if dataset == "d":
                made(unanswerable=0.999)
            template = str(ROOT / f"prompts/papers/{template}.md")
            prompt.run(dataset, PromptKnobs(template=template, task=task, temperature=0))
            write_json(layout.figures(dataset) / "prompt.json", {})
            collect.run(dataset, CollectKnobs(base_url=url, api_key_env=""))
    write = (ROOT / "prompts/papers/student.md").read_text()
    layout.prompt("d", "student").parent.mkdir(parents=True)
    layout.prompt("d", "student").write_text(write)
    figures = convert.run("d", ConvertKnobs(task="answer", min_lines=1))
    rows = read_json(layout.litgpt_data("d") / "train.json")
    assert figures["accepted"]["train"] == len(rows) > 2
    by_id = {row["id"]: row for row in rows}
    first = by_id["a#1.1#q1"]
    assert first["instruction"].endswith("Question: Why are the labels incomplete?")
    assert first["output"] == "Because nobody can read a million of them."
    assert TEXTS["a#1.1"] in first["instruction"]
    assert {row["output"] for name, row in by_id.items() if name.endswith("-elsewhere")} == {NOT_SAID}


BLOCKS = {
    "corpus_papers": {"q": {}},
    "corpus_asked": {"d": {"of": "q"}},
    "prompt": {"q": {"task": "question"}, "d": {"task": "answer"}},
    "collect": {"q": {}, "d": {}},
    "convert": {"d": {}},
    "chunks": {"d": {}},
    "benchmark": {"d": {"trained": "models/d/hf", "beside": "models/other/hf"}},
    "evaluate_papers": {"d": {}},
    "instruct": {"other": {}},
    "export": {"d": {}, "other": {}},
}


def blocks(**more) -> dict:
    return {stage: {} for stage in ("corpus", "tokenize", "finetune", "merge")} | BLOCKS | more


def test_blocks_that_lack_nothing():
    assert KIND.problem(blocks()) is None


@pytest.mark.parametrize(
    "more, told",
    [
        ({"corpus_asked": {"d": {"of": "d"}}}, "'d' would be made of itself"),
        ({"collect": {}}, "corpus_asked.d.of: collect, or each of corpus, corpus_papers"),
        ({"corpus_papers": {}}, "has no block 'q'"),
        ({"corpus_asked": {"d": {"of": "q", "task": "paragraphs"}}}, "but prompt.q.task is 'question'"),
        ({"chunks": {}}, "benchmark.d: chunks has no block 'd'"),
        ({"convert": {}}, "benchmark.d: neither convert nor instruct has a block 'd'"),
    ],
)
def test_blocks_that_lack_another_are_told(more, told):
    assert told in str(KIND.problem(blocks(**more)))


def test_the_lines_that_build_prints():
    interval = {"mean": 0.25, "low": 0.2, "high": 0.3}
    lines = KIND.summary({"academic": {"trained": {"f1": interval, "rouge_l": interval, "cosine": None}}})
    assert lines[0] == "trained: f1 0.250, rouge_l 0.250" and len(lines) == 2
    assert KIND.summary({}) == []
