"""From generated texts to the report on a small dataset: shapes, bytes, refusals, escaping."""

import json
import re
import shutil
from pathlib import Path

import pytest

from stages import report
from stages.commands import build
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, read_jsonl, write_json, write_jsonl, write_text
from stages.kinds.xc import evaluate, filter, map, pack, xc
from stages.kinds.xc.knobs import EvaluateKnobs
from stages.kinds.xc.parts.queries import parse
from stages.kinds.xc.parts.scoring import MEASURES
from stages.kinds.xc.report import report as xc_report
from stages.reporting.page import SYSTEMS, by_epoch, loss, render
from tests.helpers.cli import invoke
from tests.helpers.shards import write_generated
from tests.helpers.shipped import BM25, TFIDF
from tests.helpers.workspace import ROOT

HOSTILE = "<script>alert('x')</script> & \"co\""
EVAL_ROWS = Path("prompts/toy/eval_rows.jsonl")
TOPICS = "arrays matrices tables plots graphs trees kernels signals clusters images models dates".split()

CHAIN = """corpus prompt collect convert tokenize finetune merge export generate baseline filter map pack xc
    evaluate report""".split()
HEADINGS = """From documents to data|How good the queries are|Pages it never saw|Training|Lengths in tokens|
New labels|What the new labels bring|What it took|Where it comes from""".replace("\n", "").split("|")


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
    queries, pairs = [], []
    for n, topic in enumerate(TOPICS):
        split = "test" if n < 3 else "train"
        queries.append({"id": f"q{n:02}", "text": f"sorting of {topic}", "split": split})
        own = "hidden" if n == 3 else split
        pairs += [
            {"query_id": f"q{n:02}", "document_id": f"d{n:02}", "split": own},
            {"query_id": f"q{n:02}", "document_id": f"d{n + 12}", "split": split},
        ]
    with atomic_directory(layout.corpus("toy"), "corpus") as directory:
        for name, rows in (("documents", documents), ("queries", queries), ("pairs", pairs)):
            write_jsonl(directory / f"{name}.jsonl", rows)
        write_json(directory / "shape.json", {"points": "queries"})
    graph = re.sub(r"(?m)^  - prompts/.*\n", "", (ROOT / "dvc.yaml").read_text())
    write_text(Path("dvc.yaml"), graph)
    write_text(Path("params.yaml"), "".join(f"{stage}:\n  toy: {{}}\n" for stage in CHAIN))
    write_text(layout.prompt("toy", "student"), "{{ document.title }}\nqueries:\n")
    write_text(EVAL_ROWS, "")
    write_jsonl(layout.responses("toy"), answers)
    write_generated(layout.generated("toy"), generated, 3, "generate")
    write_generated(layout.baseline("toy"), base, 2, "baseline")
    return "toy"


def row(name, text, reason):
    made = {"document_id": name, "sample": 0, "text": text, "queries": parse(text), "finish_reason": reason}
    unknown = {"logprob": None, "line_logprobs": [None] * len(text.split("\n"))}
    return {**made, "prompt_tokens": 9, "generated_tokens": len(text) // 4, **unknown}


def run(stage, **knobs):
    if stage in (evaluate, xc):
        knobs["eval_rows"] = EVAL_ROWS
    result = invoke(stage, ["toy", *(f"--{k}={v}" for k, v in knobs.items())])
    if result.exit_code not in (0, 2):
        raise result.exception
    return result


def files(folder):
    """Contents by relative path, less the timings."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.parent.name != "time"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def whole_chain():
    for stage, knobs in (
        (filter, {"round_trip_by": BM25}),
        (map, {"encoder": TFIDF, "threshold": 0.7}),
        (pack, {}),
        (xc, {"tower": TFIDF, "steps": 5, "dims": 8, "bootstrap": 100}),
        (evaluate, {"bootstrap": 100}),
    ):
        assert run(stage, **knobs).exit_code == 0


@pytest.mark.parametrize("harm", ["missing", "torn", "edited", "duplicated"])
def test_broken_shards_are_refused_by_name(dataset, harm):
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
    result = run(evaluate)
    assert result.exit_code == 2 and named in result.output and "Traceback" not in result.output
    assert not (layout.figures(dataset) / "metrics.json").exists()


def test_evaluate_end_to_end(dataset):
    assert run(evaluate, bootstrap=200).exit_code == 0
    reports = layout.figures(dataset)
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
    whole_chain()
    curve = [{"step": 0, "val_loss": 5.0, "lr": 0.0}, {"step": 1, "train_loss": 4.0, "lr": 1.0}]
    write_json(layout.figures(dataset) / "curve.json", curve)
    write_json(layout.figures(dataset) / "corpus.json", {"documents": 24, "splits": {"test": 12}})
    assert run(report).exit_code == 0
    path = layout.reports(dataset) / "report.html"
    page = path.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    assert re.findall("<h2>(.*?)</h2>", page) == HEADINGS
    assert "stand-in for an LLM" in page
    run(report)
    assert path.read_text() == page


def test_figures_of_a_stage_that_the_dataset_left_are_not_shown(dataset):
    whole_chain()
    run(report)
    assert "New labels" in (layout.reports(dataset) / "report.html").read_text()
    spoil = Path("params.yaml").read_text().replace("map:\n  toy: {}\n", "")
    Path("params.yaml").write_text(spoil)
    assert (layout.figures(dataset) / "map.json").is_file()
    run(report)
    page = (layout.reports(dataset) / "report.html").read_text()
    assert "New labels" not in page and "What the new labels bring" in page


def test_a_dataset_of_no_kind_has_a_plain_page(dataset):
    Path("params.yaml").write_text("corpus:\n  toy: {}\nreport:\n  toy: {}\n")
    write_json(layout.figures(dataset) / "corpus.json", {"documents": 24, "splits": {"test": 12}})
    assert run(report).exit_code == 0
    page = (layout.reports(dataset) / "report.html").read_text()
    assert "distilled to write answers" in page and "Where it comes from" in page


COUNTS = ["P@1", "R@1", "R@3", "R@5", "R@10", "R@100"]
GAIN = {"mean": 0.25, "low": 0.125, "high": 0.375}
HALF = {"mean": 0.5, "low": 0.4, "high": 0.6}


def xc_figures(models):
    found = {
        "original": dict.fromkeys(COUNTS, 0.5),
        "augmented": dict.fromkeys(COUNTS, 0.75),
        "difference": dict.fromkeys(COUNTS, GAIN),
    }
    nothing = {key: dict.fromkeys(COUNTS) for key in found}
    head = {**found, "labels": 7, "pairs": 1234, "frequency": [3, 9]}
    buckets = {"head": head, "unseen": {**nothing, "labels": 0, "pairs": 0, "frequency": None}}
    asked = {
        name: {"all": {"queries": 1206, "R@10": value}}
        for name, value in (("original", HALF), ("augmented", HALF), ("difference", GAIN))
    }
    return {model: {**found, "points": {}, "buckets": buckets, "people": asked} for model in models}


PACK = {
    "train_points": 4321,
    "synthetic_points": 7654,
    "test_points": 100,
    "labels": 99,
    "pairs_original": 5678,
    "pairs_augmented": 8765,
    "test_pairs": 120,
    "labels_without_train_pairs": {"original": 60, "augmented": 20},
    "filters": {"train": 0, "test": 0},
}
FILTER = {"lines": 10_000, "dropped": {"copies": 2000, "near_duplicates": 0}, "kept": 8000}


def test_the_gain_is_shown():
    figures = {"xc": xc_figures(["plt", "two_tower"]), "pack": PACK, "filter": FILTER}
    times = {stage: {"seconds": 1.0, "peak_mib": 10} for stage in ("filter", "map", "pack", "xc")}
    page = page_of(figures, times)
    section = page[page.index("What the new labels bring") : page.index("What it took")]
    for shown in (
        "Label tree: recall",
        "Two-tower retriever: R@10",
        "4,321",
        "7,654",
        "<td>all</td><td>1,206</td><td>0.500</td>",
        "1,234",
        "3 to 9",
        "5,678",
        "8,765",
    ):
        assert shown in section
    assert section.count("<svg") == 4
    assert section.count('class="whisker"') == 2 * (5 + 1)  # five depths and one bucket with test pairs
    assert (
        '<td>R@10</td><td>0.500</td><td>0.750</td><td>+0.250 <span class="soft">[+0.125, +0.375]' in section
    )
    tile = page[page.index("R@10, new labels") :]
    assert "<b>0.75</b>" in tile and "0.50 without: +0.12 to +0.38; label tree" in tile
    assert "kept by the filters" in page and "of 10,000; left out: 2,000 copies<" in page
    assert re.findall(r"<tr><td>(\w+)</td><td style", page) == ["filter", "map", "pack", "xc"]


def test_the_gain_without_the_figures_of_pack():
    page = page_of({"xc": xc_figures(["two_tower"])})
    assert "What the new labels bring" in page and "labels without a training pair" not in page
    assert "+0.38; two-tower retriever" in page


def test_categories_are_called_so():
    figures = {"evaluate": {"task": "categories", "teacher": {"x": 1}, "generated": None}}
    page = page_of(figures)
    assert "distilled to write categories for documents" in page and "quer" not in page.split("</style>")[1]


PEOPLE = [
    {"query": "sort the plots", "pos_index": ["d03"], "kind": 1},
    {"query": "lib.sort_trees", "pos_index": ["d05"], "kind": 0},
    {"query": "sort signals", "pos_index": ["d07"]},
]


def test_queries_in_peoples_wording_lead_the_page(dataset):
    run(evaluate, bootstrap=100)
    assert read_json(layout.figures(dataset) / "evaluate.json")["people"] == {}
    run(report)
    assert "people’s wording" not in (layout.reports(dataset) / "report.html").read_text()
    before = read_json(layout.figures(dataset) / "metrics.json")

    write_jsonl(EVAL_ROWS, PEOPLE)
    assert run(evaluate, bootstrap=100).exit_code == 0
    assert read_json(layout.figures(dataset) / "metrics.json") == before
    found = read_json(layout.figures(dataset) / "evaluate.json")["people"]
    assert list(found) == ["page", "near_duplicate"] and list(found["page"]) == ["all", "by name", "how-to"]
    assert found["page"]["all"]["queries"] == 3 and found["page"]["by name"]["R@1"]["mean"] == 1
    run(report)
    page = (layout.reports(dataset) / "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page)[0] == "In people’s wording"
    for shown in ("<td>how-to</td><td>1</td>", "not logged from users"):
        assert shown in page
    lines = build.headline(dataset)
    assert "3 queries in people's wording: BM25 R@10" in lines and "not logged from users" in lines


def test_pages_of_one_group_count_as_one(dataset):
    documents = read_jsonl(layout.corpus(dataset) / "documents.jsonl")
    for document in documents:
        document["metadata"]["group"] = "d01" if document["id"] in ("d01", "d03") else document["id"]
    with atomic_directory(layout.corpus(dataset), "corpus") as directory:
        write_jsonl(directory / "documents.jsonl", documents)
        write_jsonl(directory / "queries.jsonl", [])
    write_jsonl(EVAL_ROWS, [{"query": "sort plots", "pos_index": ["d01"]}])
    run(evaluate, bootstrap=10)
    found = read_json(layout.figures(dataset) / "evaluate.json")["people"]
    assert found["page"]["all"]["R@1"]["mean"] == 0 and found["near_duplicate"]["all"]["R@1"]["mean"] == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"query": "Sorting of MODELS!", "pos_index": ["d01"]},
            "'Sorting of MODELS!' stands in training",
        ),
        ({"query": "a", "pos_index": ["d99"]}, "field 'pos_index': there is no page 'd99'"),
        ({"query": "a", "page": "d01"}, "pos_index: Field required; expected query, pos_index, kind"),
    ],
)
def test_a_bad_row_in_peoples_wording_fails_the_stage(dataset, row, told):
    write_jsonl(EVAL_ROWS, [PEOPLE[0], row])
    result = run(evaluate)
    assert result.exit_code == 2 and f"{EVAL_ROWS}, row 2: {told}" in result.output
    assert not (layout.figures(dataset) / "metrics.json").exists()


def test_report_leaves_out_what_is_not_there(dataset):
    run(evaluate, bootstrap=100)
    assert run(report).exit_code == 0
    page = (layout.reports(dataset) / "report.html").read_text()
    assert "New labels" not in page and "Loss by step" not in page and "From documents to data" in page
    shutil.rmtree(layout.reports(dataset))
    assert run(report).exit_code == 2


def test_report_of_only_a_corpus():
    page = page_of({"corpus": {"documents": 3, "splits": {}}})
    assert "documents read" in page and "How good" not in page


def page_of(figures, times=None):
    return render("d", figures, times or {}, xc_report(figures), ORIGIN)


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
    page = render(HOSTILE, figures, times, xc_report(figures), origin)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10


def test_provenance_comes_from_the_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = [{"path": f"models/{name}/hf", "md5": name * 3} for name in ("toy", "other")]
    Path("dvc.lock").write_text(json.dumps({"stages": {"export@toy": {"outs": outs}}}))
    found = report.provenance("toy")
    assert found["hashes"] == {"models/toy/hf": "toytoytoy"} and found["model"] == "toytoytoy"


def test_charts_have_what_they_are_given():
    from stages.reporting.charts import (
        columns,
        confusion,
        interval_bars,
        lines,
        number,
        paired_bars,
    )

    bars = interval_bars([("base", None), ("student", {"mean": 0.5, "low": 0.4, "high": 0.6})], "<b>")
    assert "0.500" in bars and "–" in bars and "<b>" not in bars
    paired = paired_bars([("R@1", 0.25, 0.5, GAIN), ("<i>", None, None, None)], "x")
    assert (
        paired.count("<rect") == 2 * 2 + 2
        and "+0.250" in paired
        and "–" in paired
        and "0.500" in paired
        and "<i>" not in paired
    )
    assert columns([0, 1, 2], [3, 0], "x", "base").count("<rect") == 2
    assert "kept from 0.8" in columns([0.5, 0.8, 1], [3, 1], "x", "student", 0.8)
    assert "58.0" in interval_bars([("base", {"mean": 58.0, "low": 50.0, "high": 60.0})], "x", 60.0)
    matrix = confusion(["<i>", "b"], ["<i>", "b", "no call"], [[3, 0, 1], [0, 0, 0]], "x")
    assert "<i>" not in matrix and matrix.count("<rect") == 6 + 2
    assert "b → b" not in matrix and "&lt;i&gt; → no call: 1 (25%)" in matrix
    flat = lines([("loss", "base", [(0, 1.0), (5, 1.0)])], "x")
    assert "nan" not in flat and "M34.0" in flat
    assert [number(v) for v in (None, 12345, 0.5, 2596.0, 1e-5)] == ["–", "12,345", "0.5", "2,596", "1e-05"]


def test_missing_manifest_is_a_user_error(dataset):
    (layout.corpus(dataset) / "manifest.json").unlink()
    with pytest.raises(UserError, match="manifest.json: no such file"):
        evaluate.run(dataset, EvaluateKnobs(eval_rows=str(EVAL_ROWS)))


@pytest.mark.parametrize(
    ("epoch", "wanted"),
    [
        (0, []),
        (2, [("training", "base", [(1, 2.5), (2, 1.0)]), ("validation", "student", [(1, 2.0), (2, 1.5)])]),
        (9, [("training", "base", [(1, 2.0)]), ("validation", "student", [(1, 1.5)])]),
    ],
)
def test_loss_by_epoch_is_the_mean_of_training_and_the_last_of_validation(epoch, wanted):
    curves = [
        ("training", "base", [(1, 3.0), (2, 2.0), (3, 1.0)]),
        ("validation", "student", [(0, 9.0), (1, 3.0), (2, 2.0), (4, 1.5)]),
    ]
    assert by_epoch(curves, epoch) == wanted


def test_a_page_has_losses_by_epoch_where_there_are_several():
    curve = [{"step": step, "train_loss": 3.0 - step, "val_loss": 4.0 - step} for step in (1, 2, 3)]
    assert "loss by epoch" in loss(curve, {"steps_of_epoch": 1})["epochs"]
    assert not loss(curve, {"steps_of_epoch": 3})["epochs"] and not loss(curve, None)["epochs"]
