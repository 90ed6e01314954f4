"""The datasets of SKIM: their blocks, what they lack, and their way from documents to training rows."""

from pathlib import Path

import pytest

from demo.teacher import queries as rules
from stages import params
from stages.commands import build, new
from stages.convert import run as convert
from stages.core import layout
from stages.core.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl
from stages.core.stage import valid
from stages.kinds.xc.parts import categories, queries
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.prompt import run as prompt
from tests.helpers.workspace import OF_PAPERS, OF_RAG, OF_RETRIEVERS, OF_SKILLS, copy_graph
from tests.helpers.xc_fixture import EMPTY, orcas_made, wiki_made

ROOT = Path(__file__).parents[3]
DATASETS = ("orcas", "wikihierarchy")


@pytest.fixture
def project(tmp_path, monkeypatch):
    copy_graph(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Blocks


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_takes_part_in_every_stage_of_its_kind(project, dataset):
    assert new.scaffold(dataset)
    chain = {stage.name for stage in params.stages_of(dataset, params.check())}
    others = {*OF_SKILLS, *OF_RETRIEVERS, *OF_RAG, *OF_PAPERS}
    assert chain == params.STAGES.keys() - {*params.BASE_STAGES, "corpus", *others}
    assert new.scaffold(dataset) == [
        f"data/sources/{dataset} does not exist yet: put your files there, or set "
        f"corpus_xc.{dataset}.path in prompts/{dataset}/params.yaml"
    ]


@pytest.mark.parametrize(
    "dataset, task, points, tokens, new_tokens",
    [("orcas", "queries", "queries", 750, 250), ("wikihierarchy", "categories", "documents", 1000, 500)],
)
def test_the_settings_of_the_paper(dataset, task, points, tokens, new_tokens):
    blocks = params.read(ROOT / "prompts" / dataset / "params.yaml")

    def block(stage: str):
        return valid(params.STAGES[stage].knobs, blocks[stage][dataset], stage)

    shared = params.read(ROOT / "prompts/bases/llama2.yaml")
    assert shared["base_hub"]["llama2"]["id"] == "meta-llama/Llama-2-7b-hf"
    corpus = block("corpus_xc")
    assert (corpus.points, corpus.max_chars, corpus.max_tokens) == (points, 7500, tokens)
    assert corpus.tokenizer == "models/base/llama2"
    asked = block("prompt")
    assert asked.template == f"prompts/{dataset}/teacher.md" and (ROOT / asked.template).is_file()
    assert (asked.model, asked.documents) == ("gpt-4", 50_000)
    tuned = block("finetune")
    assert tuned.targets() == ["query", "key", "value", "projection", "mlp", "head"]
    assert (tuned.batch_size, tuned.micro_batch_size, tuned.epochs) == (64, 2, 3)
    assert (tuned.lr, tuned.min_lr, tuned.warmup_steps) == (3e-4, 3e-5, 100)
    written, base = block("generate"), block("baseline")
    assert (written.temperature, written.top_k, written.max_new_tokens) == (0.8, 200, new_tokens)
    same = {"shards", "share", "base"}
    assert base.model_dump(exclude=same) == written.model_dump(exclude=same)
    mapped = block("map")
    assert mapped.encoder == "data/sources/msmarco-distilbert-base-v4"
    assert (mapped.max_length, mapped.top_k, mapped.threshold) == (32, 10, 0.8)
    for stage in ("prompt", "convert", "generate", "baseline", "filter", "evaluate"):
        assert block(stage).task == task, stage
    for stage in ("tokenize", "finetune", "merge", "export", "baseline"):
        assert block(stage).base == "llama2", stage


# What is missing


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_that_are_missing_are_named_before_anything_runs(project, monkeypatch, dataset, capsys):
    new.scaffold(dataset)
    monkeypatch.setattr(build, "repro", lambda *arguments: pytest.fail("nothing may run"))
    with pytest.raises(SystemExit) as end:
        build.cli([dataset], standalone_mode=False)
    assert end.value.code == 2
    said = capsys.readouterr().err
    for name in ("trn_X.txt", "tst_X.txt", "Y.txt", "trn_X_Y.npz", "tst_X_Y.npz", "metadata.jsonl"):
        assert name in said
    assert f"error: data/sources/{dataset}: " in said and "https://" in said


def test_the_last_lines_tell_the_gain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build.headline("d") == "d is built"
    interval = {"mean": 0.5, "low": 0.4, "high": 0.6}
    names = ("hit_at_10", "hit_at_10_nameless", "groundedness", "format_validity", "rouge_l")
    scores = {"student": dict.fromkeys(names, interval) | {"hit_at_10_nameless": None}}
    scores["base"] = dict.fromkeys(names, dict.fromkeys(interval))
    write_json(layout.figures("d") / "metrics.json", scores)
    assert build.headline("d").splitlines()[1].split() == ["student", "0.500", "–", "0.500", "0.500", "0.500"]
    assert build.headline("d").splitlines()[2].split() == ["base", *"–––––"]
    figures = {
        "original": {"R@10": 0.25},
        "augmented": {"R@10": 0.31},
        "difference": {"R@10": {"mean": 0.06, "low": 0.04, "high": 0.08}},
    }
    write_json(layout.figures("d") / "xc.json", {"plt": figures})
    assert build.headline("d").splitlines()[-2:] == [
        "plt: R@10 0.250 with the known labels, 0.310 with the new ones too (+0.040 to +0.080)",
        "report: reports/d/report.html",
    ]
    figures["people"] = {
        name: {"all": {"R@10": {"mean": mean, "low": 0.01, "high": 0.03}}}
        for name, mean in (("original", 0.5), ("augmented", 0.52), ("difference", 0.02))
    }
    write_json(layout.figures("d") / "xc.json", {"plt": figures})
    told = "plt, queries in people's wording: R@10 0.500, then 0.520 (+0.010 to +0.030)"
    assert told in build.headline("d").splitlines()
    for pages, warning in ((300, ""), (30, ""), (3, " (fewer than 30 say little: hold out more)")):
        write_json(layout.figures("d") / "evaluate.json", {"pages": pages})
        assert f"means over {pages} held-out pages{warning}" in build.headline("d").splitlines()


# From documents to training rows, with the embedded teacher's rules


def chain(dataset: str, documents: list[dict], task: str) -> tuple[dict, list[dict]]:
    """Prompt, answer and convert; returns convert's metrics and all rows."""
    with atomic_directory(layout.corpus(dataset), "corpus") as target:
        write_jsonl(target / "documents.jsonl", documents)
    prompt(dataset, PromptKnobs(template=f"prompts/{dataset}/teacher.md", task=task))
    answers = [
        {
            "id": row["id"],
            "document_id": row["document_id"],
            "accepted": True,
            "outcome": "ok",
            "response": rules.answer(row["messages"]),
        }
        for row in read_jsonl(layout.requests(dataset))
    ]
    write_jsonl(layout.responses(dataset), answers)
    metrics = convert(dataset, ConvertKnobs(task=task))
    folder = layout.litgpt_data(dataset)
    return metrics, [row for split in ("train", "val", "test") for row in read_json(folder / f"{split}.json")]


def split_of(place: int) -> str:
    return "empty" if place == EMPTY else {0: "val", 1: "test", 2: "xc_test"}.get(place % 10, "train")


def test_queries_for_web_pages(project):
    made = orcas_made()
    documents = [
        {
            "id": f"{place:03}",
            "title": page["doc_title"],
            "text": page["doc_body"],
            "metadata": {"url": page["url"], "queries": page["relevant_queries"][:4]},
            "split": split_of(place),
        }
        for place, page in enumerate(made.metadata)
    ]
    by_id = {document["id"]: document for document in documents}
    metrics, rows = chain("orcas", documents, "queries")
    assert metrics["responses"] == sum(d["split"] in ("train", "val", "test") for d in documents) == len(rows)
    assert metrics["lines"]["reasons"]["a copy of a known query"] > 5
    for row in rows:
        document = by_id[row["id"]]
        assert row["instruction"].startswith(f"URL: {document['metadata']['url']}\nKNOWN:\n")
        written = queries.parse(row["output"])
        assert queries.fit(written, document) == written and len(written) >= 2


def test_categories_of_articles(project):
    made = wiki_made()
    documents = [
        {
            "id": f"{place:03}",
            "title": article["title"],
            "text": article["content"],
            "metadata": {},
            "split": split_of(place),
        }
        for place, article in enumerate(made.metadata)
    ]
    metrics, rows = chain("wikihierarchy", documents, "categories")
    assert metrics["responses"] == sum(d["split"] in ("train", "val", "test") for d in documents) == len(rows)
    for row in rows:
        assert row["instruction"].endswith("\nCATEGORIES:")
        tree = categories.tree(row["output"])
        assert categories.output(tree) == row["output"] and any(tree.values())
