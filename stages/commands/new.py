"""Give a dataset its place: a folder of prompts, and its blocks in params.yaml.

Run as `python -m stages.new DATASET [--path FOLDER] [--like OTHER]` (`make new DATASET=name`). Where there is
no folder prompts/<dataset>/, it is copied from prompts/example/, or from that of the dataset OTHER. Where
params.yaml has no block of the dataset, the blocks of prompts/<dataset>/params.yaml are added, comments and
anchors kept. A block that is there already, such as that of a base model which another dataset brought, is
not added again. Nothing is ever overwritten.
"""

import json
import re
import shutil
from pathlib import Path

import click

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.layout import PARAMS
from stages.core.stage import main
from stages.params import load, read
from stages.teacher.prices import PRICES

EXAMPLE = Path("prompts/example")
NAME = re.compile(r"[a-z][a-z0-9_-]*")
TAKEN = set(
    "bench cost demo evaluate help lint new pull push register review serve slurm store test ui "
    "base code example shipped sources teacher".split()
)


def scaffold(dataset: str, folder: str | None = None, like: str | None = None) -> list[str]:
    """Make what `dataset` lacks; returns what was done, one line each. Raises UserError."""
    if not NAME.fullmatch(dataset):
        raise UserError(
            f"'{dataset}' cannot name a dataset: a lowercase letter, then letters, digits, - and _"
        )
    if dataset in TAKEN:
        raise UserError(
            f"'{dataset}' cannot name a dataset: make or a folder of data/ or models/ has that name"
        )
    if like is not None and not (NAME.fullmatch(like) and like != EXAMPLE.name):
        raise UserError(f"'{like}' is no dataset to begin with a copy of; name one of prompts/, such as otto")
    done = []
    prompts = layout.prompt(dataset, "student").parent
    if not prompts.exists():
        example, name = (EXAMPLE.parent / like, like) if like else (EXAMPLE, "DATASET")
        if not (example / "params.yaml").is_file():
            raise UserError(f"{example}/params.yaml: no such file, so nothing can be made like '{like}'")
        shutil.copytree(example, prompts)
        blocks = prompts / "params.yaml"
        write_text(blocks, re.sub(rf"(?<![a-z]){name}(?![a-z])", dataset, read_text(blocks)))
        if (prompts / "decisions.jsonl").exists():
            write_text(prompts / "decisions.jsonl", "")  # they were about the other's candidates
        done.append(f"made {prompts}/: edit teacher.md and student.md")
    present = [stage for stage, datasets in load().items() if dataset in datasets]
    template = prompts / "params.yaml"
    if not present:
        if not template.is_file():
            raise UserError(f"{template}: no such file; copy {EXAMPLE}/params.yaml and edit it")
        added = add_blocks(PARAMS, template)
        done.append(f"added {dataset} to params.yaml: {', '.join(added)}")
    if folder is not None and set_folder(PARAMS, dataset, folder):
        done.append(f"set {reader(dataset)}.{dataset}.path in params.yaml to {folder}")
    stage = reader(dataset)
    path = load().get(stage, {}).get(dataset, {}).get("path")
    if path is not None and not Path(path).exists():
        done.append(
            f"{path} does not exist yet: put your files there, or set {stage}.{dataset}.path in params.yaml"
        )
    return done


def reader(dataset: str) -> str:
    """The stage that reads the dataset's source."""
    readers = (stage for stage in ("corpus_xc", "skills") if dataset in load().get(stage, {}))
    return next(readers, "corpus")


def sections(lines: list[str]) -> dict[str, tuple[int, int]]:
    """Top-level keys of YAML lines, each with the half-open range of its indented lines."""
    starts = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
    found = {}
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        indented = [i for i in range(start + 1, stop) if re.match(r"\s+\S", lines[i])]
        found[lines[start].split(":")[0]] = (start + 1, indented[-1] + 1 if indented else start + 1)
    return found


def add_blocks(params: Path, template: Path) -> list[str]:
    """Add the blocks of `template` to `params` line by line, so that comments, anchors and layout stay.

    Returns the stages that got a block: not those that have the same block already. Raises UserError where
    the result would not be valid, or where there is another block of that name.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    wanted, present = load(template), load(params)
    if PRICES in read(template):
        raise UserError(f"{template}: the block '{PRICES}' is for all datasets; move it to {params}")
    source, lines = read_text(template).splitlines(), read_text(params).splitlines()
    added = []
    for stage, (start, stop) in sections(source).items():
        blocks = named(source[start:stop])
        if blocks.keys() != wanted[stage].keys():
            raise UserError(f"{template}, {stage}: give each block a line of its own, below `{stage}:`")
        there = present.get(stage, {})
        for name in blocks.keys() & there.keys():
            if wanted[stage][name] != there[name]:
                raise UserError(
                    f"{params}: there is another {stage}.{name} than in {template}; make them the same, or "
                    "rename one"
                )
        new = [line for name, block in blocks.items() if name not in there for line in block]
        if not new:
            continue
        added.append(stage)
        if stage not in sections(lines):
            lines += ["", f"{stage}:"]
        at, end = sections(lines)[stage]
        lines[at - 1] = re.sub(r"^(\w+:)\s*\{\s*\}", r"\1", lines[at - 1])
        lines[end:end] = new
    made = "\n".join(lines) + "\n"
    try:
        after = YAML(typ="safe").load(made)
    except YAMLError:
        after = {}
    for stage in added:
        if (after.get(stage) or {}) != present.get(stage, {}) | wanted[stage]:
            raise UserError(f"{params}, {stage}: write each block on a line of its own, below `{stage}:`")
    write_text(params, made)
    return added


def named(lines: list[str]) -> dict[str, list[str]]:
    """The lines of a section by the block they belong to; comments belong to the block after them."""
    blocks: dict[str, list[str]] = {}
    waiting, own = [], []
    for line in lines:
        if line.startswith("  #"):
            waiting.append(line)
            continue
        if found := re.match(r"  ([^\s:]+):", line):
            own = blocks.setdefault(found[1], [])
        own += [*waiting, line]
        waiting = []
    own += waiting
    return blocks


def set_folder(params: Path, dataset: str, folder: str) -> bool:
    """Set the path that the dataset is read from; True if that changed anything.

    Raises UserError where no line has it.
    """
    stage = reader(dataset)
    lines = read_text(params).splitlines()
    start, stop = sections(lines)[stage]
    inside = False
    for i in range(start, stop):
        if re.match(r"  \S", lines[i]):
            inside = lines[i].startswith(f"  {dataset}:")
        if inside and re.match(r"    path:", lines[i]):
            before, lines[i] = lines[i], f"    path: {json.dumps(folder)}"
            write_text(params, "\n".join(lines) + "\n")
            return before != lines[i]
    raise UserError(f"{params}: {stage}.{dataset} has no line `path:`; add one with your folder")


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--path", "folder", help="the dataset's folder, for a dataset that reads one")
@click.option("--like", help="a dataset of prompts/ to begin with a copy of, such as otto")
@main
def cli(dataset: str, folder: str | None, like: str | None) -> None:
    for line in scaffold(dataset, folder, like) or [f"{dataset} is in place"]:
        print(line)


if __name__ == "__main__":
    cli()
