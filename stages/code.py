"""Which code each stage is made of, by content: a change makes stale the stages that import it, and no other.

Reads stages/. Writes data/code/STAGE.json for every stage: the files that its module imports, directly or
not, each with its sha256, and a hash of its knobs with their defaults. It is the stage's one dependency on
code in dvc.yaml: the list comes from the imports themselves, and DVC compares one file a stage instead of
twenty, in every run of every dataset.
"""

import ast
from fnmatch import fnmatch
from pathlib import Path

import click

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_json
from stages.core.hashing import sha256_file, sha256_json
from stages.core.stage import Stage, main
from stages.kinds.registry import KINDS
from stages.params import STAGES

# These cannot change a byte of an output: logging to MLflow, the progress bar, errors and messages.
HARMLESS = {f"stages/core/{name}.py" for name in ("tracking", "progress", "errors", "messages")}
# These declare stages, knobs and kinds: what a stage has of them is the hash of its own knobs. Without this
# rule a knob of one stage would make all of them stale, and so would a new kind.
DECLARATIONS = (
    *("stages/params.py", "stages/knobs.py", "stages/kinds/kind.py", "stages/kinds/registry.py"),
    *("stages/kinds/*/__init__.py", "stages/kinds/*/knobs.py"),
)
RESOURCES = (".j2", ".yaml")
RUNNER = "stages/core/stage.py"  # runs every stage and writes its figures


def code_of(script: str) -> set[str]:
    """`script` and every file of stages/ that it imports directly or not, as far as it can change outputs."""
    files: set[str] = set()
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        name = path.as_posix()
        if name in files or name in HARMLESS or path.stat().st_size == 0:
            continue
        waiting += [module_file(module) for module in plugged_in(name)]
        if any(fnmatch(name, pattern) for pattern in DECLARATIONS):
            continue
        files.add(name)
        if path.suffix == ".py":
            waiting += [file for file in map(file_of, named(ast.parse(path.read_text("utf-8")))) if file]
    return files


def plugged_in(file: str) -> list[str]:
    """The modules that a file imports by a name that kinds give, which its text does not show."""
    if file == "stages/kinds/registry.py":  # imported by the stages that ask for a task
        return [name.partition(":")[0] for kind in KINDS for name in kind.tasks.values()]
    if file == "stages/report.py":
        return [kind.report for kind in KINDS if kind.report]
    return []


def named(tree: ast.AST) -> set[str]:
    """Names of `stages` modules that the code imports, or names in a string: `python -m`, templates."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "house rule: absolute imports"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names.add(node.value)
    return {name for name in names if name.split(".")[0] == "stages" or name.endswith(RESOURCES)}


def module_file(name: str) -> Path:
    """The file of a module that a kind names. Raises UserError where there is none."""
    if (file := file_of(name)) is None:
        raise UserError(f"stages/kinds: no module is called {name}; correct the KIND that names it")
    return file


def file_of(name: str) -> Path | None:
    """The file of a module, by its dotted name, or of a template or a list of words, by its file name."""
    if name.endswith(RESOURCES):
        # What `make new` copies from an example has names that code gives to other files: params.yaml.
        return next((p for p in Path("stages").rglob(name) if not p.parent.name.startswith("example")), None)
    path = Path(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def record(stage: Stage) -> dict[str, str]:
    """{file: its sha256} of a stage, and `knobs`: the sha256 of their names, types and defaults."""
    files = sorted(code_of(f"{stage.module.replace('.', '/')}.py") | code_of(RUNNER))
    return {"knobs": sha256_json(stage.knobs.model_json_schema())} | {
        file: sha256_file(Path(file)) for file in files
    }


@click.command(help=__doc__)
@main
def cli() -> None:
    with atomic_directory(layout.CODE, producer="code") as directory:
        for stage in STAGES.values():
            write_json(directory / f"{stage.name}.json", record(stage))
