"""The datasets of SKIM: their blocks, what they lack, and their way from documents to training rows."""

import shutil
from pathlib import Path

import pytest

from demo.teacher import queries as rules
from stages import params
from stages.commands import build, new
from stages.convert import run as convert
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl
from stages.core.stage import valid
from stages.kinds.xc.parts import categories, queries
from stages.knobs import ConvertKnobs, PromptKnobs
from stages.prompt import run as prompt
from tests.helpers.workspace import OF_SKILLS
from tests.helpers.xc_fixture import EMPTY, orcas_made, wiki_made

ROOT = Path(__file__).parents[3]
DATASETS = ("orcas", "wikihierarchy")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The prompts and params.yaml of the project."""
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of_params() -> list[str]:
    return Path("params.yaml").read_text().splitlines()


# Blocks


@pytest.mark.parametrize("order", [DATASETS, DATASETS[::-1]])
def test_both_bring_their_base_model_which_stands_there_once(project, order):
    before = lines_of_params()
    for dataset in order:
        assert new.scaffold(dataset)
    after = lines_of_params()
    blocks = params.load()
    for dataset in order:
        assert [stage for stage in params.STAGES if dataset in blocks[stage]] == [
            stage for stage in params.STAGES if stage not in (*params.BASES, "corpus", *OF_SKILLS)
        ]
        assert new.scaffold(dataset) == [
            f"data/sources/{dataset} does not exist yet: put your files there, or set "
            f"corpus_xc.{dataset}.path in params.yaml"
        ]
    assert lines_of_params() == after and sum("llama2: {id" in line for line in after) == 1
    assert list(blocks["base_hub"]) == ["llama2"]
    assert [line for line in before if line not in after] == [
        line for line in before if line.startswith(("base_hub: {}", "corpus_xc: {}"))
    ]


def test_the_blocks_are_valid(project):
    pytest.importorskip("stages.kinds.xc.xc")
    for dataset in DATASETS:
        new.scaffold(dataset)
    params.check()


def test_another_block_of_the_same_name_is_no_reason_to_overwrite_it(project):
    text = Path("params.yaml").read_text()
    other = text.replace("base_hub: {}", "base_hub:\n  llama2: {id: a/b, revision: c}", 1)
    assert other != text
    Path("params.yaml").write_text(other)
    with pytest.raises(
        UserError, match=r"params\.yaml: there is another base_hub\.llama2 than in prompts/orcas"
    ):
        new.scaffold("orcas")
    assert Path("params.yaml").read_text() == other


def test_a_block_is_added_with_its_comments_and_no_other(project):
    template, own = Path("template.yaml"), Path("own.yaml")
    template.write_text(
        "# all\nbase:\n  # of a\n  a: {path: x}\n  # of b\n  b: # too\n    path: y\n\n    # inside b\n"
        "map:\n  d: {}\n"
    )
    own.write_text("base:\n  z: {path: w}\n  b: {path: y}\nreport: {}\n")
    assert new.add_blocks(own, template) == ["base", "map"]
    assert own.read_text() == (
        "base:\n  z: {path: w}\n  b: {path: y}\n  # of a\n  a: {path: x}\nreport: {}\n\nmap:\n  d: {}\n"
    )
    assert new.add_blocks(own, template) == []
    template.write_text("map: {e: {}}\n")
    with pytest.raises(UserError, match=r"template\.yaml, map: give each block a line of its own"):
        new.add_blocks(own, template)


def test_a_folder_is_set_where_the_dataset_is_read(project):
    done = new.scaffold("orcas", str(project))
    assert f"set corpus_xc.orcas.path in params.yaml to {project}" in done
    assert params.load()["corpus_xc"]["orcas"]["path"] == str(project)
    new.scaffold("mine", str(project))
    assert params.load()["corpus"]["mine"]["path"] == str(project)


@pytest.mark.parametrize(
    "dataset, task, points, tokens, new_tokens",
    [("orcas", "queries", "queries", 750, 250), ("wikihierarchy", "categories", "documents", 1000, 500)],
)
def test_the_settings_of_the_paper(dataset, task, points, tokens, new_tokens):
    found = params.load(ROOT / "prompts" / dataset / "params.yaml")

    def block(stage: str):
        return valid(params.command(stage).knobs, found[stage][dataset], stage)

    assert found["base_hub"]["llama2"]["id"] == "meta-llama/Llama-2-7b-hf"
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
    assert mapped.encoder == "sentence-transformers/msmarco-distilbert-base-v4"
    assert (mapped.max_length, mapped.top_k, mapped.threshold) == (32, 10, 0.8)
    for stage in ("prompt", "convert", "generate", "baseline", "filter", "evaluate"):
        assert block(stage).task == task, stage
    for stage in ("tokenize", "finetune", "merge", "export", "baseline"):
        assert block(stage).base == "llama2", stage


# What is missing


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_that_are_missing_are_named_before_anything_runs(project, monkeypatch, dataset, capsys):
    pytest.importorskip("stages.kinds.xc.xc")
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
        "plt: R@10 0.250 with the known labels, 0.310 with the mapped ones too (+0.040 to +0.080)",
        "report: reports/d/report.html",
    ]


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
