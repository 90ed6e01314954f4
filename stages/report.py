"""One page that shows a dataset's run: `reports/<dataset>/report.html`, self-contained.

Reads the figures in `reports/<dataset>/figures/` of the stages that the dataset takes part in, by its params,
dvc.lock and the git commit, and nothing else; sections without figures are left out. The same inputs at the
same commit give the same bytes.
"""

import importlib
from pathlib import Path

from stages import params
from stages.core import layout, versions
from stages.core.errors import UserError
from stages.core.files import read_json, write_text
from stages.core.stage import NoKnobs
from stages.kinds import registry
from stages.reporting.page import Report, render


def run(dataset: str, knobs: NoKnobs) -> None:
    """Write the page. Raises UserError where there is nothing to show.

    It leaves no figures: in the folder that it reads they would make it stale for ever.
    """
    blocks = params.blocks()
    figures, times = read_figures(dataset, declared(dataset, blocks))
    if not figures:
        raise UserError(f"{layout.figures(dataset)}: no figures of any stage; run `make {dataset}`")
    report = kind_report(dataset, blocks, figures)
    page = render(dataset, figures, times, report, provenance(dataset))
    write_text(layout.reports(dataset) / "report.html", page)


def declared(dataset: str, blocks: dict) -> list[Path]:
    """The files of figures of the stages that the dataset takes part in, by dvc.yaml, in the chain's order.

    A stage that a dataset left has its old figures in the folder still: they are not its own any more.
    """
    graph = params.graph()["stages"]
    entries = (graph[stage.name]["do"] for stage in params.stages_of(dataset, blocks))
    outputs = (
        out for entry in entries for part in ("metrics", "outs", "plots") for out in entry.get(part, ())
    )
    paths = (next(iter(out)) if isinstance(out, dict) else out for out in outputs)
    files = (Path(path.replace("${key}", dataset)) for path in paths)
    return [path for path in files if layout.figures(dataset) in path.parents and path.is_file()]


def read_figures(dataset: str, files: list[Path]) -> tuple[dict[str, object], dict[str, dict]]:
    """(the figures by file name, such as "plots/lengths"; the timings by stage of the chain)."""
    folder = layout.figures(dataset)
    timings = {path.stem: read_json(path) for path in files if path.parent.name == "time"}
    others = (path for path in files if path.parent.name != "time")
    return {path.relative_to(folder).with_suffix("").as_posix(): read_json(path) for path in others}, timings


def kind_report(dataset: str, blocks: dict, figures: dict) -> Report:
    """What the dataset's kind says on its page; a plain one where no kind has a stage of it."""
    kinds = registry.kinds_of({stage.name for stage in params.stages_of(dataset, blocks)})
    modules = [kind.report for kind in kinds if kind.report]
    return importlib.import_module(modules[0]).report(figures) if modules else Report()


def provenance(dataset: str) -> dict:
    """Commit, whether code or settings differ from it, and the md5s in dvc.lock of the dataset's outputs."""
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
