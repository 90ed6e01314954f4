"""What is told of a dataset of papers: the page."""

import re
import shutil
from pathlib import Path

import pytest

from stages import report
from stages.commands import build
from stages.core.files import write_json, write_text
from stages.kinds.academic.evaluate_papers import run
from stages.kinds.academic.knobs import STAGES, EvaluatePapersKnobs
from stages.kinds.academic.report import report as report_of
from stages.reporting.charts import boxes
from tests.helpers.cli import invoke
from tests.helpers.papers_answers import HOSTILE, all_questions, publish, write_answers
from tests.helpers.papers_student import NONE, TOPICS, question, unanswerable, write_questions, write_rows
from tests.helpers.workspace import ROOT


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The figures of a dataset with published results of two tasks, chunks and a teacher's paragraphs."""
    monkeypatch.chdir(tmp_path)
    write_questions([*map(question, TOPICS), unanswerable()])
    write_rows()
    write_answers()
    publish(Path("results/single_results_one.csv"), all_questions())
    publish(Path("results/joint_results_two.csv"), all_questions()[1:], "no end")
    folder = Path("reports/d/figures")
    told = run("d", EvaluatePapersKnobs(encoder=NONE, published="results", bootstrap=20))
    write_json(folder / "evaluate_papers.json", told)
    write_json(
        folder / "chunks.json", {"histogram": {"edges": [0, 150, 300], "chunks": [3, 2], "papers": {}}}
    )
    compared = {"mean": 0.9, "min": 0.1, "max": 1, "between": [0, 1], "histogram": [1, 0, 9]}
    write_json(
        folder / "corpus.json", {"qc": {"pages": 10, "cosine": compared, "length_difference": compared}}
    )
    write_json(
        folder / "benchmark.json", {"models": {"untrained": "models/base/b", "trained": "models/d/hf"}}
    )
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    write_text(Path("dvc.yaml"), re.sub(r"(?m)^  - prompts/.*\n", "", Path("dvc.yaml").read_text()))
    names = [stage.name for stage in STAGES if stage.name not in ("instruct", "corpus_papers")]
    write_text(Path("params.yaml"), "".join(f"{name}:\n  d: {{}}\n" for name in (*names, "report")))


def test_the_page_of_papers(built):
    assert invoke(report, ["d"]).exit_code == 0
    page = Path("reports/d/report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:6] == [
        "Questions of the benchmark",
        "Published: joint",
        "Rows held out, with their text",
        "Both together",
        "Published results",
        "Texts",
    ]
    for text in (
        "6 questions, 1 unanswerable, 1 papers (fewer than 30 say little: hold out more)",
        "“trained” is models/d/hf",
        "<h3>F1, benchmark</h3>",
        "<h3>F1, joint</h3>",
        "trained-untrained",
        "<td>5, 1, 0</td>",
        "<td>single</td><td>one</td><td>0.925</td>",
        "Chunks by tokens",
        "Paragraphs of 10 pages. Cosine with their page: 0.9",
        "6 questions from the best answer to the worst",
        "compute the median of an array",
        "F1, all questions",
    ):
        assert text in page, text
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "<h3>Cosine, benchmark</h3>" not in page  # without an encoder there is none
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    invoke(report, ["d"])
    assert Path("reports/d/report.html").read_text() == page


def test_what_a_build_prints(built):
    lines = build.headline("d").splitlines()
    own = "trained: f1 1.000, rouge_l 1.000"
    assert own in lines and f"with rows held out, {own}" in lines
    assert lines[-2].startswith("The rows that ship")


def test_a_page_before_anything_was_evaluated(built):
    shutil.rmtree("reports/d/figures")
    write_json(Path("reports/d/figures/chunks.json"), {"chunks": 5})
    assert invoke(report, ["d"]).exit_code == 0
    assert "questions about papers" in Path("reports/d/report.html").read_text()
    assert not report_of({}).results and not report_of({}).tiles


def test_boxes_have_their_quartiles_and_begin_at_the_lowest_value_below_0():
    own = {"low": -0.5, "q1": 0.0, "median": 0.25, "q3": 0.5, "high": 1.0, "mean": 0.3, "beyond": [-1.0]}
    chart = boxes([("trained", own)], "cosine <b>", left=100)
    span = 340 - 100 - 44  # from -1 to 1
    assert f'<rect x="{100 + span / 2:.1f}" y="4" width="{span / 4:.1f}"' in chart
    assert 'cx="100.0"' in chart and f"M{100 + span / 4:.1f} 13H{100 + span:.1f}" in chart
    assert "<b>" not in chart and ">0.250</text>" in chart
