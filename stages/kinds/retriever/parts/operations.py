"""tool: what botocore's examples do → the operation of a service that does it."""

import gzip
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from stages.core.text import clip_words, count_words, letters
from stages.kinds.retriever.parts.made import Task, distinct, split_rows
from stages.kinds.retriever.parts.rows import Row
from stages.sources.markup import without_html

LEAST_WORDS = 5
NOTE = re.compile(r"</?(?:note|important)>")  # botocore's own, no tags of HTML


def tool_task(words: int, folder: Path | None = None) -> Task:
    """Examples of the services that have any, and all operations of these. By operation.

    Left out are examples that are short, copied from the operation's page, or name it. `folder`: the data of
    botocore.
    """
    keys: dict[str, str] = {}
    found: list[Row] = []
    for service, operations, examples in services(folder or botocore_data()):
        for operation, page in operations.items():
            keys[f"{service}.{operation}"] = f"{service} {operation}\n{clip_words(page, words)}"
        for operation, texts in examples.items():
            for number, text in enumerate(texts):
                copied = letters(text) in letters(operations.get(operation, text))
                if copied or letters(operation) in letters(text) or count_words(text) < LEAST_WORDS:
                    continue
                name = f"{service}.{operation}"
                found.append({"id": f"{name}-{number:02d}", "query": text, "pos": [name], "group": name})
    return Task(keys, split_rows(distinct(found), 0.1, 0.25))


def services(folder: Path) -> Iterator[tuple[str, dict[str, str], dict[str, list[str]]]]:
    """(name, documentation by operation, examples by operation) of each service, of its newest version."""
    newest = {path.parent.parent.name: path for path in sorted(folder.glob("*/*/examples-1.json"))}
    for name, path in newest.items():
        examples = {
            operation: [" ".join(without_html(one.get("description", "")).split()) for one in own]
            for operation, own in json.loads(path.read_text("utf-8"))["examples"].items()
        }
        if any(examples.values()):
            with gzip.open(path.with_name("service-2.json.gz")) as stream:
                operations = json.load(stream)["operations"]
            pages = {
                operation: " ".join(without_html(NOTE.sub(" ", own.get("documentation", ""))).split())
                for operation, own in operations.items()
            }
            yield name, pages, examples


def botocore_data() -> Path:
    spec = find_spec("botocore")
    assert spec and spec.submodule_search_locations, "requirements.lock has botocore"
    return Path(spec.submodule_search_locations[0]) / "data"
