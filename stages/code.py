"""Which code each stage is made of, by content: a change makes stale the stages that import it, and no other.

Reads stages/. Writes data/code/STAGE.json for every stage: the files that its script imports, directly or
not, each with its sha256. It is the stage's one dependency on code in dvc.yaml: the list comes from the
imports themselves, and DVC compares one file a stage instead of twenty, in every run of every dataset.
"""

import ast
from pathlib import Path

import click

from stages import params
from stages.core import layout
from stages.core.stage import main

# These cannot change a byte of an output: logging to MLflow, the progress bar, the exception class.
HARMLESS = {"stages/core/tracking.py", "stages/core/progress.py", "stages/core/errors.py"}
RESOURCES = (".j2", ".yaml")


def code_of(script: str) -> set[str]:
    """`script` and every file of stages/ that it imports directly or not, as far as it can change outputs."""
    found: set[str] = set()
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        if path.as_posix() in found or path.as_posix() in HARMLESS or path.stat().st_size == 0:
            continue
        found.add(path.as_posix())
        if path.suffix == ".py":
            waiting += [file for file in map(_file, _named(ast.parse(path.read_text("utf-8")))) if file]
    return found


def _named(tree: ast.AST) -> set[str]:
    """Names of `stages` modules that the code imports, or names in a string: `python -m`, templates."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "house rule: absolute imports"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names.add(node.value)
    return {name for name in names if name.split(".")[0] == "stages" or name.endswith(RESOURCES)}


def _file(name: str) -> Path | None:
    """The file of a module, by its dotted name, or of a template or a list of words, by its file name."""
    if name.endswith(RESOURCES):
        return next(Path("stages").rglob(name), None)
    path = Path(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@click.command(help=__doc__)
@main
def cli() -> None:
    from stages.core.files import atomic_directory, write_json
    from stages.core.hashing import sha256_file

    with atomic_directory(layout.CODE, producer="code") as directory:
        for stage in params.STAGES:
            files = sorted(code_of(f"{params.module(stage).replace('.', '/')}.py"))
            write_json(directory / f"{stage}.json", {file: sha256_file(Path(file)) for file in files})


if __name__ == "__main__":
    cli()
