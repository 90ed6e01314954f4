"""Systems over one set of keys, on tiny models: figures, runs, leaks, people's queries, rows of any file."""

import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import CrossEncoder

from stages import report
from stages.base import import_model
from stages.commands import build, evaluate_rows
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_json, write_text
from stages.kinds.retriever import score
from stages.kinds.retriever.evaluate_retriever import run
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs, ScoreKnobs
from tests.helpers.cli import invoke
from tests.helpers.retrieval_rows import edit_rows, scored_rows, tiny_encoder
from tests.helpers.tiny import tiny_model
from tests.helpers.workspace import OF_RETRIEVERS, ROOT

NONE = "models/shipped/none"
SYSTEMS = {"base", "trained", "bm25", "hybrid", "hybrid_trained"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    folder = root / "models"
    tiny_encoder(folder / "base/tiny")
    tiny_encoder(folder / "d/retriever", seed=1)
    with chdir(root):
        import_model(tiny_model(root / "lm", "llama"), "lm", "test")
    write_json(folder / "shipped/none/retriever.json", {"type": "none"})
    return folder


@pytest.fixture
def project(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models, "models")
    write_text(Path("people.jsonl"), "")


def values(**more) -> dict:
    settings = {"rows": "d", "trained_on": "d", "base": "models/base/tiny", "lm": "lm", "reranker": NONE}
    lengths = {"query_max_length": 32, "key_max_length": 32, "bootstrap": 50, "eval_rows": "people.jsonl"}
    return {**settings, **lengths, **more}


def evaluated(**more) -> dict:
    return run("d", EvaluateRetrieverKnobs(**values(**more)))


def figures() -> dict:
    return read_json(Path("reports/d/figures/retriever.json"))


def test_all_systems_rank_one_set_of_keys(project):
    scored_rows("d", "qa", "tool")
    told = evaluated()
    made = figures()
    assert list(made) == ["qa", "tool"] and made["qa"].keys() == SYSTEMS | {"random", "differences"}
    assert made["tool"].keys() == SYSTEMS | {"differences"}  # it has no scores of a language model
    assert set(made["qa"]["trained"]) == {
        *(f"{measure}@{cutoff}" for measure in ("mrr", "recall", "ndcg") for cutoff in (1, 5, 10, 100)),
        "reward_ndcg",
    }
    assert made["tool"]["trained"]["recall@100"] == {"mean": 1, "low": 1, "high": 1}
    assert {"trained-base", "hybrid_trained-bm25", "hybrid_trained-hybrid"} <= made["qa"][
        "differences"
    ].keys()
    gained = made["qa"]["differences"]["trained-base"]["mrr@10"]
    means = [made["qa"][system]["mrr@10"]["mean"] for system in ("trained", "base")]
    assert gained["mean"] == pytest.approx(means[0] - means[1], abs=1e-4)
    assert told["tasks"]["qa"]["labelled"] == 6 and told["tasks"]["qa"]["keys"] == 40
    assert sum(told["tasks"]["qa"]["cosines"]["base"]["right"]) == 6
    missed = read_json(Path("reports/d/figures/retriever_misses.json"))["qa"]
    assert missed and missed[0]["ranks"].keys() == SYSTEMS == missed[0]["firsts"].keys()


def test_runs_and_qrels_give_the_figures_again_and_the_same_bytes(project):
    scored_rows("d")
    evaluated()
    before = {path.name: path.read_bytes() for path in Path("data/d/runs").iterdir()}
    assert before.keys() >= {"qa.qrels", *(f"qa.{system}.trec" for system in SYSTEMS)}
    right = dict(line.split()[::2] for line in before["qa.qrels"].decode().splitlines())
    ranks = {}
    for line in before["qa.bm25.trec"].decode().splitlines():
        query, _, key, rank, _, tag = line.split()
        assert tag == "bm25"
        if right[query] == key:
            ranks[query] = int(rank)
    mrr = np.mean([1 / ranks[query] if ranks.get(query, 11) <= 10 else 0 for query in right])
    assert figures()["qa"]["bm25"]["mrr@10"]["mean"] == pytest.approx(mrr, abs=1e-4)
    figures_before = figures()
    shutil.rmtree("data/.work")
    evaluated()
    assert figures() == figures_before
    assert {path.name: path.read_bytes() for path in Path("data/d/runs").iterdir()} == before


def test_a_row_with_its_own_candidates_chooses_from_those(project):
    folder = scored_rows("d")
    edit_rows(folder, "qa", lambda row: row.update(among=[*row["pos"], *row["neg"]]), "test")
    told = evaluated()
    rows = read_jsonl(folder / "qa/test.jsonl")
    assert told["tasks"]["qa"]["keys"] == len({key for row in rows for key in row["among"]}) < 40
    lines = Path("data/d/runs/qa.base.trec").read_text().splitlines()
    assert len(lines) == 6 * 7
    assert figures()["qa"]["base"]["recall@10"]["mean"] == 1
    assert "recent" in figures()["qa"]


def test_a_reranker_reads_the_first_keys(project):
    CrossEncoder("models/base/tiny", num_labels=1, device="cpu").save_pretrained("models/d/reranker")
    scored_rows("d")
    evaluated(reranker="models/d/reranker", rerank=5)
    made = figures()["qa"]
    assert {"reranked", "hybrid_reranked"} <= made.keys()
    assert made["reranked"]["recall@5"] == made["trained"]["recall@5"]  # the same five in another order
    assert {"reranked-trained", "hybrid_reranked-hybrid_trained"} <= made["differences"].keys()


def test_the_last_turn_alone_is_compared(project):
    folder = scored_rows("d", "convsearch")
    edit_rows(folder, "convsearch", lambda row: row.update(last=row["query"].split()[-1]), "test")
    evaluated()
    assert "trained-trained_last_turn" in figures()["convsearch"]["differences"]


def test_answers_in_texts(project):
    folder = scored_rows("d")
    edit_rows(folder, "qa", lambda row: row.update(answers=[row["query"].rsplit(" ", 1)[0]]), "test")
    evaluated(metrics=["answer_recall", "mrr"], cutoffs=[1, 40])
    made = figures()["qa"]["base"]
    assert list(made) == ["mrr@1", "mrr@40", "answer_recall@1", "answer_recall@40", "reward_ndcg"]
    assert made["answer_recall@40"]["mean"] == 1


@pytest.mark.parametrize("where", ["same task", "spelling", "other task"])
def test_a_test_query_that_was_trained_on_ends_the_stage(project, where):
    folder = scored_rows("d", "qa", "convsearch")
    first = read_jsonl(folder / "qa/test.jsonl")[0]
    key = next(row for row in read_jsonl(folder / "qa/keys.jsonl") if row["id"] == first["pos"][0])
    if where == "other task":
        keys = [{**row, "text": key["text"]} for row in read_jsonl(folder / "convsearch/keys.jsonl")]
        write_text(folder / "convsearch/keys.jsonl", "".join(json.dumps(row) + "\n" for row in keys))
        edit_rows(folder, "convsearch", lambda row: row.update(last=first["query"]))
    else:
        text = first["query"].upper() + "!" if where == "spelling" else first["query"]
        edit_rows(folder, "qa", lambda row: row.update(query=text))
    with pytest.raises(
        UserError, match=r"qa/test.jsonl, row 'qa-test-000': the training row .* asks the same"
    ):
        evaluated()
    assert not Path("reports").exists()


def people(*rows: dict) -> None:
    write_text(Path("people.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))


def test_queries_of_people_by_kind_and_near_duplicates_are_one_page(project):
    folder = scored_rows("d")
    keys = read_jsonl(folder / "qa/keys.jsonl")
    keys[1]["text"] = keys[0]["text"]
    write_text(folder / "qa/keys.jsonl", "".join(json.dumps(row) + "\n" for row in keys))
    edit_rows(folder, "qa", lambda row: None)
    people(
        {"query": keys[0]["text"][:20], "pos_index": ["k000"], "kind": 1},
        {"query": keys[0]["text"], "pos_index": ["k001"], "kind": 2},
    )
    evaluated()
    asked = figures()["people"]
    assert asked["queries"] == 2 and list(asked["kinds"]) == ["how-to", "key words"]
    assert asked["bm25"]["mrr@1"]["mean"] == 1  # k000 stands first; it is as good as k001
    assert asked["kinds"]["how-to"]["queries"] == 1
    assert asked["kinds"]["how-to"]["differences"].keys() == asked["differences"].keys()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"query": "x", "pos_index": ["nowhere"]}, "there is no page 'nowhere'"),
        ({"query": "x", "pos_index": []}, "people.jsonl, row 1: pos_index"),
        ({"query": "x", "pos_index": ["k000"], "hits": 3}, "unknown key 'hits'"),
    ],
)
def test_bad_rows_of_people(project, row, told):
    scored_rows("d")
    people(row)
    with pytest.raises(UserError, match=told):
        evaluated()


def test_a_query_of_people_in_training_ends_the_stage(project):
    folder = scored_rows("d", "tool", "qa")
    people({"query": read_jsonl(folder / "tool/train.jsonl")[0]["query"].upper(), "pos_index": ["k000"]})
    with pytest.raises(UserError, match="stands in training, too"):
        evaluated()


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"evaluate": ["icl"]}, "evaluate: data/d/scored has no task 'icl'; it has qa"),
        ({"base": "models/base/lm"}, "encoder"),
        ({"reranker": "models/none"}, "reranker: models/none"),
        ({"rows": "e"}, "data/e/scored"),
    ],
)
def test_what_is_missing_is_named(project, knobs, told):
    scored_rows("d")
    with pytest.raises(UserError, match=told):
        evaluated(**knobs)


# Rows of any file


@pytest.fixture
def params(project):
    scored_rows("d", "qa", "tool")
    write_json(Path("params.yaml"), {"evaluate_retriever": {"d": values()}})  # JSON is YAML
    return read_jsonl(Path("data/d/scored/qa/keys.jsonl"))


def scored_file(text: str, *arguments: str):
    write_text(Path("rows.jsonl"), text)
    return CliRunner().invoke(evaluate_rows.cli, ["d", "--rows=rows.jsonl", "--out=scores.json", *arguments])


def test_rows_of_any_file_are_scored_by_text_or_id(params):
    rows = [
        {"query": params[3]["text"], "pos": [params[3]["text"]]},
        {"query": params[4]["text"], "pos_index": params[4]["id"]},
        {"query": "sort", "pos_index": ["k001"], "task": "tool"},
    ]
    result = scored_file("".join(json.dumps(row) + "\n" for row in rows))
    assert result.exit_code == 0, result.output
    made = read_json(Path("scores.json"))
    assert made["qa"]["queries"] == 2 and made["tool"]["queries"] == 1
    assert made["qa"]["bm25"]["mrr@10"]["mean"] == made["qa"]["base"]["recall@1"]["mean"] == 1
    assert "hybrid_trained" in result.output and "mrr@10" in result.output


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("", [], "rows.jsonl"),
        ('{"pos": ["x"]}', [], "rows.jsonl, row 1: field 'query': is missing"),
        ('{"query": "x"}', [], "row 1: has no right key"),
        ('{"query": "x", "pos": ["not a key"]}', [], "field 'pos': no key of qa is 'not a key'"),
        ('{"query": "x", "pos_index": [3]}', [], "field 'pos_index': no key of qa is '3'"),
        ('{"query": "x", "task": "chat", "pos": []}', [], "field 'task': 'chat' is none of qa, tool"),
        ('{"query": "x", "pos_index": ["k001"]}', ["--systems=best"], "--systems: none is called 'best'"),
        ("[1]", [], "rows.jsonl, row 1"),
    ],
)
def test_bad_rows_of_a_file(params, text, arguments, told):
    result = scored_file(text, *arguments)
    assert result.exit_code == 2 and told in result.output and "Traceback" not in result.output
    assert not Path("scores.json").exists()


def test_a_dataset_of_no_kind_that_scores_rows(params):
    result = CliRunner().invoke(evaluate_rows.cli, ["e", "--rows=rows.jsonl", "--out=scores.json"])
    assert result.exit_code == 2 and "'e' is no dataset whose kind scores rows" in result.output


# What a language model makes of the keys


def with_answers(row: dict) -> None:
    row["answers"] = [" ".join(row["query"].split()[:2])]
    row["among"] = [*row["pos"], *row["neg"]]


def test_a_language_model_reads_the_keys_of_a_dialogue(project):
    edit_rows(scored_rows("d", "chat"), "chat", with_answers, "test")
    evaluated()
    made = figures()["chat"]
    systems = {"bm25", "base", "trained", "hybrid_trained", "random", "recent", "oracle"}
    assert made.keys() == systems | {"differences"}
    assert set(made["trained"]) == {"reward_ndcg", "perplexity", "gap_closed"}
    assert "reward_ndcg" not in made["oracle"] and made["random"]["gap_closed"]["mean"] == 0
    assert made["oracle"]["gap_closed"] == {"mean": 1, "low": 1, "high": 1}
    ends = [made[system]["perplexity"]["mean"] for system in ("random", "oracle", "trained")]
    share = (ends[0] - ends[2]) / (ends[0] - ends[1])
    assert made["trained"]["gap_closed"]["mean"] == pytest.approx(share, rel=0.02, abs=0.01)
    assert made["differences"]["trained-base"].keys() == made["trained"].keys()


def test_what_was_scored_is_not_read_again(project):
    folder = scored_rows("d", "chat", part="mined")
    edit_rows(folder, "chat", lambda row: (with_answers(row), row.pop("teacher_scores")), "test")
    score.run("d", ScoreKnobs(base="lm", tasks=["chat"], max_length=200))
    (kept,) = Path("data/.work").glob("scores-*.txt")
    before = kept.read_bytes()
    assert before
    evaluated()
    assert "perplexity" in figures()["chat"]["trained"] and kept.read_bytes() == before


def test_examples_before_a_request(project):
    folder = scored_rows("d", "icl")
    edit_rows(folder, "icl", lambda row: row.update(answers=[" ".join(row["query"].split()[:2])]), "test")
    evaluated(shots=3, lm_rows=4)
    made = figures()["icl"]
    assert {"mrr@10", "reward_ndcg", "perplexity", "gap_closed", "accuracy"} <= made["trained"].keys()
    assert 0 <= made["random"]["accuracy"]["mean"] <= 1 and "recent" not in made


# What is told


@pytest.fixture
def built(project):
    """The figures of a dataset with two tasks, people's queries, a curve and hostile texts."""
    folder = scored_rows("d", "qa", "chat")
    edit_rows(folder, "chat", with_answers, "test")
    edit_rows(folder, "qa", lambda row: row.update(query=f"<script>{row['id']}</script>"), "test")
    people({"query": "sort an array", "pos_index": ["k003"], "kind": 1})
    evaluated()
    told = evaluated(lm_rows=3)
    write_json(Path("reports/d/figures/evaluate_retriever.json"), told)
    curve = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5, "val_loss": 1.7}]
    write_json(Path("reports/d/figures/retriever_curve.json"), curve)
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    graph = re.sub(r"(?m)^  - prompts/.*\n", "", Path("dvc.yaml").read_text())
    write_text(Path("dvc.yaml"), graph)
    write_text(
        Path("params.yaml"), "".join(f"{name}:\n  d: {{}}\n" for name in (*OF_RETRIEVERS[3:], "report"))
    )


def test_the_page_of_a_retriever(built):
    assert invoke(report, ["d"]).exit_code == 0
    page = Path("reports/d/report.html").read_text()
    headings = ["What is found", "Training", "Leaks", "What it took", "Where it comes from"]
    assert sorted(re.findall("<h2>(.*?)</h2>", page)) == sorted(headings[:3] + headings[4:])
    assert re.findall("<h3[^>]*>(Questions|Earlier turns|In people’s wording)</h3>", page)
    assert "A retriever, and what it finds." in page and "distilled" not in page
    assert "hardest misses of Questions, side by side" in page and "not found" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    for text in (
        "trained hybrid",
        "trained-base",
        "share of the gap",
        "Cosine of the best right key, trained",
    ):
        assert text in page
    assert "how-to (1): trained" in page and "queries nearly in training" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)


def test_what_a_build_prints(built):
    lines = build.headline("d").splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["qa", "chat", "people"]
    assert re.search(r"qa: mrr@10 of bm25 \S+, base \S+, trained \S+, hybrid", lines[0])
    assert "(trained - base " in lines[0] and "perplexity of random" in lines[1]
    assert lines[-2].startswith("The rows that ship") and lines[-1] == "report: reports/d/report.html"
