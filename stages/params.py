"""Check the whole of params.yaml before anything runs: stages, datasets and every knob.

Each stage's knobs model is the one definition of what it accepts; a misspelt name gets a suggestion.
Run as `python -m stages.params [FILE]`; exits with code 2 and one line at the first problem.
"""

import difflib
import importlib
from itertools import combinations
from pathlib import Path

import click
from pydantic import ValidationError

from stages.core import layout
from stages.core.errors import UserError
from stages.core.layout import PARAMS
from stages.core.stage import StageCommand, explain, main
from stages.teacher.prices import NO_PRICES, PRICES, price_table

# In the order of the chain. The base stages are keyed by the name of a base model, the others by dataset.
BASES = ("base", "base_hub")
STAGES = (
    *BASES,
    *("corpus", "corpus_xc", "skills", "corpus_briefs", "candidates", "corpus_skills"),
    *("prompt", "collect", "convert", "tokenize", "finetune", "merge", "export"),
    *("generate", "baseline", "filter", "map", "pack", "xc", "evaluate", "evaluate_calls"),
    *("report", "report_skills"),
)
# Where the scripts of stages lie that are not beside this file.
PLACES = {
    "stages.kinds.xc": ("corpus_xc", "filter", "map", "pack", "xc", "evaluate"),
    "stages.kinds.skills": ("skills", "corpus_briefs", "candidates", "corpus_skills", "evaluate_calls"),
}
CORPORA = ("corpus", "corpus_xc", "corpus_briefs", "corpus_skills")  # all of them write data/<dataset>/corpus


def read(path: Path) -> dict:
    """The top level of a params file. Raises UserError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    from stages.core.files import read_text

    try:
        blocks = YAML(typ="safe").load(read_text(path)) or {}
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "; put a value with a colon in quotes" if "':'" in str(error.problem) else ""
        raise UserError(f"{path}{where}: not valid YAML ({error.problem}){hint}") from None
    if not isinstance(blocks, dict):
        raise UserError(f"{path}: expected stage names at the top level")
    return blocks


def load(path: Path = PARAMS) -> dict[str, dict[str, dict]]:
    """The blocks of a params file, {stage: {dataset: knobs}}. Raises UserError for any other shape.

    The block `prices` is checked, but is none of them: it belongs to all datasets.
    """
    blocks = read(path)
    if PRICES in blocks:
        price_table(blocks.pop(PRICES), f"{path}, {PRICES}")
    for stage, datasets in blocks.items():
        if stage not in STAGES:
            raise UserError(f"{path}: no stage is called '{stage}'{nearest(stage, (*STAGES, PRICES))}")
        if not isinstance(datasets, dict):
            raise UserError(
                f"{path}, {stage}: expected datasets and their knobs; write `{stage}: {{}}` for none"
            )
        for dataset, knobs in datasets.items():
            if not isinstance(knobs, dict):
                raise UserError(
                    f"{path}, {stage}.{dataset}: expected knobs; write `{dataset}: {{}}` for defaults"
                )
    return blocks


def check(path: Path = PARAMS) -> dict[str, dict[str, dict]]:
    """Load `path` and validate every block; returns the blocks. Raises UserError at the first problem."""
    blocks = load(path)
    for stage in STAGES:
        if stage not in blocks:
            raise UserError(
                f"{path}: stage '{stage}' is missing; write `{stage}: {{}}` if nothing takes part"
            )
    if PRICES not in read(path):
        raise UserError(f"{path}: '{PRICES}' is missing; write `{PRICES}: {NO_PRICES}` if none is known")
    _check_chains(blocks, path)
    bases = {name for stage in BASES for name in blocks[stage]}
    briefs = {own.get("briefs") for own in blocks["candidates"].values()}  # their prompts are the other's
    for stage, datasets in blocks.items():
        for dataset, knobs in datasets.items():
            model = command(stage).knobs
            where = f"{path}, {stage}.{dataset}"
            for key, value in knobs.items():
                if key not in model.model_fields:
                    raise UserError(f"{where}: unknown key '{key}'{nearest(key, model.model_fields)}")
                if value is None:
                    raise UserError(f"{where}: '{key}' has no value; give it one or delete the line")
            try:
                checked = model(**knobs)
            except ValidationError as error:
                raise UserError(explain(error, where)) from None
            if "base" in model.model_fields and checked.base not in bases:
                raise UserError(
                    f"{where}: no base model is called '{checked.base}'{nearest(checked.base, bases)}"
                )
            has_prompts = dataset in briefs or layout.prompt(dataset, "student").is_file()
            if stage not in BASES and not has_prompts:
                known = [folder.name for folder in Path("prompts").glob("*")]
                mend = nearest(dataset, known) or f"; `make new DATASET={dataset}` makes it"
                raise UserError(f"{where}: there is no folder prompts/{dataset}{mend}")
    return blocks


def _check_chains(blocks: dict[str, dict[str, dict]], path: Path) -> None:
    """No two stages make a dataset's corpus, and what skills are made from is there."""
    for one, other in combinations(CORPORA, 2):
        for dataset in blocks[one].keys() & blocks[other].keys():
            raise UserError(
                f"{path}: '{dataset}' is in {one} and in {other}, which make the same; delete one"
            )
    for stage, key, maker in (
        ("candidates", "briefs", "corpus_briefs"),
        ("corpus_briefs", "skills", "skills"),
    ):
        for dataset, own in blocks[stage].items():
            if key in own and own[key] not in blocks[maker]:
                raise UserError(
                    f"{path}, {stage}.{dataset}: {maker} has no block '{own[key]}'"
                    f"{nearest(own[key], blocks[maker])}"
                )


def command(stage: str) -> StageCommand:
    return importlib.import_module(module(stage)).command


def module(stage: str) -> str:
    """The dotted name of the script of a stage."""
    place = next((place for place, stages in PLACES.items() if stage in stages), "stages")
    return f"{place}.{stage}"


def nearest(name: str, known) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path), default=PARAMS)
@main
def cli(file: Path) -> None:
    check(file)


if __name__ == "__main__":
    cli()
