"""Build one dataset: check params.yaml and its source, make its base, walk its chain, and say what came out.

Run as `python -m stages.build DATASET`. Safe to run for several datasets at once, from several shells or with
`make -j2 pydoc otto`: DVC locks the files of a stage while it runs and refuses, rather than waits, when
another process has one that it needs. What datasets share, the record of the code and the base model, has
locks of its own (`in_use`), and the rest touches this dataset only.
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
from stages.core.stage import main

SHOWN = (  # of metrics.json, whatever the kind of task
    *("hit_at_10", "hit_at_10_nameless", "groundedness", "format_validity", "rouge_l"),
    *("normalised_match_macro", "ast_match", "valid_call", "other_recall", "other_precision"),
    "latency_ms_p50",
)
LOCKS = Path(".dvc/tmp")


def build(dataset: str) -> None:
    """Bring every stage of `dataset` up to date. Raises UserError when it is unknown or a stage fails."""
    blocks = params.check()
    if not any(dataset in blocks[stage] for stage in params.STAGES if stage not in params.BASES):
        known = sorted(set().union(*(blocks[stage] for stage in params.STAGES if stage not in params.BASES)))
        raise UserError(f"params.yaml: no dataset is called '{dataset}'{params.nearest(dataset, known)}")
    if dataset in blocks["corpus_xc"]:
        check_source(blocks["corpus_xc"][dataset])
    briefs = blocks["candidates"].get(dataset, {}).get("briefs")
    wanted = {blocks[stage][dataset].get("base") for stage in params.STAGES if dataset in blocks[stage]}
    bases = [f"{stage}@{name}" for stage in params.BASES for name in blocks[stage] if name in wanted]
    with in_use("code", *bases):
        if briefs:
            repro("-s", f"skills@{dataset}")
            repro("-s", "--glob", f"*@{briefs}")
        repro("-s", "--glob", f"*@{dataset}")


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


def check_source(block: dict) -> None:
    """Raises UserError with every file that a source lacks: known before a base model is fetched for it."""
    from stages.kinds.xc import corpus_xc

    corpus_xc.check_source(corpus_xc.CorpusXcKnobs(**block))


def repro(*arguments: str) -> None:
    if dvc("repro", *arguments):
        raise UserError("a stage failed: the reason is above; what was finished is kept")


def dvc(*arguments: str) -> int:
    """Run DVC; returns its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "stages.commands.dvc", "--wait-for-lock", *arguments]
    ).returncode


def headline(dataset: str) -> str:
    """The report's path and the figures to look at first, as text."""
    from stages.core.files import read_json

    directory = layout.reports(dataset)
    if not (directory / "metrics.json").is_file():
        return f"{dataset} is built"
    scores = read_json(directory / "metrics.json")
    shown = [name for name in SHOWN if name in scores["student"]]
    widths = [max(20, len(name) + 2) for name in shown]
    lines = [f"{'':16}" + "".join(f"{name:>{width}}" for name, width in zip(shown, widths, strict=True))]
    for who, measures in scores.items():
        found = ((measures[name] or {}).get("mean") for name in shown)
        means = ("–" if mean is None else f"{mean:.3f}" for mean in found)
        cells = (f"{mean:>{width}}" for mean, width in zip(means, widths, strict=True))
        lines.append(f"{who:16}" + "".join(cells))
    return "\n".join([*lines, *gain(directory), f"report: {directory / 'report.html'}"])


def gain(directory: Path) -> list[str]:
    """What the mapped labels bring to each model of extreme classification, a line each, if it is known."""
    from stages.core.files import read_json

    if not (directory / "xc.json").is_file():
        return []
    lines = []
    for model, found in read_json(directory / "xc.json").items():
        difference = found["difference"]["R@10"]
        lines.append(
            f"{model}: R@10 {found['original']['R@10']:.3f} with the known labels, "
            f"{found['augmented']['R@10']:.3f} with the mapped ones too "
            f"({difference['low']:+.3f} to {difference['high']:+.3f})"
        )
    return lines


@click.command(help=__doc__)
@click.argument("dataset")
@main
def cli(dataset: str) -> None:
    build(dataset)
    print(headline(dataset))


if __name__ == "__main__":
    cli()
