"""Give a dataset its place: a folder of prompts with its params, and a line under `vars` in dvc.yaml.

Where there is no folder prompts/<dataset>/, it is copied from prompts/example/, from that of the dataset
OTHER (`--like`), or from the example of a kind of task (`--kind`), which may build upon a dataset (`--of`).
Its params.yaml is listed in dvc.yaml, and so is prompts/bases/<name>.yaml of a base model that it names and
no file makes yet. With `--path` the folder that it reads is set in its params; for a new dataset, its columns
are guessed. Nothing else is ever overwritten, and an error leaves all as it was.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from stages import params
from stages.core.errors import UserError
from stages.core.files import read_text, write_text
from stages.core.layout import DVC
from stages.core.names import NAME, check_name
from stages.core.stage import main
from stages.core.versions import git

PROMPTS = Path("prompts")
STUDENT = re.compile("models/([^/]+)/")
EXAMPLE = PROMPTS / "example"
SHARED_BASES = PROMPTS / "bases"
KINDS = Path(__file__).parents[1] / "kinds"


def scaffold(
    dataset: str,
    folder: str | None = None,
    like: str | None = None,
    kind: str | None = None,
    of: str | None = None,
) -> list[str]:
    """Make what `dataset` lacks; returns what was done, one line each. Raises UserError."""
    check_name(dataset)
    if like is not None and not (NAME.fullmatch(like) and PROMPTS / like != EXAMPLE):
        raise UserError(f"'{like}' is no dataset to begin with a copy of; name one of prompts/, such as otto")
    prompts = PROMPTS / dataset
    if prompts.exists():
        return join(dataset, folder)
    words = {"DATASET": dataset, **({"SOURCE": of} if of else {}), **({like: dataset} if like else {})}
    with restored_on_error(DVC):
        copy_example(prompts, PROMPTS / like if like else example_of(kind, of), words)
        try:
            done = join(dataset, folder)
            if folder is not None and source_stage(dataset, params.blocks()) == "corpus":
                done += guess_columns(dataset, Path(folder))
        except BaseException:
            shutil.rmtree(prompts)
            raise
    made = ", ".join(sorted(path.name for path in prompts.iterdir() if path.suffix in (".md", ".yaml")))
    return [f"made {prompts}/: edit {made}", *done]


def example_of(kind: str | None, of: str | None) -> Path:
    """The folder to begin with a copy of. Raises UserError for a kind, or a dataset `of`, without one."""
    if kind is None and of is None:
        return EXAMPLE
    name = "example" if of is None else "example_of"
    examples = {folder.parent.name: folder for folder in sorted(KINDS.glob(f"*/{name}"))}
    if kind not in examples:
        known = " or ".join(", ".join(examples).rsplit(", ", 1))
        raise UserError(
            f"--kind: {kind!r} has no example to begin with; name {known}, or leave KIND and OF out"
        )
    if of is not None and not (PROMPTS / check_name(of) / "params.yaml").is_file():
        raise UserError(f"--of: no dataset is called '{of}': there is no {PROMPTS / of}/params.yaml")
    return examples[kind]


def join(dataset: str, folder: str | None, build: bool = False) -> list[str]:
    """List `dataset` in dvc.yaml, and set its folder; returns what was done. Raises UserError.

    With `build` it is an error, too, if its own files are not there or lack something.
    """
    own = PROMPTS / dataset / "params.yaml"
    if not own.is_file():
        raise UserError(f"{own}: no such file; copy {EXAMPLE}/params.yaml and edit it")
    done = []
    with restored_on_error(own, DVC):
        if listed := [
            str(path) for path in (*built_upon(own), own, *shared_bases(own)) if add_to_graph(path)
        ]:
            done.append(f"added to {DVC}, vars: {', '.join(listed)}")
        blocks = params.check()
        stage = source_stage(dataset, blocks)
        if folder is not None and set_folder(own, dataset, folder):
            done.append(f"set {stage}.{dataset}.path in {own} to {folder}")
            blocks = params.check()
        if build:
            check_source(dataset, blocks)
        elif stage and (path := Path(blocks[stage][dataset].get("path", "."))):
            tip = f"{path} does not exist yet: put your files there, or set {stage}.{dataset}.path in {own}"
            done += filter(None, [unshared(path) if path.exists() else tip])
    return done


@contextmanager
def restored_on_error(*files: Path) -> Iterator[None]:
    """What cannot be built does not take part: after an error the files are as they were before."""
    before = {path: read_text(path) for path in files}
    try:
        yield
    except BaseException:
        for path, text in before.items():
            if read_text(path) != text:
                write_text(path, text)
        raise


def check_source(dataset: str, blocks: dict) -> None:
    """Raises UserError with all that the user's own files lack: before a base model is fetched for them."""
    for stage in params.stages_of(dataset, blocks):
        if not stage.reads_source:
            continue
        knobs: Any = stage.knobs(**blocks[stage.name][dataset])
        if check := getattr(stage.load(), "check_source", None):
            check(knobs)
        elif knobs.path is not None and not Path(knobs.path).exists():
            raise UserError(
                f"{knobs.path} does not exist; put your files there, or say where they are: "
                f"make {dataset} FOLDER=path"
            )


def unshared(path: Path) -> str | None:
    """Why a clone would not have the source at `path`, and what to do; None where it would."""
    if not path.resolve().is_relative_to(Path.cwd()):
        return f"{path} lies outside the project, so no clone has it; copy it to data/sources/"
    by_dvc = any(Path(f"{place}.dvc").is_file() for place in (path, *path.parents))
    if by_dvc or git("ls-files", "--", str(path)) != "":  # None: there is no repository
        return None
    return f"{path} is tracked by neither git nor DVC; run `dvc add {path}`, and commit {path}.dvc"


def copy_example(prompts: Path, example: Path, words: dict[str, str]) -> None:
    """Copy the folder of an example, all of it or nothing; in params.yaml `words` become their values."""
    if not (example / "params.yaml").is_file():
        raise UserError(f"{example}/params.yaml: no such file, so nothing can be made like '{example.name}'")
    temporary = prompts.with_name(f".{prompts.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(example, temporary)
        text = read_text(example / "params.yaml")
        for name, value in words.items():
            text = re.sub(rf"(?<![a-z]){name}(?![a-z])", value, text)
        write_text(temporary / "params.yaml", text)
        for file in ("decisions.jsonl", "eval_rows.jsonl"):
            if (temporary / file).exists():
                write_text(temporary / file, "")  # they were about the other's candidates and documents
        os.replace(temporary, prompts)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def built_upon(own: Path, known: frozenset[Path] = frozenset()) -> list[Path]:
    """The params files of datasets whose rows, documents or students the blocks of `own` name, and theirs.

    Two that compare their students with each other name each other; those `known` are not looked at again.
    """
    blocks = [knobs for path in (own, *shared_bases(own)) for knobs in blocks_in(path)]
    names = {str(knobs[knob]) for knobs in blocks for knob in ("rows", "of", "asked") if knob in knobs}
    students = (STUDENT.match(str(value)) for knobs in blocks for value in knobs.values())
    names |= {student[1] for student in students if student}
    known |= {own}
    paths = [path for name in sorted(names) if (path := PROMPTS / name / "params.yaml").is_file()]
    return [path for named in paths if named not in known for path in (*built_upon(named, known), named)]


def shared_bases(own: Path) -> list[Path]:
    """The files of base models that the blocks of `own` name and no file makes yet."""
    blocks = params.blocks()
    made = {name for stage in params.BASE_STAGES for name in blocks[stage]}
    return [path for path in sorted(SHARED_BASES.glob("*.yaml")) if path.stem in bases_in(own) - made]


def bases_in(own: Path) -> set[str]:
    """The base models that the params file of a dataset names."""
    return {str(knobs["base"]) for knobs in blocks_in(own) if "base" in knobs}


def blocks_in(own: Path) -> list[dict]:
    """The knobs of each block of a params file; what has another shape is for the check to tell."""
    stages = [datasets for datasets in params.read(own).values() if isinstance(datasets, dict)]
    return [knobs for datasets in stages for knobs in datasets.values() if isinstance(knobs, dict)]


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
    """Set the path that the dataset is read from, also where it begins the paths of other knobs in the file.

    True if that changed anything. Raises as `path_line`.
    """
    blocks, text = params.blocks(), read_text(own)
    stage = str(source_stage(dataset, blocks))
    lines = text.splitlines()
    path_line(own, lines, f"{stage}.{dataset}")
    before = str(blocks[stage][dataset]["path"])
    for block, knob, value in named_in(own):
        if value == before or value.startswith(f"{before}/"):
            place = path_line(own, lines, block, knob)
            rest = value.removeprefix(before)
            now = f"{folder.rstrip('/')}{rest}" if rest else folder
            lines[place] = f"    {knob}: {json.dumps(now, ensure_ascii=False)}"
    write_text(own, "\n".join(lines) + "\n")
    return read_text(own) != text


def named_in(own: Path) -> Iterator[tuple[str, str, str]]:
    """(block such as corpus.shop, knob, value) of all texts in the blocks of a params file."""
    for stage, datasets in params.read(own).items():
        for dataset, knobs in datasets.items():
            yield from ((f"{stage}.{dataset}", *item) for item in knobs.items() if isinstance(item[1], str))


def path_line(own: Path, lines: list[str], block: str, knob: str = "path") -> int:
    """The place of the line `path:` of a block such as corpus.shop. Raises UserError where there is none."""
    stage, dataset = block.split(".")
    knobs: Any = YAML().load("\n".join(lines)).get(stage, {}).get(dataset) or {}
    place = knobs.lc.key(knob)[0] if knob in knobs else 0
    if not lines[place].startswith(f"    {knob}:"):
        raise UserError(f"{own}: {block} has no line `{knob}:`; add one with your folder")
    return place


def guess_columns(dataset: str, folder: Path) -> list[str]:
    """Add the knobs that the files of a new dataset need, each with why; returns what to tell."""
    from stages.sources.columns import guess

    if not folder.is_dir():
        return []
    own = PROMPTS / dataset / "params.yaml"
    knobs = guess(folder)
    lines = read_text(own).splitlines()
    place = path_line(own, lines, f"corpus.{dataset}")
    added = [
        f"    {name}: {json.dumps(value, ensure_ascii=False)} # guessed: {reason}"
        for name, (value, reason) in knobs.items()
    ]
    lines[place + 1 : place + 1] = added
    with restored_on_error(own):
        write_text(own, "\n".join(lines) + "\n")
        params.check()
    return [f"guessed corpus.{dataset}, look at it in {own}:", *added] if added else []


@click.command(help=__doc__)
@click.argument("dataset")
@click.option("--path", "folder", help="the dataset's folder, for a dataset that reads one")
@click.option("--like", help="a dataset of prompts/ to begin with a copy of, such as otto")
@click.option("--kind", help="a kind of task to begin with the example of: retriever")
@click.option(
    "--of", help="with --kind retriever: train on the queries that the student of this dataset wrote"
)
@main
def cli(dataset: str, folder: str | None, like: str | None, kind: str | None, of: str | None) -> None:
    for line in scaffold(dataset, folder, like, kind, of) or [f"{dataset} is in place"]:
        print(line)
