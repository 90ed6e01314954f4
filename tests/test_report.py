"""map, evaluate and report end to end on a small dataset: shapes, bytes, refusals, escaping."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stages import evaluate, map, report
from stages.support import layout
from stages.support.errors import UserError
from stages.support.files import atomic_directory, read_json, write_json, write_jsonl, write_manifest
from stages.support.shards import write_generated
from stages.tasks.queries import parse
from stages.tasks.report import SYSTEMS
from stages.tasks.scoring import MEASURES

HOSTILE = "<script>alert('x')</script> & \"co\""
TOPICS = "arrays matrices tables plots graphs trees kernels signals clusters images models dates".split()


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A corpus of 24 documents, half of them held out, with answers and generations; the cwd is its root."""
    monkeypatch.chdir(tmp_path)
    documents, answers, generated, base = [], [], [], []
    for n, topic in enumerate(TOPICS * 2):
        verb = "sort" if n < len(TOPICS) else "merge"
        split = "test" if n % 2 else "train"
        title = HOSTILE if n == 1 else f"lib.{verb}_{topic}"
        text = f"{verb.title()} {topic} quickly.\n\nParameters\n\n{topic} : the input"
        documents.append({"id": f"d{n:02}", "title": title, "text": text, "metadata": {}, "split": split})
        lines = f"how to {verb} {topic}\n{verb} {topic} quickly"
        answer = {"document_id": f"d{n:02}", "accepted": True, "outcome": "ok", "model": "embedded"}
        for sample, response in enumerate((lines, "the the the")):  # only the first stands for the teacher
            answers.append({"id": f"d{n:02}#{sample}", **answer, "sample": sample, "response": response})
        generated.append(row(f"d{n:02}", lines + f"\n{topic} {topic} {topic}", "stop"))
        base.append(row(f"d{n:02}", HOSTILE if n == 1 else "the the the", "length"))
    queries = [{"id": f"q{n}", "text": f"sorting of {topic}"} for n, topic in enumerate(TOPICS)]
    pairs = [
        {"query_id": f"q{n}", "document_id": f"d{n:02}", "split": "test" if n < 3 else "train"}
        for n in range(len(TOPICS))
    ]
    with atomic_directory(layout.corpus("toy"), "corpus") as directory:
        for name, rows in (("documents", documents), ("queries", queries), ("pairs", pairs)):
            write_jsonl(directory / f"{name}.jsonl", rows)
    write_jsonl(layout.responses("toy"), answers)
    write_generated(layout.generated("toy"), generated, 3, "generate")
    write_generated(layout.baseline("toy"), base, 2, "baseline")
    return "toy"


def row(name, text, reason):
    made = {"document_id": name, "sample": 0, "text": text, "queries": parse(text), "finish_reason": reason}
    return {**made, "prompt_tokens": 9, "generated_tokens": len(text) // 4}


def run(stage, **knobs):
    result = CliRunner().invoke(stage.command, ["toy", *(f"--{k}={v}" for k, v in knobs.items())])
    if result.exit_code not in (0, 2):
        raise result.exception
    return result


def files(folder):
    """Contents by relative path, less the timings."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.parent.name != "time"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_map_end_to_end(dataset):
    from scipy.sparse import load_npz

    assert run(map, threshold=0.7).exit_code == 0
    first = files(layout.mapped(dataset))
    skim, clicks = (load_npz(layout.mapped(dataset) / name) for name in ("trn_X_Y_skim.npz", "trn_X_Y.npz"))
    starts = np.load(layout.mapped(dataset) / "start_indices.npy")
    rewrites = first["raw_rewrites.txt"].decode().splitlines()
    assert skim.shape == clicks.shape == (12, 24) and clicks.nnz == 9
    assert len(starts) == 25 and starts[-1] == len(rewrites) == 72
    assert first["X.txt"].decode().split() == [f"q{n}" for n in range(12)]
    figures = read_json(layout.reports(dataset) / "map.json")
    assert figures["held_out"]["pairs"] == 3 and figures["held_out"]["recovered"] == 3
    assert figures["pairs_after"] == skim.nnz == figures["pairs_added"] + 9
    shutil.rmtree(layout.mapped(dataset))
    assert run(map, threshold=0.7).exit_code == 0
    assert files(layout.mapped(dataset)) == first


def test_map_without_observed_queries(dataset):
    from scipy.sparse import load_npz

    for name in ("queries", "pairs"):
        write_jsonl(layout.corpus(dataset) / f"{name}.jsonl", [])
    (layout.corpus(dataset) / "manifest.json").unlink()
    write_manifest(layout.corpus(dataset), "corpus", {})
    result = run(map)
    assert result.exit_code == 0 and "no observed queries" in result.output
    assert load_npz(layout.mapped(dataset) / "trn_X_Y_skim.npz").shape == (0, 24)
    assert len((layout.mapped(dataset) / "raw_rewrites.txt").read_text().splitlines()) == 72
    figures = read_json(layout.reports(dataset) / "map.json")
    assert figures["queries"] == figures["pairs_added"] == 0 and figures["rewrites"] == 72


@pytest.mark.parametrize("stage", [map, evaluate])
@pytest.mark.parametrize("harm", ["missing", "torn", "edited", "duplicated"])
def test_broken_shards_are_refused_by_name(dataset, stage, harm):
    shard = layout.generated(dataset) / "shard-00001.parquet"
    raw = shard.read_bytes()
    named = "shard-00001.parquet"
    if harm == "missing":
        shard.unlink()
    elif harm == "torn":
        shard.write_bytes(raw[:-20])
    elif harm == "edited":
        shard.write_bytes(raw[:50] + bytes([raw[50] ^ 1]) + raw[51:])
    else:
        named = "shard-00007.parquet"
        shutil.copyfile(shard, shard.with_name(named))
    result = run(stage)
    assert result.exit_code == 2 and named in result.output and "Traceback" not in result.output
    assert not layout.mapped(dataset).exists() and not (layout.reports(dataset) / "metrics.json").exists()


def test_evaluate_end_to_end(dataset):
    assert run(evaluate, bootstrap=200).exit_code == 0
    reports = layout.reports(dataset)
    metrics = read_json(reports / "metrics.json")
    assert list(metrics) == ["base", "student", "teacher", "extractive"]
    assert all(list(own) == list(MEASURES) for own in metrics.values())
    assert metrics["teacher"]["rouge_l"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert metrics["extractive"]["verbatim"]["mean"] == 1
    assert metrics["student"]["format_validity"]["mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["base"]["stop_rate"]["mean"] == 0 and metrics["student"]["stop_rate"]["mean"] == 1
    # the base writes `the the the` for all pages but one, whose line has words of its own title
    assert metrics["base"]["groundedness"]["mean"] == pytest.approx(1 / 12, abs=1e-4)
    assert read_json(reports / "evaluate.json")["pages"] == 12
    shown = {page["id"] for page in read_json(reports / "samples.json")}
    assert shown == {f"d{n:02}" for n in range(1, 24, 2)}
    first = files(reports)
    assert {"metrics.json", "samples.json", "plots/metrics.json", "plots/lengths.json"} <= first.keys()
    shutil.rmtree(reports)
    run(evaluate, bootstrap=200)
    assert files(reports) == first


def test_evaluate_names_a_page_without_generations(dataset):
    write_generated(layout.generated(dataset), [row("d00", "a b", "stop")], 1, "generate")
    result = run(evaluate)
    assert result.exit_code == 2 and "nothing generated for the held-out page 'd" in result.output


def test_evaluate_without_held_out_answers(dataset):
    write_jsonl(layout.responses(dataset), [])
    result = run(evaluate)
    assert result.exit_code == 2 and "test_documents" in result.output


def test_report_is_whole_escaped_and_repeatable(dataset):
    run(map, threshold=0.7)
    run(evaluate, bootstrap=100)
    curve = [{"step": 0, "val_loss": 5.0, "lr": 0.0}, {"step": 1, "train_loss": 4.0, "lr": 1.0}]
    write_jsonl(layout.model(dataset, "adapter") / "curve.jsonl", curve)
    write_json(layout.reports(dataset) / "corpus.json", {"documents": 24, "splits": {"test": 12}})
    assert run(report).exit_code == 0
    path = layout.reports(dataset) / "report.html"
    page = path.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    for heading in ("How good the queries are", "Pages it never saw", "Training", "New labels", "Where it"):
        assert heading in page
    assert "stand-in for an LLM" in page
    assert json.loads((layout.reports(dataset) / "plots" / "loss.json").read_text()) == curve[1:]
    run(report)
    assert path.read_text() == page


def test_report_leaves_out_what_is_not_there(dataset):
    run(evaluate, bootstrap=100)
    assert run(report).exit_code == 0
    page = (layout.reports(dataset) / "report.html").read_text()
    assert "New labels" not in page and "Loss by step" not in page and "From documents to data" in page
    shutil.rmtree(layout.reports(dataset))
    assert run(report).exit_code == 2


def test_report_of_only_a_corpus():
    page = report.render("d", {"corpus": {"documents": 3, "splits": {}}}, {}, [], None, ORIGIN)
    assert "documents read" in page and "How good" not in page


ORIGIN = {"commit": None, "dirty": False, "hashes": {}, "model": None}


def test_hostile_names_everywhere():
    sample = dict.fromkeys(("id", "title", "text"), HOSTILE) | dict.fromkeys(SYSTEMS, [HOSTILE])
    figures = {
        "evaluate": {"teacher": {HOSTILE: 1}},
        "samples": [sample],
        "collect": {"outcomes": {HOSTILE: 1}},
        "prompt": {"most_dollars": None},
    }
    times = {"corpus": {"seconds": 1.0, "peak_mib": 10}}
    origin = {"commit": HOSTILE, "dirty": True, "hashes": {HOSTILE: HOSTILE}, "model": HOSTILE}
    page = report.render(HOSTILE, figures, times, [], None, origin)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10


def test_provenance_comes_from_the_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = [{"path": f"models/{name}/hf", "md5": name * 3} for name in ("toy", "other")]
    Path("dvc.lock").write_text(json.dumps({"stages": {"export@toy": {"outs": outs}}}))
    found = report.provenance("toy")
    assert found["hashes"] == {"models/toy/hf": "toytoytoy"} and found["model"] == "toytoytoy"


def test_charts_have_what_they_are_given():
    from stages.tasks.report_charts import columns, interval_bars, lines, number

    bars = interval_bars([("base", None), ("student", {"mean": 0.5, "low": 0.4, "high": 0.6})], "<b>")
    assert "0.500" in bars and "–" in bars and "<b>" not in bars
    assert columns([0, 1, 2], [3, 0], "x", "base").count("<rect") == 2
    assert "kept from 0.8" in columns([0.5, 0.8, 1], [3, 1], "x", "student", 0.8)
    flat = lines([("loss", "base", [(0, 1.0), (5, 1.0)])], "x")
    assert "nan" not in flat and "M34.0" in flat
    assert [number(v) for v in (None, 12345, 0.5, 2596.0, 1e-5)] == ["–", "12,345", "0.5", "2,596", "1e-05"]


def test_missing_manifest_is_a_user_error(dataset):
    (layout.corpus(dataset) / "manifest.json").unlink()
    with pytest.raises(UserError, match="manifest.json: no such file"):
        map.command.run(dataset, map.MapKnobs())
