"""Write a Slurm array job that makes the shards of a dataset; `dvc repro` then finds them made.

Run it where the model and the corpus are built, and hand the script to `sbatch`. It has the knobs of generate
(or baseline) in params.yaml. Of N tasks, task I makes the shards I, I + N, and so on; tasks that have nothing
left to do are not in the array. Run it again after a job that failed: what is finished stays so.
"""

import shlex
import sys
from itertools import groupby
from pathlib import Path

import click

from stages import params
from stages.core import layout
from stages.core.files import write_text
from stages.core.stage import main
from stages.engines.jobs import items, shared

SCRIPT = """#!/bin/bash
{options}
# {open} of {shards} shards are to be made.
cd {root} || exit 1
exec {python} -m stages shard {place} --part "$SLURM_ARRAY_TASK_ID" --of {tasks}
"""
LARGEST_ARRAY = 1000  # Slurm's own limit, unless its MaxArraySize was raised


def write(dataset: str, stage: str, tasks: int, at_once: int, options: list[str]) -> Path | None:
    """Lay the shards out and write the script; its path, or None if all of them are made.

    `stage` is generate or baseline; of the array's `tasks` at most `at_once` run side by side; `options` are
    lines for `#SBATCH --`. Raises UserError where the stage has no block for the dataset, or could not run.
    """
    from stages.generate import plan

    knobs = params.knobs_of(dataset, stage, params.check())
    model = layout.base_model(knobs.base) if stage == "baseline" else layout.model(dataset, "hf")
    scratch, job = plan(stage, dataset, model, knobs)
    place = shared.place_of(scratch)
    shared.collect(scratch, place, job)
    unfinished = [number for number, item in enumerate(job.items) if not items.is_finished(scratch, item)]
    if not unfinished:
        return None
    shared.publish(scratch, place, job)
    tasks = min(tasks, len(job.items), LARGEST_ARRAY)
    settings = {
        "job-name": f"{stage}-{dataset}",
        "array": f"{ranges(sorted({number % tasks for number in unfinished}))}%{at_once}",
        "output": f"{layout.SCRATCH.resolve()}/slurm-{stage}-{dataset}-%a.log",
    }
    lines = [*(f"{name}={value}" for name, value in settings.items()), "requeue", *options]
    script = layout.SCRATCH / f"slurm-{stage}-{dataset}.sh"
    text = SCRIPT.format(
        options="\n".join(f"#SBATCH --{line}" for line in lines),
        open=len(unfinished),
        shards=len(job.items),
        root=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        place=shlex.quote(place),
        tasks=tasks,
    )
    write_text(script, text)
    return script


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as Slurm writes them: 0-3,7,9-10."""
    # Those of one run are as far from their places.
    groups = groupby(enumerate(numbers), lambda item: item[1] - item[0])
    runs = ([number for _, number in group] for _, group in groups)
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--stage", type=click.Choice(["generate", "baseline"]), default="generate", show_default=True)
@click.option("--tasks", type=click.IntRange(1), default=LARGEST_ARRAY, help="of the array; else one a shard")
@click.option("--at_once", type=click.IntRange(1), default=50, show_default=True, help="tasks side by side")
@click.option(
    "--cpus", "cpus_per_task", type=click.IntRange(1), default=2, show_default=True, help="cores of a task"
)
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of a task")
@click.option("--memory", "mem", default="8G", show_default=True, help="of a task")
@click.option("--time", default="04:00:00", show_default=True, help="most time of a task")
@click.option("--sbatch", multiple=True, help="another option of sbatch, as in --sbatch account=mine")
@main
def cli(
    dataset: str, stage: str, tasks: int, at_once: int, gpus: int, sbatch: tuple[str, ...], **amounts: object
) -> None:
    options = [*(f"{name.replace('_', '-')}={amount}" for name, amount in amounts.items()), *sbatch]
    options += [f"gres=gpu:{gpus}"] if gpus else []
    script = write(dataset, stage, tasks, at_once, options)
    if script is None:
        print(f"all shards are made; go on with: dvc repro {stage}@{dataset}")
    else:
        print(f"submit it with `sbatch {script}`; when it ended, go on with: dvc repro {stage}@{dataset}")
