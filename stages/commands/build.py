"""Build one dataset: check params and its source, make its base, walk its chain, and say what came out.

A dataset of prompts/ that does not take part yet is listed in dvc.yaml, if its own files are there. What is
printed is kept in logs/, and MLflow has one run for the whole build.

Safe to run for several datasets at once, from several shells or with `make -j2 pydoc otto`: DVC locks the
files of a stage while it runs and refuses, rather than waits, when another process has one that it needs.
What datasets share, the record of the code and the base model, has locks of its own (`in_use`), and the rest
touches this dataset only.
"""

import fcntl
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from stages import params
from stages.commands import new
from stages.core import layout, tracking
from stages.core.errors import UserError
from stages.core.files import read_json, write_text
from stages.core.stage import main
from stages.core.terminal import run_logged
from stages.core.versions import locked_hashes
from stages.kinds.kind import Blocks
from stages.kinds.registry import KINDS, nearest

LOCKS, LOGS = Path(".dvc/tmp"), Path("logs")


def build(dataset: str, folder: str | None = None) -> None:
    """Bring every stage of `dataset` up to date; `folder` is where its own files are, where that changes.

    Raises UserError when it is unknown or its files lack something; exits with 2 when a stage fails.
    """
    if not (new.PROMPTS / dataset).is_dir():
        known = params.datasets(params.blocks())
        raise UserError(
            f"{layout.PARAMS}: no dataset is called '{dataset}'{nearest(dataset, known)}; `make new "
            f"DATASET={dataset}` makes one"
        )
    for line in new.join(dataset, folder, build=True):
        print(line, flush=True)
    blocks = params.blocks()
    upon = params.before(dataset, blocks)
    wanted = bases_of(dataset, upon, blocks)
    bases = {f"{stage}@{name}" for stage in params.BASE_STAGES for name in blocks[stage] if name in wanted}
    bases -= set(upon)  # students of other datasets come after what these are made from
    log, before = new_log(dataset), locked_hashes()
    with tracking.stage_run(tracking.BUILD, dataset, all_knobs(dataset, blocks)) as record:
        with in_use(layout.CODE_STAGE, *sorted(bases), log=log):
            repro("-s", "--glob", *upon, f"*@{dataset}", log=log)
        figures = layout.figures(dataset) / "metrics.json"
        changed = locked_hashes() != before
        record((read_json(figures) if figures.is_file() else {}) if changed else None, {})


def new_log(dataset: str) -> Path:
    """The file that keeps what a build prints; the command is its first line."""
    LOGS.mkdir(exist_ok=True)
    log = LOGS / f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    write_text(log, f"$ python -m stages {shlex.join(sys.argv[1:])}\n")
    return log


def all_knobs(dataset: str, blocks: Blocks) -> dict[str, object]:
    """Every knob of a dataset's stages, also those that keep their default, as `finetune.lora_r`."""
    return {
        f"{stage.name}.{name}": value
        for stage in params.stages_of(dataset, blocks)
        if not stage.block
        for name, value in params.knobs_of(dataset, stage.name, blocks).model_dump().items()
    }


def bases_of(dataset: str, upon: list[str], blocks: Blocks) -> set[str]:
    """The names of the models that stages of `dataset`, and of those it is built `upon`, take.

    They are in a knob `base` or `lm`, or in a path in models/base/.
    """
    names = {dataset, *(target.split("@")[1] for target in upon)}
    knobs = [item for block in blocks.values() for name in names for item in block.get(name, {}).items()]
    folder = layout.base_model("").as_posix() + "/"
    paths = {value.removeprefix(folder) for _, value in knobs if str(value).startswith(folder)}
    return paths | {value for name, value in knobs if name in ("base", "lm")}


@contextmanager
def in_use(*stages: str, log: Path | None = None) -> Iterator[None]:
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
                repro(*stages, log=log)
            for lock in reading:
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def repro(*arguments: str, log: Path | None = None) -> None:
    """Run `dvc repro`. Exits with 2 where a stage fails, which has told why."""
    if dvc("repro", *arguments, log=log):
        sys.exit(2)


def dvc(*arguments: str, log: Path | None = None) -> int:
    """Run DVC; returns its exit code. What it prints is kept in `log`, too."""
    command = [sys.executable, "-m", "stages.core.dvc", "--wait-for-lock", *arguments]
    return run_logged(command, log) if log else subprocess.run(command).returncode


def headline(dataset: str) -> str:
    """The report's path and the figures to look at first, as text."""
    folder = layout.figures(dataset)
    figures = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    scores, more = figures.get("metrics"), [line for kind in KINDS for line in kind.summary(figures)]
    page = f"report: {layout.reports(dataset) / 'report.html'}"
    if not scores:
        return "\n".join([*more, page]) if more else f"{dataset} is built"
    shown = [name for kind in KINDS for name in kind.headline if any(name in own for own in scores.values())]
    widths = [max(20, len(name) + 2) for name in shown]
    lines = [f"{'':16}" + "".join(f"{name:>{width}}" for name, width in zip(shown, widths, strict=True))]
    for system, measures in scores.items():
        means = ((measures.get(name) or {}).get("mean") for name in shown)
        texts = ("–" if mean is None else f"{mean:.3f}" for mean in means)
        cells = (f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        lines.append(f"{system:16}" + "".join(cells))
    return "\n".join([*lines, *more, page])


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--path", "folder", help="the dataset's folder, in place of the one in its params")
@main
def cli(dataset: str, folder: str | None) -> None:
    build(dataset, folder)
    print(headline(dataset))
