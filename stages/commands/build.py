"""Build one dataset: check params and its source, make its base, walk its chain, and say what came out.

Safe to run for several datasets at once, from several shells or with `make -j2 pydoc otto`: DVC locks the
files of a stage while it runs and refuses, rather than waits, when another process has one that it needs.
What datasets share, the record of the code and the base model, has locks of its own (`in_use`), and the rest
touches this dataset only.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from stages import params
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.stage import main
from stages.kinds.kind import Blocks
from stages.kinds.registry import KINDS, nearest

LOCKS = Path(".dvc/tmp")


def build(dataset: str) -> None:
    """Bring every stage of `dataset` up to date. Raises UserError when it is unknown or a stage fails."""
    blocks = params.check()
    if dataset not in (known := params.datasets(blocks)):
        raise UserError(
            f"{layout.PARAMS}: no dataset is called '{dataset}'{nearest(dataset, known)}; `make new "
            f"DATASET={dataset}` makes one"
        )
    check_source(dataset, blocks)
    wanted = bases_of(dataset, blocks)
    bases = [f"{stage}@{name}" for stage in params.BASE_STAGES for name in blocks[stage] if name in wanted]
    with in_use(layout.CODE_STAGE, *bases):
        for target in [*params.before(dataset, blocks), f"*@{dataset}"]:
            repro("-s", "--glob", target)


def bases_of(dataset: str, blocks: Blocks) -> set[str]:
    """The names of the models that stages of `dataset` take: knob `base`, or a path in models/base/."""
    knobs = [
        item for stage in params.stages_of(dataset, blocks) for item in blocks[stage.name][dataset].items()
    ]
    folder = layout.base_model("").as_posix() + "/"
    paths = {value.removeprefix(folder) for _, value in knobs if str(value).startswith(folder)}
    return paths | {value for name, value in knobs if name == "base"}


@contextmanager
def in_use(*stages: str) -> Iterator[None]:
    """Bring what datasets share up to date; other builds do not make it anew while this one reads it.

    A repro of a stage that is up to date fails, too, where another process reads its outputs: DVC claims them
    for writing before it looks. So it is asked for only where the status, which claims nothing, wants it, and
    when no other build is reading.
    """
    LOCKS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        reading = [held.enter_context(open(LOCKS / f"retort-{stage}.lock", "w")) for stage in stages]
        with open(LOCKS / "retort.lock", "w") as looking:
            fcntl.flock(looking, fcntl.LOCK_EX)
            if dvc("status", "--quiet", "--with-deps", *stages):
                for lock in reading:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                repro(*stages)
            for lock in reading:
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def check_source(dataset: str, blocks: Blocks) -> None:
    """Raises UserError with all that the user's own files lack: before a base model is fetched for them."""
    for stage in params.stages_of(dataset, blocks):
        if stage.reads_source and (check := getattr(stage.load(), "check_source", None)):
            check(stage.knobs(**blocks[stage.name][dataset]))


def repro(*arguments: str) -> None:
    if dvc("repro", *arguments):
        raise UserError("a stage failed: the reason is above; what was finished is kept")


def dvc(*arguments: str) -> int:
    """Run DVC; returns its exit code."""
    return subprocess.run([sys.executable, "-m", "stages.core.dvc", "--wait-for-lock", *arguments]).returncode


def headline(dataset: str) -> str:
    """The report's path and the figures to look at first, as text."""
    folder = layout.figures(dataset)
    figures = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    scores = figures.get("metrics")
    if not scores:
        return f"{dataset} is built"
    shown = [name for kind in KINDS for name in kind.headline if any(name in own for own in scores.values())]
    widths = [max(20, len(name) + 2) for name in shown]
    lines = [f"{'':16}" + "".join(f"{name:>{width}}" for name, width in zip(shown, widths, strict=True))]
    for system, measures in scores.items():
        means = ((measures.get(name) or {}).get("mean") for name in shown)
        texts = ("–" if mean is None else f"{mean:.3f}" for mean in means)
        cells = (f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        lines.append(f"{system:16}" + "".join(cells))
    more = [line for kind in KINDS for line in kind.summary(figures)]
    return "\n".join([*lines, *more, f"report: {layout.reports(dataset) / 'report.html'}"])


@click.command(help=__doc__)
@click.argument("dataset")
@main
def cli(dataset: str) -> None:
    build(dataset)
    print(headline(dataset))
