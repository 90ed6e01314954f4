"""tool: what an example in botocore does → the operation of a service that does it."""

import gzip
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from stages.core.text import clip_words, count_words, letters
from stages.kinds.retriever.parts.made import distinct, split_rows
from stages.kinds.retriever.parts.rows import Row, Task
from stages.sources.markup import without_html

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
