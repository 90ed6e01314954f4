"""What is told of a dataset's answers: the page, and the lines that a build prints."""

import re
import shutil
from pathlib import Path

import pytest

from stages import report
from stages.commands import build
from stages.core.files import write_json, write_text
from stages.kinds.rag.evaluate_rag import run
from stages.kinds.rag.knobs import STAGES, EvaluateRagKnobs
from tests.helpers.cli import invoke
from tests.helpers.rag_answers import rag_dataset
from tests.helpers.workspace import ROOT


@pytest.fixture
def built(tmp_path, monkeypatch):
    """The figures of a dataset with people's questions, a loss curve and hostile texts."""
    monkeypatch.chdir(tmp_path)
    rag_dataset("d")
    told = run("d", EvaluateRagKnobs(bootstrap=50))
    write_json(Path("reports/d/figures/evaluate_rag.json"), told)
    curve = [{"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5, "val_loss": 1.7}]
    write_json(Path("reports/d/figures/curve.json"), curve)
    shutil.copyfile(ROOT / "dvc.yaml", "dvc.yaml")
    write_text(Path("dvc.yaml"), re.sub(r"(?m)^  - prompts/.*\n", "", Path("dvc.yaml").read_text()))
    write_json(Path("reports/d/figures/answer.json"), {"models": {"beside": "models/e/hf"}})
    names = [*(stage.name for stage in STAGES[2:]), "finetune", "report"]
    write_text(Path("params.yaml"), "".join(f"{name}:\n  d: {{}}\n" for name in names))


def test_the_page_of_answers(built):
    assert invoke(report, ["d"]).exit_code == 0
    page = Path("reports/d/report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:3] == ["Questions in people’s wording", "Held-out questions", "Training"]
    assert "The rows that ship with the project were composed" in page and "fewer than 30" in page
    for text in (
        "F1, gold passages",
        "ROUGE-L, retrieved",
        "trained-untrained",
        "first_words, gold",
        "all measures: gold_missed (1 questions)",
        "total_ms_p50",
        "<dt>total, ms, p50</dt><dd>102</dd>",
        "gold passages are all among the first k",
        "a local stand-in. Reference answers are told from changed ones: other numbers 0.5",
        "did_not_stop",
        "6 questions from the best answer to the worst",
        "On boats",
        "“beside” is models/e/hf",
    ):
        assert text in page, text
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    invoke(report, ["d"])
    assert Path("reports/d/report.html").read_text() == page


def test_what_a_build_prints(built):
    lines = build.headline("d").splitlines()
    assert re.match(r"trained, retrieved passages: f1 0\.833, rouge_l 0\.\d+", lines[1])
    assert any(line.startswith("people's questions: first_words, gold passages: f1 ") for line in lines)
    assert lines[-2].startswith("The rows that ship") and "answerable" not in "".join(lines)


def test_a_page_before_anything_was_evaluated(built):
    shutil.rmtree("reports/d/figures")
    write_json(Path("reports/d/figures/answer.json"), {"questions": {"test": 6}})
    assert invoke(report, ["d"]).exit_code == 0
    page = Path("reports/d/report.html").read_text()
    assert "A small model that answers questions from passages" in page and "Held-out questions" not in page
