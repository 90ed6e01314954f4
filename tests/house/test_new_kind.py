"""A kind plugs in: its folder, a line in the registry, its stages in dvc.yaml, a prompts folder; no more."""

import subprocess
from pathlib import Path

import pytest

from stages.core.files import read_json
from tests.helpers.teacher_server import Teacher
from tests.helpers.workspace import Workspace, ran

pytestmark = pytest.mark.slow
KEY = {"TEACHER_KEY": "sk-test"}
FILES = {
    "stages/kinds/titles/__init__.py": """
from stages.kinds.kind import Kind
from stages.kinds.titles.knobs import STAGES

KIND = Kind(
    name="titles",
    stages=STAGES,
    tasks={"titles": "stages.kinds.titles.task"},
    report="stages.kinds.titles.report",
    headline=("length",),
    summary=lambda figures: [f"longest title: {figures['measure_titles']['longest']}"],
)
""",
    "stages/kinds/titles/knobs.py": """
from pydantic import Field

from stages.core.stage import Knobs, Stage


class MeasureTitlesKnobs(Knobs):
    unit: int = Field(1, ge=1, description="words that count as one")


STAGES = (Stage("measure_titles", MeasureTitlesKnobs, __package__),)
""",
    "stages/kinds/titles/task.py": '''
from pydantic import BaseModel

from stages.kinds.kind import Task


class Title(BaseModel):
    """A title."""

    title: str


def lines(text):
    return [(place, line.strip()) for place, line in enumerate(text.split("\\n")) if line.strip()]


def parse(text):
    return [line for _, line in lines(text)][:1]


def well_formed(line):
    return len(line) < 100


TASK = Task(
    name="titles",
    column="titles",
    Answer=Title,
    lines=lines,
    parse=parse,
    parse_answer=lambda response, form, cut: parse(response),
    fit=lambda answer, document: answer,
    flat=lambda answer: answer,
    output=lambda answer: answer[0].upper(),
    well_formed=well_formed,
    reject=lambda line, document: None,
)
''',
    "stages/kinds/titles/measure_titles.py": '''"""Measure the titles that the teacher wrote."""

from stages.core import layout
from stages.core.files import iter_jsonl, write_json
from stages.kinds.answers import lines_of
from stages.kinds.titles.task import TASK


def run(dataset, knobs):
    rows = list(iter_jsonl(layout.responses(dataset)))
    sizes = [len(lines_of(row, TASK)[0].split()) // knobs.unit for row in rows]
    mean = sum(sizes) / len(sizes)
    interval = {"mean": mean, "low": min(sizes), "high": max(sizes)}
    write_json(layout.figures(dataset) / "metrics.json", {"teacher": {"length": interval}})
    return {"longest": max(sizes)}
''',
    "stages/kinds/titles/report.py": """
from stages.reporting.page import Report


def report(figures):
    return Report(words="titles of documents", noun="titles", measures={"length": ("Length", "In words.")})
""",
    "prompts/titled/teacher.md": "Write a title.\n\n{{ document.text }}\n",
    "prompts/titled/student.md": "{{ document.text }}\ntitle:\n",
}
STAGES = """  # Kind titles.
  measure_titles:
    foreach: ${measure_titles}
    do:
      cmd: python -m stages measure_titles "$DVC_STAGE" ${item}
      deps: ["data/${key}/responses.jsonl", data/code/measure_titles.json]
      outs: ["reports/${key}/figures/time/measure_titles.json"]
      metrics:
        - reports/${key}/figures/measure_titles.json
        - "reports/${key}/figures/metrics.json": {cache: false}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Workspace:
    """The project with the kind `titles` and a dataset of it, `titled`; nothing else is touched."""
    teacher = Teacher()
    with teacher.running() as url:
        made = Workspace.create(tmp_path_factory.mktemp("kind") / "project", url)
        for name, text in FILES.items():
            (made.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (made.directory / name).write_text(text)
        insert(
            made.directory / "stages/kinds/registry.py",
            "KINDS: ",
            "from stages.kinds.titles import KIND as TITLES",
        )
        replace(made.directory / "stages/kinds/registry.py", "(XC, SKILLS", "(XC, TITLES, SKILLS")
        insert(made.directory / "dvc.yaml", "  # Spine: one page", STAGES.rstrip())
        replace(made.directory / "dvc.yaml", "report: {}}", "report: {}, measure_titles: {}}")
        shares = {"val_share": 0.2, "test_share": 0.2}
        blocks = made.params()
        blocks |= {
            "corpus": {"titled": {"source": "folder", "path": "sources/alpha", **shares}},
            "prompt": {
                "titled": {"template": "prompts/titled/teacher.md", "task": "titles", "model": "embedded"}
            },
            "collect": {"titled": {"base_url": url, "api_key_env": "TEACHER_KEY"}},
            "convert": {"titled": {"task": "titles", "min_lines": 1}},
            "measure_titles": {"titled": {"unit": 1}},
            "report": {"titled": {}},
        }
        made.write_params(
            {
                stage: {d: k for d, k in own.items() if d in ("titled", "tiny")}
                for stage, own in blocks.items()
            }
        )
        made.output_of_build = made.run("stages", "build", "titled", **KEY)
        yield made


def insert(path: Path, before: str, text: str) -> None:
    lines = path.read_text().splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith(before))
    path.write_text("\n".join([*lines[:place], text, *lines[place:]]) + "\n")


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_it_is_built_by_dvc_with_its_own_stage_in_the_chain(project):
    chain = ["corpus", "price", "prompt", "collect", "convert", "measure_titles", "report"]
    assert ran(project.output_of_build)[1:] == [f"{stage}@titled" for stage in chain]
    assert ran(project.run("stages", "build", "titled", **KEY)) == []


def test_its_task_is_what_the_spine_asks_for_and_converts(project):
    rows = read_json(project.directory / "data/titled/litgpt/train.json")
    assert rows and all(row["output"] == row["output"].upper() and "\n" not in row["output"] for row in rows)


def test_its_figures_its_page_and_its_summary_are_shown(project):
    figures = read_json(project.directory / "reports/titled/figures/measure_titles.json")
    assert f"longest title: {figures['longest']}" in project.output_of_build
    assert "length" in project.output_of_build
    page = (project.directory / "reports/titled/report.html").read_text()
    assert "distilled to write titles of documents" in page and "In words." in page


def test_help_lists_it(project):
    shown = project.run("stages", "--help")
    assert "Stages of the kind titles:\n  measure_titles  Measure the titles that the teacher wrote." in shown


def test_no_file_of_the_spine_was_touched(project):
    done = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=project.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    changed = {line[3:] for line in done.stdout.splitlines()}
    own = {
        name for name in changed if name.startswith(("stages/kinds/titles/", "prompts/", "reports/", "data/"))
    }
    made = {"dvc.lock", "params.yaml", "models/base/.gitignore"}
    assert changed - own - made == {"stages/kinds/registry.py", "dvc.yaml"}
