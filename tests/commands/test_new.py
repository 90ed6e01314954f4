"""Folders of datasets: paths that are set with one FOLDER, and the example of papers."""

import pytest

from stages import params
from stages.commands import new
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from tests.helpers.workspace import ROOT, copy_graph


@pytest.fixture
def project(tmp_path, monkeypatch):
    copy_graph(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(dataset: str) -> dict[str, str]:
    """The knobs of a dataset's file that hold a path of its sources."""
    named = new.named_in(new.PROMPTS / dataset / "params.yaml")
    return {f"{block}.{knob}": value for block, knob, value in named if "here" in value or "sources" in value}


def test_one_folder_sets_every_path_that_begins_with_the_old_one(project):
    new.scaffold("sai", "../here/")
    assert paths("sai") == {
        "instruct.sai.path": "../here/",
        "chunks.sai.path": "../here/single_paper.pdf",
        "chunks.sai.questions": "../here/single_paper_data.csv",
        "evaluate_papers.sai.published": "../here/",
    }
    before = read_text(new.PROMPTS / "sai/params.yaml")
    new.scaffold("sai", "../here/")
    assert read_text(new.PROMPTS / "sai/params.yaml") == before


def test_a_path_in_one_line_with_others_is_told_and_nothing_changes(project):
    own = new.PROMPTS / "sai/params.yaml"
    text = read_text(own).replace("    published: data/sources/sai\n    encoder", "    encoder")
    text = text.replace(
        "  sai:\n    encoder: models/base/minilm",
        "  sai: {encoder: models/base/minilm, published: data/sources/sai}",
    )
    write_text(own, text)
    with pytest.raises(UserError, match="evaluate_papers.sai has no line `published:`"):
        new.scaffold("sai", "../here")
    assert read_text(own) == text


def test_the_example_of_papers_is_two_datasets_that_read_one_folder(project):
    new.scaffold("mine", "here", kind="academic")
    assert paths("mine") == {"corpus_papers.mine_questions.path": "here", "chunks.mine.path": "here"}
    blocks = params.check()
    assert params.before("mine", blocks) == [
        f"{stage}@mine_questions" for stage in ("corpus_papers", "price", "prompt", "collect")
    ]
    assert {path.name for path in (new.PROMPTS / "mine").iterdir()} == {
        "benchmark.jsonl",
        "paragraphs.md",
        "params.yaml",
        "questions.md",
        "student.md",
        "teacher.md",
    }
    for name in ("paragraphs", "questions", "student", "teacher"):  # those that are measured
        assert read_text(new.PROMPTS / f"mine/{name}.md") == read_text(ROOT / f"prompts/papers/{name}.md")
