"""lrlm and icl: what stands in the files of installed packages. They are read as text, never imported."""

import ast
import doctest
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stages.core.hashing import stable_integer, stable_unit
from stages.kinds.retriever.parts.made import (
    Task,
    distinct,
    key_id,
    same_query,
    sampled,
    split_rows,
    with_used,
)
from stages.kinds.retriever.parts.rows import Row

LONG_FILES = (  # of packages that the lock file pins, none of them a source of pages or of examples
    *(
        "accelerate",
        "aiohttp",
        "alembic",
        "celery",
        "click",
        "dulwich",
        "dvc",
        "fastapi",
        "flask",
        "fsspec",
        "gunicorn",
    ),
    *(
        "httpx",
        "huggingface_hub",
        "jinja2",
        "kombu",
        "lightning",
        "litgpt",
        "mlflow",
        "openai",
        "peft",
        "pydantic",
        "rich",
    ),
    *("sentence_transformers", "sqlalchemy", "sympy", "transformers", "uvicorn"),
)
EXAMPLES = ("networkx", "numpy", "pandas", "scipy", "sklearn", "sympy")
LEAST_BYTES, FILES_EACH = (
    16_000,
    60,
)  # about 4,000 tokens; files of one package, so that none drowns the others
PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")  # about one and a half tokens of a language model
CHUNK, TARGET, CANDIDATES = (
    64,
    24,
    16,
)  # pieces of a chunk and of the text that is to be guessed; earlier chunks
POOL_SHARE = 0.6  # of the docstrings: their examples are keys, those of the others are queries
SAME_CALL = 8  # positives of a query
SHOWN_BY = ("print", "list", "sorted")  # around the call that an example is about


class Example(NamedTuple):
    docstring: str  # package, file and name of what it documents
    code: str
    output: str
    call: str  # the name of the function that the line calls


def lrlm_task(rows: int) -> Task:
    """A chunk of a file; it chooses from earlier ones, and what follows is the answer. By package."""
    keys: dict[str, str] = {}
    found: list[Row] = []
    for package in LONG_FILES:
        files = [(name, path) for name, path in source_files(package) if path.stat().st_size >= LEAST_BYTES]
        for name, path in sorted(files, key=lambda file: stable_integer("file", file[0]))[:FILES_EACH]:
            pieces = PIECE.findall(path.read_text("utf-8", "replace"))
            chunks = [
                "".join(pieces[start : start + CHUNK]).strip() for start in range(0, len(pieces), CHUNK)
            ]
            if len(chunks) < CANDIDATES + 3:
                continue
            target = CANDIDATES + 1 + stable_integer("target", name) % (len(chunks) - CANDIDATES - 2)
            earlier = sorted(set(chunks[: target - 1]), key=lambda text: stable_integer("chunk", text))[
                :CANDIDATES
            ]
            earlier.sort(key=chunks.index)
            among = [key_id(text) for text in earlier]
            keys |= zip(among, earlier, strict=True)
            answer = "".join(pieces[target * CHUNK : target * CHUNK + TARGET]).strip()
            row: Row = {
                "id": name,
                "query": chunks[target - 1],
                "pos": [],
                "among": among,
                "neg": among,
                "answers": [answer],
                "group": package,
            }
            found.append(row)
    return with_used(keys, sampled(split_rows(distinct(found), 0.15, 0.2), rows))


def icl_task(rows: int) -> Task:
    """A line of an interactive example; its output is the answer, examples of other docstrings are the keys.

    Positives are those that call the same function. Queries and keys are of different docstrings, so that no
    query meets its own output; one whose line is that of a key is left out. By docstring.
    """
    examples = [example for package in EXAMPLES for example in package_examples(package)]
    pool = [example for example in examples if stable_unit("pool", example.docstring) < POOL_SHARE]
    keys = {key_id(text): text for text in (f"{example.code}\n{example.output}" for example in pool)}
    by_call: dict[str, set[str]] = defaultdict(set)
    for example in pool:
        by_call[example.call].add(key_id(f"{example.code}\n{example.output}"))
    taken, inside = {same_query(example.code) for example in pool}, {example.docstring for example in pool}
    found: list[Row] = []
    for number, (docstring, code, output, call) in enumerate(examples):
        if docstring not in inside and by_call[call] and same_query(code) not in taken:
            pos = sorted(by_call[call], key=lambda name: stable_integer(code, name))[:SAME_CALL]
            name = f"{docstring}-{number:05d}"
            found.append(
                {"id": name, "query": code, "pos": sorted(pos), "answers": [output], "group": docstring}
            )
    return Task(keys, sampled(split_rows(distinct(found), 0.1, 0.3), rows))


def package_examples(package: str) -> Iterator[Example]:
    """The examples of one line and a short output in the docstrings of a package's files."""
    parser = doctest.DocTestParser()
    for name, path in source_files(package):
        text = path.read_text("utf-8", "replace")
        if ">>>" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not (doc := ast.get_docstring(node)):
                continue
            try:
                found = parser.get_examples(doc)
            except ValueError:  # not as doctest has it
                continue
            for example in found:
                code, output = example.source.strip(), example.want.strip()
                short = "\n" not in code and len(code) <= 80 and 0 < len(output) <= 60 and "\n" not in output
                if short and "..." not in output and " at 0x" not in output and (call := called(code)):
                    yield Example(f"{name}:{node.name}", code, output, call)


def called(code: str) -> str | None:
    """The name of the function that an expression calls, its last part: `np.linalg.norm(x)` → norm."""
    try:
        body = ast.parse(code, mode="eval").body
    except SyntaxError:
        return None
    while (
        isinstance(body, ast.Call)
        and isinstance(body.func, ast.Name)
        and body.func.id in SHOWN_BY
        and body.args
    ):
        body = body.args[0]
    function = body.func if isinstance(body, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def source_files(package: str) -> list[tuple[str, Path]]:
    """(name, path) of a package's own .py files, sorted, less its tests; names begin with the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0])
    files = ((path.relative_to(folder.parent).as_posix(), path) for path in folder.rglob("*.py"))
    return sorted(
        (name, path) for name, path in files if not re.search(r"(^|/)(tests?|testing|_vendor)/", name)
    )
