"""Skill calling, made small: from skill files to scores, in a real project; and what a decision changes."""

import json

import pytest
from ruamel.yaml import YAML

from stages import params
from stages.core.files import read_json, read_jsonl, read_text, write_jsonl
from tests.helpers.workspace import OF_SKILLS, ROOT, Workspace, ran

pytestmark = pytest.mark.slow
SMALL = {  # and a base of random weights: that of the package learns in test_skim_chain.py
    "corpus_briefs": {"positive": 3, "more": [], "near_miss": 1, "other": 4, "examples": 10},
    "corpus_skills": {"test_templates": 0.3, "test_values": 0.3},
    "tokenize": {"max_length": 256},
    "finetune": {"epochs": 10, "lr": 0.01, "warmup_steps": 4},
    "evaluate_calls": {"bootstrap": 20, "latency_requests": 1, "limit": 16, "max_new_tokens": 32},
}
SYSTEMS = ("base", "student", "student_grammar", "teacher")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Workspace:
    made = Workspace.create(tmp_path_factory.mktemp("otto") / "project", "embedded")
    blocks = {stage: {} for stage in params.STAGES} | {"base": {"tiny": {"path": "models/shipped/tiny"}}}
    own = YAML(typ="safe").load(ROOT / "prompts/otto/params.yaml")
    for stage, datasets in own.items():
        for dataset, knobs in datasets.items():
            base = {"base": "tiny"} if "base" in knobs else {}
            blocks[stage][dataset] = knobs | SMALL.get(stage, {}) | base
    made.write_params(blocks)
    rows = made.directory / "prompts/otto/eval_rows.jsonl"
    write_jsonl(rows, read_jsonl(rows)[:10])
    return made


def test_from_skill_files_to_scores(project):
    output = project.run("stages", "build", "otto")
    chain = project.chain("otto")
    assert [name for name in ran(output) if name.endswith("@otto")] == [f"{stage}@otto" for stage in chain]
    assert set(chain) >= set(OF_SKILLS) - {"corpus_briefs"}

    reports = project.directory / "reports/otto"
    metrics = read_json(reports / "figures/metrics.json")
    assert tuple(metrics) == SYSTEMS
    for system in SYSTEMS:
        for measure in (
            "normalised_match_macro",
            "ast_match",
            "valid_call",
            "other_recall",
            "other_precision",
        ):
            assert set(metrics[system][measure]) == {"mean", "low", "high"}, (system, measure)
    assert metrics["student_grammar"]["valid_call"]["mean"] == 1
    assert metrics["teacher"]["normalised_match_macro"]["mean"] > 0.9
    better = metrics["student_grammar"]["normalised_match_macro"]["mean"]
    assert better > metrics["base"]["normalised_match_macro"]["mean"]
    assert metrics["student"]["latency_ms_p50"]["mean"] > 0
    people = read_json(reports / "figures/evaluate.json")["people"]
    assert people["rows"] == len(read_jsonl(project.directory / "prompts/otto/eval_rows.jsonl")) == 10
    assert people["systems"]["student_grammar"]["valid_call"]["mean"] == 1
    assert "In people’s wording" in read_text(reports / "report.html")
    assert f"{people['rows']} requests in people's wording" in output

    rows = read_jsonl(project.directory / "data/otto/corpus/documents.jsonl")
    wordings = {
        split: {own["metadata"]["template"] for own in rows if own["split"] == split}
        for split in ("train", "test")
    }
    assert wordings["test"] and not wordings["test"] & wordings["train"]
    assert ran(project.run("stages", "build", "otto")) == []  # nothing changed, nothing runs


def test_a_decision_reruns_what_depends_on_it_and_asks_nothing_twice(project):
    rows = read_jsonl(project.directory / "data/otto/corpus/documents.jsonl")
    gone = next(row for row in rows if row["split"] == "train")
    decision = {
        "decision": "reject",
        "id": gone["id"],
        "user": gone["text"],
        "call": gone["metadata"]["call"],
    }
    write_jsonl(project.directory / "prompts/otto/decisions.jsonl", [decision])
    output = project.run(
        "dvc", "repro", "-s", "candidates@otto", "corpus_skills@otto", "prompt@otto", "collect@otto"
    )
    assert ran(output) == ["corpus_skills@otto", "prompt@otto", "collect@otto"]
    assert " 0 to ask" in output
    after = read_jsonl(project.directory / "data/otto/corpus/documents.jsonl")
    assert gone["id"] not in {row["id"] for row in after}


def test_any_file_of_rows_is_scored(project):
    rows = [
        {"input": "What is the weather in Oslo?", "output": "weather(location='Oslo')"},
        {"user": "hmm, well", "answer": "other()"},
        {"input": "broken", "output": "weather(location='Os'lo')"},
    ]
    path = project.directory / "rows.json"
    path.write_text(json.dumps(rows))
    project.run("stages", "evaluate_rows", "otto", "--rows", "rows.json", "--out", "scores.json")
    found = read_json(project.directory / "scores.json")
    assert found["scored"] == 2 and set(SYSTEMS) >= set(found["systems"]) >= set(SYSTEMS[:3])
    assert found["systems"]["student_grammar"]["valid_call"]["mean"] == 1
    assert [own["user"] for own in found["predictions"]] == [rows[0]["input"], rows[1]["user"]]
