"""Mining: what is left out, in which order and how it is counted; the stage on rows of its own."""

from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.core.files import read_jsonl
from stages.core.stage import valid
from stages.kinds.retriever import mine as stage
from stages.kinds.retriever.knobs import MineKnobs
from stages.kinds.retriever.parts import mining
from stages.kinds.retriever.parts.mining import limit, mine
from stages.kinds.retriever.parts.rows import Keys, Task, write_tasks
from stages.retrieval import vectors
from stages.retrieval.ranking import Hits
from tests.helpers.retrieval_rows import ByLength

TEXTS = ["gold", "Gold ", "the Answer is here", "near", "far", "farther", "farthest"]
NONE = {"encoder": "models/shipped/none", "reranker": "models/shipped/none"}


def keys_of(texts=TEXTS) -> Keys:
    return Keys("qa", {f"k{number}": text for number, text in enumerate(texts)})


def row(**fields) -> dict:
    return {"id": "r", "query": "q", "pos": ["k0"], "group": "g", **fields}


def mined(rows, knobs, scores=None, known=None):
    """The negatives of the first row, which finds all keys in order, and the counts."""
    hits = Hits(np.tile(np.arange(7), (len(rows), 1)), np.zeros((len(rows), 7)))
    counts = mine(rows, keys_of(), known or rows, hits, MineKnobs(**NONE, **knobs), scores)
    return rows[0]["neg"], counts


@pytest.mark.parametrize(
    "fields, knobs, expected",
    [
        ({}, {}, ["k2", "k3", "k4", "k5", "k6"]),  # neither the positive nor a text like it
        ({"answers": ["aNSWER"]}, {}, ["k3", "k4", "k5", "k6"]),
        ({"answers": [" ", ""]}, {}, ["k2", "k3", "k4", "k5", "k6"]),
        ({"answers": ["answer"]}, {"filter_answers": False}, ["k2", "k3", "k4", "k5", "k6"]),
        ({}, {"rank_from": 3, "rank_to": 5}, ["k3", "k4"]),
        ({}, {"negatives": 2}, ["k2", "k3"]),
        ({"pos": []}, {"negatives": 2}, ["k0", "k1"]),
    ],
)
def test_what_is_no_negative(fields, knobs, expected):
    assert mined([row(**fields)], knobs)[0] == expected


def test_positives_of_another_row_with_the_query_are_known():
    other = row(id="s", query=" Q", pos=["k3"])
    negatives, counts = mined([row()], {}, known=[row(), other])
    assert negatives == ["k2", "k4", "k5", "k6"]
    assert counts["known_positives"] == 2


SCORES = np.array([0.8, 0.8, 0.9, 0.75, 0.7, 0.5, -0.2])


@pytest.mark.parametrize(
    "knobs, expected",
    [
        ({}, ["k3", "k4", "k5", "k6"]),
        ({"margin_absolute": 0.09}, ["k4", "k5", "k6"]),
        ({"margin_relative": 0.05}, ["k3", "k4", "k5", "k6"]),
        ({"margin_relative": 0.2}, ["k5", "k6"]),
        ({"max_score": 0.6}, ["k5", "k6"]),
        ({"max_score": 0.6, "margin_absolute": 0.5}, ["k6"]),
    ],
)
def test_margins_and_the_bound(knobs, expected):
    negatives, counts = mined([row()], knobs, lambda rows: [SCORES[own] for own in rows])
    assert negatives == expected
    assert counts["too_good"] + counts["negatives"] + counts["known_positives"] + counts["equal_texts"] == 7


def test_a_share_below_a_negative_score_is_below_it():
    assert limit(np.array([-2.0]), MineKnobs(**NONE, margin_relative=0.5)) == -3


def test_rows_that_find_too_few_are_counted():
    _, counts = mined([row()], {"negatives": 5})
    assert counts["too_few"] == 0
    _, counts = mined([row()], {"negatives": 6})
    assert (counts["too_few"], counts["none"]) == (1, 0)


@pytest.mark.parametrize("ranks", [{"rank_from": 200}, {"rank_from": 5, "rank_to": 5}, {"rank_to": 201}])
def test_ranks_that_cannot_be_are_told(ranks):
    with pytest.raises(UserError, match="rank_from < rank_to"):
        valid(MineKnobs, {**NONE, **ranks}, "params.yaml, mine.d")


def project(keys: dict[str, list[str]], rows: dict[str, list[dict]]) -> None:
    """data/d/tasks in the working directory, all rows for training, and models/shipped/none."""
    made = {
        task: Task(
            {f"k{n}": text for n, text in enumerate(texts)}, {"train": rows[task], "val": [], "test": []}
        )
        for task, texts in keys.items()
    }
    write_tasks(Path("data/d/tasks"), "tasks", made)
    none = Path("models/shipped/none")
    none.mkdir(parents=True)
    (none / "retriever.json").write_text('{"type": "none"}')


def rows_of(task: str) -> list[dict]:
    return read_jsonl(Path("data/d/mined") / task / "train.jsonl")


DOCUMENTS = ["sort an array", "sort values", "read a file", "sort the array in place", "plot"]


def test_the_stage_gives_each_row_its_negatives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat = row(query="hi", pos=["k1"], among=["k0", "k1", "k2"])
    project(
        {"qa": DOCUMENTS, "chat": DOCUMENTS, "tool": DOCUMENTS},
        {
            "qa": [
                row(id="a", query="how to sort arrays", pos=["k0"]),
                row(id="b", query="the of", pos=["k2"]),
                row(id="c", query="sort", pos=["k1"], neg=["k4"]),
            ],
            "chat": [chat],
            "tool": [row(query="plot", pos=["k4"])],
        },
    )
    knobs = MineKnobs(**NONE, by="bm25", tasks=["qa", "icl"], negatives=2)
    figures = stage.run("d", knobs)
    assert [r["neg"] for r in rows_of("qa")] == [["k3", "k1"], [], ["k4"]]
    assert rows_of("chat")[0]["neg"] == ["k0", "k2"]
    assert rows_of("tool") == [row(query="plot", pos=["k4"])]
    assert figures["tasks"]["qa"] == {
        "rows": 3, "brought": 1, "queries": 2, "known_positives": 1, "negatives": 2, "too_few": 1, "none": 1
    }  # fmt: skip
    first = Path("data/d/mined/qa/train.jsonl").read_bytes()
    stage.run("d", knobs)
    assert Path("data/d/mined/qa/train.jsonl").read_bytes() == first


@pytest.mark.parametrize("by", ["dense", "hybrid"])
def test_vectors_rank_too(tmp_path, monkeypatch, by):
    monkeypatch.chdir(tmp_path)
    project({"qa": DOCUMENTS}, {"qa": [row(query="how to sort arrays", pos=["k0"])]})

    class Words:
        dims = 3

        def encode(self, texts, side):
            counts = np.array([[text.count(w) for w in ("sort", "array", "file")] for text in texts], float)
            return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)

    monkeypatch.setattr(vectors, "load", lambda knobs, fit: Words())
    monkeypatch.setattr(vectors, "fingerprint", lambda knobs: "words")
    monkeypatch.setattr(
        stage, "method_of", lambda directory, knob, methods: "none" if "none" in directory else "model"
    )
    stage.run("d", MineKnobs(encoder="words", reranker="models/shipped/none", by=by, margin_absolute=0.1))
    assert rows_of("qa")[0]["neg"] == ["k1", "k2", "k4"]  # not k3, whose cosine is the positive's


def test_a_corpus_of_one_key_has_no_negative(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project({"qa": ["sort"]}, {"qa": [row(query="sort")]})
    figures = stage.run("d", MineKnobs(**NONE, by="bm25"))
    assert rows_of("qa")[0]["neg"] == []
    assert figures["tasks"]["qa"]["none"] == 1
    assert (
        "1 of 1 queries found fewer than 16 negatives, 1 of them none, among 1 keys"
        in capsys.readouterr().err
    )


def test_vectors_need_an_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project({"qa": ["sort"]}, {"qa": [row(query="sort")]})
    with pytest.raises(UserError, match="encoder: models/shipped/none: by hybrid needs"):
        stage.run("d", MineKnobs(**NONE))


def test_a_reranker_judges_in_place_of_the_ranking(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project({"qa": DOCUMENTS}, {"qa": [row(query="sort values", pos=["k0"])]})
    monkeypatch.setattr(mining, "load_reranker", lambda directory: ByLength())
    figures = stage.run("d", MineKnobs(**NONE, by="bm25"))
    assert rows_of("qa")[0]["neg"] == ["k3"]  # k1 is shorter than the positive
    assert figures["tasks"]["qa"]["too_good"] == 1
