"""lrlm and icl: what stands in the files of installed packages. They are read as text, never imported."""

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from stages.core.hashing import stable_integer, stable_unit
from stages.kinds.retriever.parts.made import choosing, key_id, same_query, sampled
from stages.kinds.retriever.parts.rows import Row, Task

# Packages that the lock file pins: of long files, none of which has pages of pydoc; and of many examples.
LONG_FILES = """accelerate aiohttp alembic celery click dulwich dvc fastapi flask fsspec gunicorn httpx
    huggingface_hub jinja2 kombu lightning litgpt mlflow openai peft pydantic rich sentence_transformers
    sqlalchemy sympy transformers uvicorn""".split()
EXAMPLES = "networkx numpy pandas scipy sklearn sympy".split()
NOT_THEIRS = re.compile(r"(^|/)(tests?|testing|_vendor)/")
LEAST_BYTES, MOST_FILES = 16_000, 60  # some 4,000 tokens; of a package, so that none outweighs the others
PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")  # about one and a half tokens of a language model
CHUNK, TARGET, EARLIER = 64, 24, 16  # pieces of a chunk and of the text that is to be guessed; chunks before
POOL_SHARE = 0.3  # of the docstrings: their examples are keys, those of the others are queries
MOST_POSITIVES = 8
EXAMPLE = re.compile(
    r"^[ \t]*>>> (\S.{0,79})\n[ \t]*(?!>>>|\.\.\. )(\S.{0,59})(?=\n[ \t]*(?:>>>|\n|\Z)|\Z)", re.M
)
CALL = re.compile(r"(?>(?:(?:print|len|list|sorted)\()*)(?:\w+\.)*(\w+)\(")  # print(np.linalg.norm(x)) → norm

Example = tuple[str, str, str, str]  # docstring (file and place), line of code, output, function called


def lrlm_task(rows: int) -> Task:
    """A chunk of a file; it chooses from earlier ones, and what follows is the answer. By package."""
    keys: dict[str, str] = {}
    found: list[Row] = []
    for package in LONG_FILES:
        files = [file for file in source_files(package) if file[1].stat().st_size >= LEAST_BYTES]
        for name, path in sorted(files, key=lambda file: stable_integer("file", file[0]))[:MOST_FILES]:
            pieces = PIECE.findall(path.read_text("utf-8", "replace"))
            starts = range(0, len(pieces), CHUNK)
            chunks = ["".join(pieces[start : start + CHUNK]).strip() for start in starts]
            if len(chunks) < EARLIER + 3:
                continue
            target = EARLIER + 1 + stable_integer("target", name) % (len(chunks) - EARLIER - 2)
            drawn = sorted(range(target - 1), key=lambda place: stable_integer("chunk", name, place))
            earlier = [chunks[place] for place in sorted(drawn[:EARLIER])]
            answer, query = "".join(pieces[starts[target] :][:TARGET]).strip(), chunks[target - 1]
            row: Row = {"id": name, "query": query, "pos": [], "answers": [answer], "group": package}
            found.append(choosing(row, earlier, keys))
    return sampled(keys, found, 0.15, 0.2, rows)


def icl_task(rows: int) -> Task:
    """A line of an interactive example; its output is the answer, examples of other docstrings are the keys.

    Positives call the same function. Queries and keys are of different docstrings, so that no query meets its
    own output; a query whose line is that of a key is left out. By docstring.
    """
    keys: dict[str, str] = {}
    by_call: dict[str, set[str]] = defaultdict(set)
    asked, known = [], set()
    for example in (example for package in EXAMPLES for example in package_examples(package)):
        docstring, code, output, call = example
        if stable_unit("pool", docstring) >= POOL_SHARE:
            asked.append(example)
            continue
        name = key_id(f"{code}\n{output}")
        keys[name] = f"{code}\n{output}"
        by_call[call].add(name)
        known.add(same_query(code))
    found: list[Row] = []
    for number, (docstring, code, output, call) in enumerate(asked):
        if by_call[call] and same_query(code) not in known:
            alike = sorted(by_call[call], key=lambda key: stable_integer(code, key))[:MOST_POSITIVES]
            found.append(
                {
                    "id": f"{docstring}-{number:05d}",
                    "query": code,
                    "pos": sorted(alike),
                    "answers": [output],
                    "group": docstring,
                }
            )
    return sampled(keys, found, 0.1, 0.3, rows)._replace(keys=keys)


def package_examples(package: str) -> Iterator[Example]:
    """The calls in one line, with an output in one line, that the docstrings of a package's files show."""
    for file, path in source_files(package):
        for number, docstring in enumerate(path.read_text("utf-8", "replace").split('"""')):
            for code, output in EXAMPLE.findall(docstring):
                # `...` stands for any text, and an address differs in every process
                if (call := CALL.match(code)) and "..." not in output and " at 0x" not in output:
                    yield f"{file}:{number:04d}", code.strip(), output.strip(), call[1]


def source_files(package: str) -> list[tuple[str, Path]]:
    """(name, path) of a package's own .py files, sorted, less its tests; names begin with the package."""
    spec = find_spec(package)
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    files = [(path.relative_to(folder.parent), path) for folder in folders for path in folder.rglob("*.py")]
    return sorted((name.as_posix(), path) for name, path in files if not NOT_THEIRS.search(name.as_posix()))
