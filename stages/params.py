"""Check params.yaml, the params of every dataset and dvc.yaml before anything runs.

dvc.yaml lists under `vars` the files that take part beside params.yaml: prompts/<dataset>/params.yaml. As in
DVC, they are merged by key, and no value may stand in two of them. Each stage's knobs model is the one
definition of what it accepts; a misspelt name gets a suggestion. Exits with code 2 and one line at the first
problem.
"""

import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import click
from pydantic import ValidationError

from stages.core import layout
from stages.core.errors import UserError
from stages.core.layout import DVC, PARAMS
from stages.core.names import check_name
from stages.core.stage import Knobs, Stage, explain, main
from stages.core.yaml_text import read_yaml
from stages.kinds import registry
from stages.kinds.kind import Blocks
from stages.kinds.registry import KINDS, nearest
from stages.knobs import BASES, SPINE
from stages.teacher.prices import NO_PRICES, PRICES, price_table

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (*SPINE, *(stage for kind in KINDS for stage in kind.stages))
}
BASE_STAGES = tuple(stage.name for stage in BASES)


STUDENT = "base_student"  # the one stage of BASES whose base is made of a dataset


class Params:
    """The params of all files: `blocks`, {stage: {dataset: knobs}}, and `file_of` each (stage, dataset)."""

    def __init__(self) -> None:
        self.blocks: dict[str, dict[str, dict]] = {stage: {} for stage in STAGES}
        self.file_of: dict[tuple[str, str], Path] = {}
        self.prices: object = None

    def add(self, path: Path) -> None:
        """Take in one file. Raises UserError for a shape that no params have, or a block that is there."""
        for stage, datasets in read(path).items():
            if stage == PRICES and path == PARAMS:
                price_table(datasets, f"{path}, {PRICES}")
                self.prices = datasets
                continue
            if stage == PRICES:
                raise UserError(f"{path}: the block '{PRICES}' is for all datasets; move it to {PARAMS}")
            if stage not in STAGES or STAGES[stage].block:
                known = [PRICES, *(name for name in STAGES if not STAGES[name].block)]
                raise UserError(f"{path}: no stage is called '{stage}'{nearest(stage, known)}")
            if not isinstance(datasets, dict):
                raise UserError(
                    f"{path}, {stage}: expected datasets and their knobs; write `{stage}: {{}}` for none"
                )
            for dataset, knobs in datasets.items():
                check_name(dataset, f"{path}, {stage}: ")
                if not isinstance(knobs, dict):
                    raise UserError(
                        f"{path}, {stage}.{dataset}: expected knobs; write `{dataset}: {{}}` for defaults"
                    )
                other = self.file_of.setdefault((stage, dataset), path)
                if other != path:
                    raise UserError(
                        f"{path}, {stage}.{dataset}: {other} has a block of that name, too; delete one of "
                        "them (a base model that several datasets use belongs in a file of its own)"
                    )
                self.blocks[stage][dataset] = knobs


def read(path: Path) -> dict:
    """The top level of a params file. Raises UserError."""
    blocks = read_yaml(path)
    if not isinstance(blocks, dict):
        raise UserError(f"{path}: expected stage names at the top level")
    return blocks


def graph() -> dict:
    """dvc.yaml. Raises UserError where it has not the shape of one."""
    pipeline = read_yaml(DVC)
    if not isinstance(pipeline, dict) or not isinstance(pipeline.get("stages"), dict):
        raise UserError(f"{DVC}: expected `vars` and `stages` at the top level")
    return pipeline


def files() -> Iterator[Path]:
    """params.yaml and the files that dvc.yaml lists under `vars`. Raises UserError for one that is gone."""
    yield PARAMS
    for entry in graph().get("vars") or () if DVC.is_file() else ():
        if isinstance(entry, str):
            if not Path(entry).is_file():
                raise UserError(
                    f"{DVC}, vars: there is no file {entry}; bring it back, or delete the line to leave "
                    "that dataset out"
                )
            yield Path(entry)


def load() -> Params:
    """What params.yaml and the files of the datasets hold; their values are not checked yet."""
    params = Params()
    for path in files():
        params.add(path)
    for stage in STAGES.values():
        if stage.block:
            params.blocks[stage.name] = params.blocks[stage.block]
    return params


def blocks() -> dict[str, dict[str, dict]]:
    """{stage: {dataset: knobs}} of all files, every stage among the keys."""
    return load().blocks


def check() -> dict[str, dict[str, dict]]:
    """Load all files and validate every block; returns the blocks. Raises UserError at the first problem."""
    registry.check(KINDS, SPINE)
    if DVC.is_file():
        check_graph()
    params = load()
    if params.prices is None:
        raise UserError(f"{PARAMS}: '{PRICES}' is missing; write `{PRICES}: {NO_PRICES}` if none is known")
    check_outputs(params)
    for kind in KINDS:
        if problem := kind.problem(params.blocks):
            raise UserError(f"{PARAMS}, {problem}")
    of = made(params.blocks)
    check_circles(params, of)
    bases = {name for stage in BASE_STAGES for name in params.blocks[stage]}
    every = (target for dataset in datasets(params.blocks) for target in before(dataset, params.blocks, of))
    without_prompts = {target.split("@")[1] for target in every}
    for (stage, dataset), path in params.file_of.items():
        knobs = checked(STAGES[stage], params.blocks[stage][dataset], f"{path}, {stage}.{dataset}")
        base = getattr(knobs, "base", None)
        if base is not None and "/" not in base and base not in bases:  # a path is looked up by DVC
            raise UserError(
                f"{path}, {stage}.{dataset}: no base model is called '{base}'{nearest(base, bases)}"
            )
        has_prompts = dataset in without_prompts or layout.prompt(dataset, "student").parent.is_dir()
        if stage not in BASE_STAGES and not has_prompts:
            names = [folder.name for folder in Path("prompts").glob("*")]
            fix = nearest(dataset, names) or f"; `make new DATASET={dataset}` makes it"
            raise UserError(f"{path}, {stage}.{dataset}: there is no folder prompts/{dataset}{fix}")
    return params.blocks


def checked(stage: Stage, values: dict, where: str) -> Knobs:
    """The knobs of one block. Raises UserError."""
    fields = stage.knobs.model_fields
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key '{key}'{nearest(key, fields)}")
        if value is None:
            raise UserError(f"{where}: '{key}' has no value; give it one or delete the line")
    try:
        return stage.knobs(**values)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None


def check_graph() -> None:
    """Every stage of dvc.yaml is registered, and the other way round. Raises UserError."""
    pipeline = graph()
    drawn = {name for name in pipeline["stages"] if name != layout.CODE_STAGE}
    if unknown := sorted(drawn - STAGES.keys()):
        raise UserError(
            f"{DVC}: no kind has the stage '{unknown[0]}'{nearest(unknown[0], STAGES)}; add it to the "
            "`stages` of a kind in stages/kinds/, or delete it"
        )
    if missing := [name for name in STAGES if name not in drawn]:
        raise UserError(f"{DVC}: the stage '{missing[0]}' ({STAGES[missing[0]].module}) is not in the graph")
    defaults = {name for entry in pipeline.get("vars") or () if isinstance(entry, dict) for name in entry}
    if unset := [name for name, stage in STAGES.items() if not stage.block and name not in defaults]:
        raise UserError(
            f"{DVC}, vars: '{unset[0]}' is not in the first line; add `{unset[0]}: {{}}`, or DVC refuses the "
            "graph as long as no dataset takes part in it"
        )


def check_outputs(params: Params) -> None:
    """No two stages make the same of a dataset. Raises UserError."""
    for one, other in combinations(STAGES.values(), 2):
        if one.figures_name == other.figures_name:
            for dataset in sorted(params.blocks[one.name].keys() & params.blocks[other.name].keys()):
                raise UserError(
                    f"{params.file_of[one.name, dataset]}: '{dataset}' is in {one.name} and in {other.name}, "
                    "which make the same; delete one"
                )


def check_circles(params: Params, of: "Made") -> None:
    """Nothing is made from itself, and each base that is a student has one. Raises UserError."""
    students, exported = params.blocks[STUDENT], params.blocks["export"]
    for name, knobs in students.items():
        where, student = f"{params.file_of[STUDENT, name]}, {STUDENT}.{name}.of", knobs.get("of")
        if student is not None and str(student) not in exported:
            raise UserError(f"{where}: export has no block '{student}'{nearest(student, exported)}")
        try:
            of.upstream([f"{STUDENT}@{name}"])
        except CycleError as error:
            circle = ", ".join(error.args[1])
            raise UserError(f"{where}: '{student}' is made from '{name}' itself: {circle}") from None
    try:
        of.upstream(of.reads)
    except CycleError as error:
        stage, _, dataset = error.args[1][0].partition("@")
        circle = ", ".join(error.args[1])
        file = params.file_of.get((stage, dataset), PARAMS)
        raise UserError(f"{file}, {stage}.{dataset}: is made from itself: {circle}") from None


class Made(NamedTuple):
    """What the stages of dvc.yaml read, by DVC target, as corpus@d, and which of them makes a path."""

    reads: dict[str, list[str]]
    maker: dict[str, str]

    def makers(self, target: str) -> Iterator[str]:
        """Of what a target reads."""
        for path in self.reads[target]:
            places = (path, *(folder.as_posix() for folder in Path(path).parents))
            yield from filter(None, map(self.maker.get, places))

    def upstream(self, targets: Iterable[str]) -> list[str]:
        """`targets` and all that they are made from, each behind that.

        Raises CycleError, with a circle of targets, where something would be made from itself.
        """
        ordered: dict[str, None] = {}
        entered: dict[str, None] = {}

        def visit(target: str) -> None:
            if target in entered:
                circle = list(entered)
                raise CycleError("circle", [*circle[circle.index(target) :], target])
            if target not in ordered:
                entered[target] = None
                for maker in self.makers(target):
                    visit(maker)
                del entered[target]
                ordered[target] = None

        for target in targets:
            visit(target)
        return list(ordered)


def made(blocks: Blocks) -> Made:
    """Of all datasets and bases."""
    reads: dict[str, list[str]] = {}
    maker: dict[str, str] = {}
    for name, stage in graph()["stages"].items() if DVC.is_file() else ():
        for dataset, knobs in blocks.get(name, {}).items():
            values = {f"item.{knob}": str(value) for knob, value in knobs.items()} | {"key": dataset}
            target = f"{name}@{dataset}"
            reads[target] = [filled(path, values) for path in stage["do"].get("deps", [])]
            maker |= {filled(path, values): target for path in stage["do"].get("outs", [])}
    return Made(reads, maker)


def filled(path: str, values: dict[str, str]) -> str:
    """A path of dvc.yaml with its ${…}; what a block lacks is for the check to tell."""
    return re.sub(r"\$\{([^}]*)\}", lambda found: values.get(found[1], ""), path)


def before(dataset: str, blocks: Blocks, of: Made | None = None) -> list[str]:
    """DVC targets that a dataset's own stages are built upon, each behind what it is built upon itself.

    They follow from dvc.yaml. Where one of another dataset needs some of this one's, these are among them;
    of bases only those are that a dataset's student is.
    """
    of = of or made(blocks)
    own = [target for target in of.reads if target.partition("@")[2] == dataset]
    others = [other for target in own for other in of.makers(target) if other.partition("@")[2] != dataset]
    shared = tuple(f"{stage}@" for stage in BASE_STAGES if stage != STUDENT)
    return [target for target in of.upstream(others) if not target.startswith(shared)]


def stages_of(dataset: str, blocks: Blocks) -> list[Stage]:
    """The stages that a dataset takes part in, in the order of dvc.yaml: that of the chain."""
    chain = [STAGES[name] for name in graph()["stages"] if name in STAGES]
    return [stage for stage in chain if dataset in blocks[stage.name] and stage.name not in BASE_STAGES]


def datasets(blocks: Blocks) -> list[str]:
    return sorted({name for stage in STAGES if stage not in BASE_STAGES for name in blocks[stage]})


def knobs_of(dataset: str, stage: str, blocks: Blocks) -> Knobs:
    """The knobs of a stage for a dataset. Raises UserError where it has no block, or a wrong one."""
    if dataset not in blocks[stage]:
        raise UserError(f"{PARAMS}, {stage}: no block for '{dataset}'{nearest(dataset, blocks[stage])}")
    return checked(STAGES[stage], blocks[stage][dataset], f"{PARAMS}, {stage}.{dataset}")


@click.command(help=__doc__)
@main
def cli() -> None:
    check()
