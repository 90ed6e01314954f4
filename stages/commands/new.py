"""Give a dataset its place: a folder of prompts with its params, and a line under `vars` in dvc.yaml.

Where there is no folder prompts/<dataset>/, it is copied from prompts/example/, or from that of the dataset
OTHER (`--like`). Its params.yaml is listed in dvc.yaml, and so is prompts/bases/<name>.yaml of a base model
that it names and no file makes yet. With `--path` the folder that it reads is set in its params. Nothing else
is ever overwritten.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages import params
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.layout import DVC
from stages.core.stage import main

PROMPTS = Path("prompts")
EXAMPLE = PROMPTS / "example"
SHARED_BASES = PROMPTS / "bases"
NAME = re.compile(r"[a-z][a-z0-9_-]*")
TAKEN = set(
    "bench check cost demo evaluate help lint long new pull push register review serve slurm store test ui "
    "base bases code example shipped sources teacher".split()
)


def scaffold(dataset: str, folder: str | None = None, like: str | None = None) -> list[str]:
    """Make what `dataset` lacks; returns what was done, one line each. Raises UserError."""
    check_name(dataset, like)
    done = []
    prompts = PROMPTS / dataset
    own = prompts / "params.yaml"
    if not prompts.exists():
        copy_example(prompts, like)
        done.append(f"made {prompts}/: edit params.yaml, teacher.md and student.md")
    if not own.is_file():
        raise UserError(f"{own}: no such file; copy {EXAMPLE}/params.yaml and edit it")
    wanted = [own, *shared_bases(own)]
    before = read_text(DVC)
    try:
        listed = [str(path) for path in wanted if add_to_graph(path)]
        blocks = params.check()
    except UserError:
        write_text(DVC, before)  # what cannot be built does not take part
        raise
    if listed:
        done.append(f"added to {DVC}, vars: {', '.join(listed)}")
    stage = source_stage(dataset, blocks)
    if folder is not None and set_folder(own, dataset, folder):
        done.append(f"set {stage}.{dataset}.path in {own} to {folder}")
        blocks = params.blocks()
    path = blocks[stage][dataset].get("path") if stage else None
    if path is not None and not Path(path).exists():
        done.append(
            f"{path} does not exist yet: put your files there, or set {stage}.{dataset}.path in {own}"
        )
    return done


def check_name(dataset: str, like: str | None) -> None:
    if not NAME.fullmatch(dataset):
        raise UserError(
            f"'{dataset}' cannot name a dataset: a lowercase letter, then letters, digits, - and _"
        )
    if dataset in TAKEN:
        raise UserError(
            f"'{dataset}' cannot name a dataset: make or a folder of data/ or models/ has that name"
        )
    if like is not None and not (NAME.fullmatch(like) and PROMPTS / like != EXAMPLE):
        raise UserError(f"'{like}' is no dataset to begin with a copy of; name one of prompts/, such as otto")


def copy_example(prompts: Path, like: str | None) -> None:
    """Copy the folder of an example, its name replaced in params.yaml by the new one."""
    example, name = (PROMPTS / like, like) if like else (EXAMPLE, "DATASET")
    if not (example / "params.yaml").is_file():
        raise UserError(f"{example}/params.yaml: no such file, so nothing can be made like '{like}'")
    shutil.copytree(example, prompts)
    text = read_text(prompts / "params.yaml")
    write_text(prompts / "params.yaml", re.sub(rf"(?<![a-z]){name}(?![a-z])", prompts.name, text))
    for name in ("decisions.jsonl", "eval_rows.jsonl"):
        if (prompts / name).exists():
            write_text(prompts / name, "")  # they were about the other's candidates and documents


def shared_bases(own: Path) -> list[Path]:
    """The files of base models that the blocks of `own` name and no file makes yet."""
    blocks = params.blocks()
    made = {name for stage in params.BASE_STAGES for name in blocks[stage]}
    named = {
        knobs.get("base")
        for datasets in params.read(own).values()
        for knobs in datasets.values()
        if isinstance(knobs, dict)
    }
    return [path for path in sorted(SHARED_BASES.glob("*.yaml")) if path.stem in named - made]


def add_to_graph(path: Path) -> bool:
    """List a file under `vars` in dvc.yaml, as its last item; False if it is there. All other lines stay."""
    if str(path) in (params.graph().get("vars") or ()):
        return False
    lines = read_text(DVC).splitlines()
    start = next((n for n, line in enumerate(lines) if re.match(r"vars:", line)), None)
    if start is None:
        raise UserError(f"{DVC}: no line `vars:`; add one, and `  - {path}` below it")
    stop = next(n for n, line in enumerate(lines[start + 1 :], start + 1) if re.match(r"\S", line))
    lines.insert(stop, f"  - {path}")
    write_text(DVC, "\n".join(lines) + "\n")
    return True


def source_stage(dataset: str, blocks: dict) -> str | None:
    """The stage that reads the dataset's own files."""
    stages = (stage.name for stage in params.stages_of(dataset, blocks) if stage.reads_source)
    return next(stages, None)


def set_folder(own: Path, dataset: str, folder: str) -> bool:
    """Set the path that the dataset is read from; True if that changed anything.

    Raises UserError where no line has it.
    """
    stage = source_stage(dataset, params.blocks())
    lines = read_text(own).splitlines()
    knobs: Any = YAML().load("\n".join(lines)).get(stage, {}).get(dataset) or {}
    place = knobs.lc.key("path")[0] if "path" in knobs else 0
    if not lines[place].startswith("    path:"):
        raise UserError(f"{own}: {stage}.{dataset} has no line `path:`; add one with your folder")
    before, lines[place] = lines[place], f"    path: {json.dumps(folder)}"
    write_text(own, "\n".join(lines) + "\n")
    return before != lines[place]


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--path", "folder", help="the dataset's folder, for a dataset that reads one")
@click.option("--like", help="a dataset of prompts/ to begin with a copy of, such as otto")
@main
def cli(dataset: str, folder: str | None, like: str | None) -> None:
    for line in scaffold(dataset, folder, like) or [f"{dataset} is in place"]:
        print(line)
