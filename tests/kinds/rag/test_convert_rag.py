"""Training rows: which passages a prompt shows and in which order, what fits, what is never cut."""

import random
from pathlib import Path

import pytest

from stages.core.files import read_json, read_jsonl, write_jsonl, write_manifest
from stages.core.prompts import Template
from stages.core.tokenizer import TextCodec
from stages.kinds.rag import places
from stages.kinds.rag.convert_rag import shown
from stages.kinds.rag.knobs import ConvertRagKnobs
from stages.kinds.rag.parts.context import Prompts
from tests.helpers.cli import invoke
from tests.helpers.rag_student import PROMPT, TOPICS, make_project
from tests.helpers.tiny import EOS, WORDS, tokenizer_folder

PASSAGES = {name: {"id": name} for name in "abcdefgh"}
ROW = {"id": "r", "question": "q", "answer": "x", "gold": ["c"], "source": "s", "hard": ["g", "h"]}
FOUND = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ids(row: dict = ROW, **knobs) -> str:
    made = shown(row, FOUND, PASSAGES, ConvertRagKnobs(**{"base": "b", "order": "gold_first", **knobs}))
    return "".join(one["id"] for one in made)


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({"mode": "sft"}, "c"),
        ({"mode": "swr"}, "cab"),
        ({"mode": "swr", "retrieve": 1}, "c"),
        ({"mode": "swr", "retrieve": 5}, "cabde"),
        ({"order": "rank"}, "abc"),
        ({"negatives": "hard"}, "cgh"),
        ({"negatives": "hard", "order": "rank"}, "cgh"),
        ({"gold": "when_retrieved"}, "cab"),
        ({"gold": "when_retrieved", "retrieve": 2}, "ab"),  # it is the third that is found
        ({"gold": "share", "gold_share": 1}, "cab"),
        ({"gold": "share", "gold_share": 1e-9}, "abd"),
    ],
)
def test_the_passages_of_a_prompt(knobs, expected):
    assert ids(**knobs) == expected


def test_shuffled_passages_stay_and_differ_by_row_and_seed():
    orders = [ids({**ROW, "id": str(n)}, order="shuffled") for n in range(40)]
    assert orders == [ids({**ROW, "id": str(n)}, order="shuffled") for n in range(40)]
    assert {order.index("c") for order in orders} == {0, 1, 2}
    assert orders != [ids({**ROW, "id": str(n)}, order="shuffled", seed=2) for n in range(40)]


def test_gold_is_left_out_of_a_share_of_rows():
    with_gold = sum("c" in ids({**ROW, "id": str(n)}, gold="share", gold_share=0.8) for n in range(500))
    assert 370 < with_gold < 430


# Prompts


def prompts(chat: bool = True, **knobs) -> Prompts:
    Path("student.md").write_text(PROMPT)
    codec = TextCodec(Path(tokenizer_folder()), chat=chat)
    return Prompts(Template(Path("student.md")), codec, ConvertRagKnobs(**{"base": "b", **knobs}))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_prompt_and_answer_fit_and_nothing_of_the_question_is_cut(seed, chat):
    drawn = random.Random(seed)
    words = [*WORDS.split(), EOS, "### Response:", "日本語", "\n\n", "{{ x }}", "<|im_start|>"]

    def text(most: int) -> str:
        return " ".join(drawn.choices(words, k=drawn.randrange(1, most)))

    length = drawn.choice([120, 200, 400])
    made = prompts(chat, max_length=length, answer_length=20, passage_length=drawn.choice([5, 40, 100]))
    passages = [{"id": str(n), "title": text(4), "text": text(200)} for n in range(drawn.randrange(0, 6))]
    question = {"id": "q", "question": text(10), "history": [{"speaker": "User", "message": text(8)}]}
    prompt = made.of(question, passages)
    tokens = made.codec.prompts([prompt.text])[0]
    assert len(tokens) + 20 <= length
    for part in (question["question"], question["history"][0]["message"]):
        assert " ".join(made.codec.disarmed(part).split()) in prompt.text
    assert prompt.passages == [str(n) for n in range(len(passages) - prompt.dropped)]  # the last give way
    assert prompt.cut + prompt.dropped <= len(passages)
    specials = {made.codec.tokenizer.token_to_id(name) for name in (EOS,)}
    assert not specials & set(tokens)  # what people wrote is text


def test_a_question_that_leaves_no_room_is_an_error():
    from stages.core.errors import UserError

    with pytest.raises(UserError, match=r"question 'q': without any passage its prompt is \d+ tokens over"):
        prompts(max_length=30, answer_length=20).of({"id": "q", "question": "compute " * 30}, [])


# The stage


def run(*more: str):
    given = ["--base", "b", "--passage_length", "12", "--max_length", "200", "--answer_length", "40"]
    return invoke("convert_rag", ["d", *given, *more])


def test_rows_of_all_splits():
    make_project()
    result = run()
    assert result.exit_code == 0, result.output
    folder = Path("data/d/litgpt")
    for split in ("train", "val", "test"):
        rows = read_json(folder / f"{split}.json")
        assert [row["id"] for row in rows] == [f"{split}-{name}" for name in TOPICS]
        for row, name in zip(rows, TOPICS, strict=True):
            assert row["output"] == "a sorted array"
            assert row["input"] == ""
            assert f"Question: what does the {name} of an array return\nAnswer:" in row["instruction"]
            assert f"{name}: compute" in row["instruction"]  # gold is among them
            assert row["instruction"].count("\n[") == 3
    assert read_json(folder / places.CONTEXT)["passage_length"] == 12
    figures = read_json(Path("reports/d/figures/convert.json"))
    assert figures["accepted"] == {"train": 5, "val": 5, "test": 5}
    assert figures["passages"] == figures["passages_cut"] == 45
    assert 0 < figures["answer_in_prompt"] <= 1


def test_an_answer_that_is_too_long_is_a_reject():
    make_project()
    path = places.passages("d") / "train.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [{**rows[0], "answer": "array " * 50}, *rows[1:]])
    write_manifest(places.passages("d"), "test", {})
    assert run().exit_code == 0
    assert [row["id"] for row in read_json(Path("data/d/litgpt/train.json"))] == [
        row["id"] for row in rows[1:]
    ]
    reject = read_jsonl(Path("data/d/litgpt/rejects.jsonl"))[0]
    assert (reject["id"], reject["reason"]) == (rows[0]["id"], "answer longer than answer_length")
    assert "no row to train with" in run("--answer_length", "1").stderr


def test_more_passages_than_are_retrieved_are_an_error():
    make_project()
    result = run("--retrieve", "11")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: convert_rag.d: retrieve is 11, and retrieved.depth 10; raise depth\n",
    )
