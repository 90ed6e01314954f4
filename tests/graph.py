"""What the graph tests share: which files of `stages/` a stage imports, found by reading the code."""

import ast
from pathlib import Path

# These cannot change a byte of an output: logging to MLflow, the progress bar, the exception class.
HARMLESS = {"stages/support/tracking.py", "stages/support/progress.py", "stages/support/errors.py"}


def _file(module: str) -> Path | None:
    path = Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def _named(tree: ast.AST) -> set[str]:
    """Dotted names of `stages` modules that the code imports, anywhere, or names in a string (`python -m`)."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "house rule: absolute imports"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names.add(node.value)
    return {name for name in names if name.split(".")[0] == "stages"}


def code_of(script: str) -> set[str]:
    """`script` and every file of stages/ that it imports directly or not, as far as it can change outputs."""
    found: set[str] = set()
    waiting = [Path(script)]
    while waiting:
        path = waiting.pop()
        if path.as_posix() in found or path.as_posix() in HARMLESS or path.stat().st_size == 0:
            continue
        found.add(path.as_posix())
        waiting += [f for f in map(_file, _named(ast.parse(path.read_text("utf-8")))) if f]
    return found
