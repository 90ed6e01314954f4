"""From corpus to requests, and from answers to training rows that litgpt itself loads."""

import json
import tracemalloc
from pathlib import Path

import pytest

from stages.convert import joined
from stages.convert import run as convert
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, read_jsonl, verify_manifest, write_jsonl
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.prompt import run as prompt
from stages.teacher.prices import FRAME
from tests.helpers.teacher_server import write_corpus, write_prompts

PRICES = "prices: {version: today, models: {embedded: {input: 3, output: 6}}}"
TEACHER = "prompts/d/teacher.md"
IDS = [f"p{i:03}" for i in range(100)]
GOOD = "- how to sort rows\n- sort rows by key\n- sort rows by key\n- rows rows rows"


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def answer(document: dict, outcome="ok", response=GOOD, **more) -> dict:
    fields = {"accepted": outcome == "ok", "outcome": outcome, "response": response, **more}
    return {"id": document["id"], "document_id": document["id"], "request_key": "k", **fields}


def set_corpus(documents: list[dict]) -> None:
    with atomic_directory(layout.corpus("d"), "corpus") as target:
        write_jsonl(target / "documents.jsonl", documents)


def test_prompt_renders_sorted_requests_and_tells_the_cost(capsys):
    write_corpus("d", 40)
    write_prompts("d")
    Path("params.yaml").write_text(PRICES)
    metrics = prompt("d", PromptKnobs(template=TEACHER, max_tokens=100))
    rows = read_jsonl(layout.requests("d"))
    assert [row["id"] for row in rows] == [row["document_id"] for row in rows] == IDS[:40]
    assert " ".join(rows[0]) == "id document_id request_key sample model messages params prompt_hash"
    assert rows[1]["messages"] == [
        {"role": "system", "content": "Write queries."},
        {"role": "user", "content": "About word1"},
    ]
    size = sum(len(message["content"]) for row in rows for message in row["messages"])
    tokens = round(size / 4 + 2 * 40 * FRAME)
    assert metrics == {
        "documents": 40,
        "requests": {"train": 32, "val": 4, "test": 4},
        "answers": 40,
        "distinct_requests": 40,
        "estimated_input_tokens": tokens,
        "token_count": "bytes / 4",
        "most_output_tokens": 4000,
        "most_dollars": round((tokens * 3 + 4000 * 6) / 1e6, 4),
        "price_version": "today",
    }
    said = capsys.readouterr().err
    assert "at most 4,000 output tokens; cost about $0.03 at most (prices: today)" in said
    metrics = prompt("d", PromptKnobs(template=TEACHER, model="embedded-2"))
    assert metrics["most_dollars"] is metrics["price_version"] is None
    assert "cost unknown (params.yaml has no price of 'embedded-2')" in capsys.readouterr().err


def test_more_documents_only_add_requests():
    write_corpus("d", 100)
    write_prompts("d")
    chosen = []
    for documents in (10, 30):
        prompt("d", PromptKnobs(template=TEACHER, documents=documents, val_documents=3, test_documents=2))
        chosen.append({row["id"] for row in read_jsonl(layout.requests("d"))})
    assert [len(ids) for ids in chosen] == [15, 35] and chosen[0] < chosen[1]
    write_corpus("d", 120)
    prompt("d", PromptKnobs(template=TEACHER, documents=10, val_documents=3, test_documents=2))
    assert len({row["id"] for row in read_jsonl(layout.requests("d"))} & chosen[0]) > 8  # not a new sample


def test_prompt_errors_name_file_and_variable():
    write_corpus("d", 20)
    write_prompts("d", teacher="{{ document.body }}")
    with pytest.raises(UserError, match=r"prompts/d/teacher\.md: .*'body'.*docs/guide/prompts\.md"):
        prompt("d", PromptKnobs(template=TEACHER))
    layout.prompt("d", "teacher").write_bytes(b"{{ document.text }}\n\xff\xfe")
    with pytest.raises(UserError, match=r"prompts/d/teacher\.md, line 2: byte 0xff is not UTF-8"):
        prompt("d", PromptKnobs(template=TEACHER))
    layout.prompt("d", "teacher").unlink()
    with pytest.raises(UserError, match=r"prompts/d/teacher\.md: no such file"):
        prompt("d", PromptKnobs(template=TEACHER))
    assert not layout.requests("d").exists()


def test_empty_corpus():
    with atomic_directory(layout.corpus("d"), "corpus") as target:
        write_jsonl(target / "documents.jsonl", [])
    write_prompts("d")
    with pytest.raises(UserError, match=r"documents\.jsonl: no document of split 'train' \(0 in all\)"):
        prompt("d", PromptKnobs(template=TEACHER))


def test_convert_accounts_for_every_response():
    documents = write_corpus("d", 20)
    write_prompts("d")
    rows = [answer(document) for document in documents]
    rows[0] = answer(documents[0], "refusal", "I will not")
    rows[1] = answer(documents[1], "error", None)
    rows[2] = answer(documents[2], response="```\n```")
    rows[3] = answer(documents[3], response="sort rows by key\nHere you are:")
    rows[19] = answer(documents[19], "length", "how to sort\nhow to")
    write_jsonl(layout.responses("d"), rows)
    metrics = convert("d", ConvertKnobs())
    target = layout.litgpt_data("d")
    manifest = verify_manifest(target)["files"]
    kept = {split: read_json(target / f"{split}.json") for split in ("train", "val", "test")}
    rejects = {row["id"]: row["reason"] for row in read_jsonl(target / "rejects.jsonl")}
    assert rejects == {
        "p000": "refusal",
        "p001": "error",
        "p002": "parses to nothing",
        "p003": "fewer than 2 well-formed lines",
        "p019": "length",
    }
    assert (
        metrics["accepted"]
        == {name: len(part) for name, part in kept.items()}
        == {"train": 12, "val": 2, "test": 1}
    )
    assert sum(metrics["accepted"].values()) + sum(metrics["rejected"].values()) == metrics["responses"] == 20
    assert [entry["rows"] for name, entry in sorted(manifest.items())] == [5, 1, 12, 2]
    assert kept["val"][0] == {
        "id": "p008",
        "instruction": "Page 8: About word8\nQueries:",
        "input": "",
        "output": "how to sort rows\nsort rows by key",
    }
    assert metrics["lines"] == {"kept": 30, "dropped": 16, "reasons": {"not well-formed": 16}}


def test_nothing_accepted_names_the_reasons_and_leaves_earlier_work():
    documents = write_corpus("d", 20)
    write_prompts("d")
    write_jsonl(layout.responses("d"), [answer(document) for document in documents])
    convert("d", ConvertKnobs())
    write_jsonl(
        layout.responses("d"), [answer(d, "blank", "") for d in documents[:9]] + [answer(documents[9])]
    )
    with pytest.raises(UserError, match=r"no answer can be used for training, of 10 \(blank: 9\)"):
        convert("d", ConvertKnobs())
    verify_manifest(layout.litgpt_data("d"))
    write_jsonl(layout.responses("d"), [])
    with pytest.raises(UserError, match=r"of 0 \(no response at all\)"):
        convert("d", ConvertKnobs())
    write_jsonl(layout.responses("d"), [answer({"id": "gone"})])
    with pytest.raises(UserError, match=r"responses\.jsonl, row 1: document 'gone' is not in"):
        convert("d", ConvertKnobs())
    set_corpus([{**document, "split": "xc_test"} for document in documents])
    write_jsonl(layout.responses("d"), [answer(documents[3])])
    with pytest.raises(UserError, match=r"row 1: document 'p003' is .* of a split that is not asked about"):
        convert("d", ConvertKnobs())


@pytest.mark.parametrize(
    "field, value",
    [
        *(("document_id", [[]]), ("id", None), ("accepted", "yes"), ("outcome", []), ("problem", 3)),
        *(("response", {"a": 1}), ("response", "\ud800"), ("sample", "1"), ("form", [])),
    ],
)
def test_a_row_that_no_collect_wrote_is_named(field, value):
    documents = write_corpus("d", 3)
    write_prompts("d")
    rows = [answer(document) for document in documents]
    lines = [json.dumps(row) for row in (rows[0], rows[1] | {field: value})]
    layout.responses("d").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"responses\.jsonl, row 2: "):
        convert("d", ConvertKnobs())


def test_several_answers_about_a_page_are_several_rows():
    documents = write_corpus("d", 10)
    write_prompts("d")
    asked = [(document, sample, choice) for document in documents for sample in (0, 1) for choice in (0, 1)]
    write_jsonl(
        layout.responses("d"),
        [
            {
                **answer(document, sample=sample, choice=choice),
                "id": f"{document['id']}#{2 * sample + choice}",
            }
            for document, sample, choice in asked
        ],
    )
    metrics = convert("d", ConvertKnobs())
    assert metrics["accepted"] == {"train": 32, "val": 4, "test": 4} and not metrics["rejected"]
    train = read_json(layout.litgpt_data("d") / "train.json")
    assert [row["id"] for row in train[:5]] == ["p000#0", "p000#1", "p000#2", "p000#3", "p001#0"]
    assert train[0]["instruction"] == train[3]["instruction"]


def test_what_a_policy_keeps_is_used_as_far_as_it_goes():
    documents = write_corpus("d", 20)
    write_prompts("d")
    rows = [answer(document) for document in documents]
    whole, cut = '{"queries": ["sort rows", "order of rows"]}', '{"queries": ["sort rows", "order of r'
    rows[0] = answer(documents[0], "length", "sort rows\nsort by key\nsort by", accepted=True)
    rows[1] = answer(documents[1], "length", cut, accepted=True, form="json")
    rows[2] = answer(
        documents[2], "length", '[{"name": "Queries", "arguments": "{"}]', accepted=True, form="tool"
    )
    rows[3] = answer(documents[3], "invalid", whole, problem="an extra key", form="json")
    rows[4] = answer(documents[4], response=whole, form="json")
    rows[5] = answer(documents[5], response=f'[{{"name": "Queries", "arguments": {whole}}}]', form="tool")
    write_jsonl(layout.responses("d"), rows)
    convert("d", ConvertKnobs())
    train = {row["id"]: row["output"] for row in read_json(layout.litgpt_data("d") / "train.json")}
    assert train["p000"] == "sort rows\nsort by key"
    assert train["p004"] == train["p005"] == "sort rows\norder of rows"
    form = "not in the form that was asked for"
    assert read_jsonl(layout.litgpt_data("d") / "rejects.jsonl") == [
        {"id": "p001", "reason": form, "response": cut},
        {"id": "p002", "reason": form, "response": rows[2]["response"]},
        {"id": "p003", "reason": "invalid", "problem": "an extra key", "response": whole},
    ]


def test_lines_that_a_document_does_not_want_are_dropped_each_for_its_reason():
    documents = write_corpus("d", 10)
    url = "http://example.org/sort-rows/by_key"
    documents[0] = {**documents[0], "metadata": {"url": url, "queries": ["Order of rows?"]}}
    set_corpus(documents)
    write_prompts("d")
    response = "order of ROWS\nsort by key\nrows\nfastest way to sort\nstable sort of rows"
    rows = [answer(document) for document in documents]
    rows[0] = answer(documents[0], response=response)
    rows[1] = answer(documents[1], response=response)
    write_jsonl(layout.responses("d"), rows)
    metrics = convert("d", ConvertKnobs())
    outputs = {row["id"]: row["output"] for row in read_json(layout.litgpt_data("d") / "train.json")}
    assert outputs["p000"] == "fastest way to sort\nstable sort of rows"
    assert outputs["p001"] == "order of ROWS\nsort by key\nfastest way to sort\nstable sort of rows"
    assert metrics["lines"]["reasons"] == {
        "a copy of a known query": 1,
        "not well-formed": 2 + 8,
        "only words of the URL": 1,
    }
    assert metrics["lines"]["dropped"] == 12 and metrics["lines"]["kept"] == 2 + 4 + 8 * 2


def test_categories_are_written_in_one_way_and_fall_with_the_one_above_them():
    documents = write_corpus("d", 10)
    documents[1] = {**documents[1], "metadata": {"queries": ["Lakes of Norway"]}}
    set_corpus(documents)
    write_prompts("d")
    text = (
        "#### Immediate categories\n1. Lakes of Norway\n2. Cold places\n\n#### Their categories\n"
        "**Lakes of Norway**\n- Lakes\n- This is a lake\n**Cold places**\n- Places\n- Lakes\n"
    )
    whole = '{"categories": [{"name": "Cold places", "categories": ["- Places", "cold places"]}]}'
    rows = [answer(document, response=text) for document in documents]
    rows[2] = answer(documents[2], response=whole, form="json")
    rows[3] = answer(documents[3], "length", "Lakes\n\tWater\nRive", accepted=True)
    rows[4] = answer(documents[4], response="Lakes of Norway")
    rows[5] = answer(documents[5], response="[1]", form="tool")
    write_jsonl(layout.responses("d"), rows)
    metrics = convert("d", ConvertKnobs(task="categories"))
    train = {row["id"]: row["output"] for row in read_json(layout.litgpt_data("d") / "train.json")}
    assert train["p000"] == "Lakes of Norway\n\tLakes\nCold places\n\tPlaces\n\tLakes"
    assert train["p001"] == "Cold places\n\tPlaces\n\tLakes"
    assert train["p002"] == "Cold places\n\tPlaces" and train["p003"] == "Lakes\n\tWater"
    assert metrics["rejected"] == {
        "fewer than 2 well-formed lines": 1,
        "not in the form that was asked for": 1,
    }
    assert metrics["lines"]["reasons"] == {"a copy of a known category": 1}
    write_jsonl(
        layout.responses("d"), [answer(documents[1], response=text.replace("- Lakes\n- T", "- Fjords\n- T"))]
    )
    assert convert("d", ConvertKnobs(task="categories"))["lines"] == {
        "kept": 3,
        "dropped": 2,
        "reasons": {"a copy of a known category": 1, "below a rejected line": 1},
    }


def test_one_document_is_held_at_a_time(tmp_path):
    """Neither a corpus of a million documents nor as many answers may be in memory."""
    row = {"title": "t", "metadata": {}, "split": "train"}
    corpus, responses = tmp_path / "documents.jsonl", tmp_path / "responses.jsonl"
    write_jsonl(corpus, ({**row, "id": f"p{n:05}", "text": f"{n} " * 1000} for n in range(3000)))
    asked = [f"p{n:05}" for n in (1, *range(5, 1000), 999)]
    write_jsonl(responses, (answer({"id": name}) for name in asked))
    tracemalloc.start()
    found = [(response["id"], document["id"]) for response, document in joined(responses, corpus)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(name, name) for name in asked] and peak < 1 << 20 < corpus.stat().st_size / 10
    write_jsonl(responses, (answer({"id": name}) for name in ("p00007", "p00003", "gone", "p00007")))
    found = [document and document["id"] for _, document in joined(responses, corpus)]
    assert found == ["p00007", "p00003", None, "p00007"]


@pytest.mark.slow
def test_litgpt_loads_it_and_sees_prompt_and_answer_only(tmp_path):
    from litgpt.data import JSON
    from litgpt.prompts import Default
    from litgpt.tokenizer import Tokenizer

    from tests.helpers.tiny import tiny_model

    documents = write_corpus("d", 20)
    write_prompts("d")
    write_jsonl(layout.responses("d"), [answer(document) for document in documents])
    convert("d", ConvertKnobs())
    tiny_model(tmp_path / "model", "pythia")
    data = JSON(json_path=layout.litgpt_data("d"), prompt_style=Default(), mask_prompt=True)
    tokenizer = Tokenizer(tmp_path / "model")
    data.connect(tokenizer, max_seq_length=512)
    data.setup()
    assert len(data.train_dataset) == 16 and len(data.test_dataset) == 2
    rows = json.loads((layout.litgpt_data("d") / "train.json").read_text())
    item = data.train_dataset[0]
    assert tokenizer.decode(item["input_ids"]).startswith(rows[0]["instruction"])
    assert tokenizer.decode(item["labels"][item["labels"] != -100]).startswith(rows[0]["output"])
