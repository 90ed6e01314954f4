"""One page that shows a dataset's run: `reports/<dataset>/report.html`, self-contained.

Reads the figures that the stages left in `reports/<dataset>/`, the loss curve in `models/<dataset>/adapter/`,
dvc.lock and the git commit, and nothing else; sections without figures are left out. The same inputs at the
same commit give the same bytes. Also writes `reports/<dataset>/plots/loss.json` for `dvc plots`.
"""

from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.stage import Knobs, stage

HERE = Path(__file__).parent
TEMPLATES = (HERE / "reporting", HERE / "kinds/xc/parts", HERE / "kinds/skills")
STYLE = "style.css.j2"
SECTIONS = (
    "overview.html.j2",
    "samples.html.j2",
    "report.html.j2",
    "run.html.j2",
    "labels.html.j2",
    "origin.html.j2",
)


class ReportKnobs(Knobs):
    pass


@stage("report", ReportKnobs)
def command(dataset: str, knobs: ReportKnobs) -> dict:
    return write_page(dataset)


def write_page(dataset: str) -> dict:
    """Write page and loss plot; returns the figures of the stage. Raises UserError where there is nothing."""
    from stages.core.files import read_json, read_jsonl, write_json, write_text

    reports = layout.reports(dataset)

    def read(name: str):
        return read_json(reports / name) if (reports / name).is_file() else None

    figures = {path.stem: read_json(path) for path in sorted(reports.glob("*.json"))}
    times = {path.stem: read_json(path) for path in sorted((reports / "time").glob("*.json"))}
    if not figures.keys() - {"report"}:
        raise UserError(f"{reports}: no figures of any stage; run `make {dataset}`")
    curve_path = layout.model(dataset, "adapter") / "curve.jsonl"
    curve = read_jsonl(curve_path, ("step",)) if curve_path.is_file() else []
    trained = [row for row in curve if "train_loss" in row]  # `dvc plots` wants the same keys in every row
    write_json(reports / "plots" / "loss.json", trained)
    page = render(dataset, figures, times, curve, read("plots/lengths.json"), provenance(dataset))
    write_text(reports / "report.html", page)
    return {"bytes": len(page.encode("utf-8"))}


def provenance(dataset: str) -> dict:
    """Commit, whether code or settings differ from it, and the md5s in dvc.lock of the dataset's outputs."""
    from stages.core import versions

    mine = {
        path: md5
        for path, md5 in sorted(versions.locked_hashes().items())
        if Path(path).parts[1:2] == (dataset,) and Path(path).parts[0] in ("data", "models", "prompts")
    }
    own = (":!dvc.lock", ":!reports")  # what the run itself is writing
    changes = versions.git("status", "--porcelain", "--untracked-files=no", "--", ".", *own)
    return {
        "commit": versions.git("rev-parse", "HEAD"),
        "dirty": bool(changes),
        "hashes": mine,
        "model": mine.get(layout.model(dataset, "hf").as_posix()),
    }


def render(dataset: str, figures: dict, times: dict, curve: list, lengths: list | None, origin: dict) -> str:
    """The page's HTML, with a section for whatever there are figures of; a pure function."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from stages.kinds.skills import report as report_calls
    from stages.reporting import page as report

    strict = {"autoescape": True, "undefined": StrictUndefined, "loader": FileSystemLoader(TEMPLATES)}
    environment = Environment(**strict, trim_blocks=True, lstrip_blocks=True)
    metrics = figures.get("metrics")
    evaluated = figures.get("evaluate") or {}
    teachers = evaluated.get("teacher") or {}
    task = report.task_of(figures)
    return environment.get_template("page.html.j2").render(
        style=STYLE,
        sections=SECTIONS,
        dataset=dataset,
        task=task,
        words=report.WORDS[task],
        noun="calls" if task == "skills" else task,
        teachers=list(teachers),
        stand_in=any(name.startswith("embedded") for name in teachers),
        evaluated=evaluated,
        headline=report.headline(figures, metrics),
        funnel=report.funnel(figures),
        measures=report.measures(metrics),
        loss=report.loss(curve, figures.get("finetune")),
        histograms=report.histograms(figures.get("tokenize"), lengths),
        samples=report.samples(figures.get("samples"), task),
        calls=report_calls.calls(figures),
        mapping=report.mapping(figures.get("map")),
        gain=report.gain(figures.get("xc"), figures.get("pack")),
        cost=report.cost(figures),
        times=report.durations(times),
        origin=origin,
    )


if __name__ == "__main__":
    command()
