"""One retrieval for all questions: by words, vectors, both and a reranker; what it says of itself."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.core.files import read_json, write_json, write_jsonl, write_manifest
from stages.kinds.rag import places
from stages.kinds.rag.knobs import RetrievedKnobs
from stages.kinds.rag.parts.rows import SPLITS, read_found
from stages.retrieval import retriever
from stages.retrieval.retriever import Retriever
from tests.helpers.cli import invoke
from tests.helpers.rag_student import NONE, TOPICS, make_project, passage


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(Path(NONE) / "retriever.json", {"type": "none"})
    Path("encoder").mkdir()
    Path("encoder/modules.json").touch()


PASSAGES = {name: passage(name) for name in TOPICS}


class Vectors:
    """A vector for each topic: the first of the texts' words that is one."""

    def of(self, texts, folder, max_length, prompt=""):
        words = [next(word for word in text.split() if word in TOPICS) for text in texts]
        return np.array([[float(word == topic) for topic in TOPICS] for word in words], dtype=np.float16)


class Reranker:
    device = "cpu"

    def predict(self, pairs, show_progress_bar):
        return np.array([9.0 if text.startswith("graph") else 0.0 for _, text in pairs])


def knobs(**more) -> RetrievedKnobs:
    return RetrievedKnobs(**{"encoder": "encoder", "reranker": NONE, "by": "bm25", **more})


@pytest.mark.parametrize("by", ["bm25", "dense", "hybrid"])
def test_two_questions_find_different_passages(by, monkeypatch):
    monkeypatch.setattr(retriever, "Vectors", Vectors)
    found = Retriever(PASSAGES, knobs(by=by)).find(["the median of it", "a kernel of it"], 2)
    assert [ids[0] for ids, _ in found] == ["median", "kernel"]
    assert all(list(scores) == sorted(scores, reverse=True) for _, scores in found)
    assert all(len(ids) == len(scores) <= 2 for ids, scores in found)


def test_words_that_ask_are_no_telling_ones():
    """Of many passages one alone has them."""
    asking = passage("median") | {"text": "what does which when how do"}
    found = Retriever({**PASSAGES, "median": asking}, knobs()).find(
        ["What does a kernel do?", "what does"], 2
    )
    assert [ids[0] for ids, _ in found] == ["kernel", "median"]


def test_a_reranker_reads_more_than_are_asked_for(monkeypatch):
    monkeypatch.setattr(retriever, "load_reranker", lambda directory: Reranker())
    monkeypatch.setattr("stages.retrieval.ranking.narrow", lambda device: nullcontext())
    found = Retriever(PASSAGES, knobs(rerank=5)).find(["compute the median of an array"], 1)
    assert [len(ids) for ids, _ in found] == [1]
    found = Retriever(PASSAGES, knobs(rerank=5)).find(["compute an array"], 1)
    assert found[0][0] == ["graph"]


def run(*more: str):
    return invoke("retrieved", ["d", "--by", "bm25", "--encoder", NONE, "--reranker", NONE, *more])


def test_all_questions_are_asked_once_and_recall_is_told():
    make_project()
    result = run("--depth", "3")
    assert result.exit_code == 0, result.output
    for split in SPLITS:
        found = read_found("d", split)
        assert [row["passages"][0] for row in found.values()] == list(TOPICS)
        assert all(len(row["passages"]) <= 3 for row in found.values())
    figures = read_json(Path("reports/d/figures/retrieved.json"))
    assert figures["train"] == {
        "questions": 5,
        **{f"{name}@{k}": 1.0 for k in (1, 4, 10) for name in ("recall", "source")},
    }
    assert read_json(places.retrieved("d") / places.RETRIEVER)["depth"] == 3


def test_a_question_needs_all_its_gold_passages():
    make_project()
    row = {
        "id": "q",
        "question": "the median",
        "answer": "a",
        "gold": ["median", "graph"],
        "source": "median",
    }
    write_jsonl(places.passages("d") / "val.jsonl", [row])
    write_manifest(places.passages("d"), "test", {})
    assert run("--depth", "5").exit_code == 0
    figures = read_json(Path("reports/d/figures/retrieved.json"))["val"]
    assert figures == {"questions": 1, **dict.fromkeys(figures.keys() - {"questions"}, 0.0)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--depth", "6"], "depth is 6, and there are 5 passages in all"),
        (
            ["--depth", "5", "--by", "dense"],
            f"encoder: {NONE}: by dense needs a sentence-",
        ),
        (["--depth", "5", "--encoder", "nowhere"], "encoder: nowhere: no such directory"),
    ],
)
def test_what_cannot_be_retrieved_is_told_in_a_line(arguments, told):
    make_project()
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_found_and_nothing_to_find_are_errors():
    make_project()
    row = {"id": "q", "question": "日本語", "answer": "a", "gold": ["median"], "source": "median"}
    for split in SPLITS:
        write_jsonl(places.passages("d") / f"{split}.jsonl", [row])
    write_manifest(places.passages("d"), "test", {})
    assert "retrieved.d: no question finds any passage" in run("--depth", "5").stderr
    with pytest.raises(UserError, match="no passage to retrieve from"):
        Retriever({}, knobs())
