"""The embedded dataset: the API pages of the scientific packages that the lock file pins.

A page is the docstring of a public function, class or method. Its "See Also" section describes *other* pages
in a writer's own words: those descriptions are the observed queries, each paired with the page it is about.
"""

import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from stages.core.hashing import sha256_text

PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "matplotlib", "networkx")
SKIPPED_MODULES = re.compile(
    r"\.(_|tests?\b|testing\b|conftest|setup|f2py|backends\.|distutils|typing\b|externals)"
)
MIN_WORDS = 8
SECTION = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n[-=]{3,}\s*$", re.M)
DROPPED_SECTIONS = {"See Also", "Examples", "References"}
SIGNATURE = re.compile(r"\A\s*[\w.]+\((?:[^()\n]|\([^()\n]*\)|\n(?!\n))*\)[^\n]*\n(?:--\n)?\s*\n")
SEE_ALSO_ENTRY = re.compile(r"^(?P<names>[\w.:`~, ]+?)\s+:\s+(?P<text>\S.*(?:\n[ \t]+\S.*)*)", re.M)


def read_pydoc() -> tuple[list[dict], list[dict], list[dict]]:
    """Documents, queries and pairs of the installed packages, in the shape that `stages.corpus` writes."""
    documents, queries, pairs, _ = _read_apart()
    return documents, queries, pairs


def read_links() -> list[tuple[str, str, str]]:
    """(page, what it says of another, that other page) of the installed packages' "See Also", sorted."""
    return sorted((source, text, target) for source, text, target in _read_apart()[3])


def _read_apart() -> list[list]:
    """Documents, queries, pairs and links.

    They are read in a process of its own: scipy, when it is imported, rewrites a docstring of numpy
    (`numpy.sinc`), so a page would depend on what had been imported before numpy's pages were read.
    """
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "stages.sources.pydoc"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def installed_pages() -> tuple[list[dict], list[dict], list[dict], list[tuple[str, str, str]]]:
    """The same, read in this process, which must not have imported any of PACKAGES."""
    pages: dict[str, dict] = {}
    aliases: dict[str, str] = {}
    related: dict[str, str] = {}
    page_of_text: dict[str, str] = {}
    for name, others, kind, doc in sorted(_public_objects()):
        sections = split_sections(doc)
        kept = {title: body for title, body in sections.items() if title not in DROPPED_SECTIONS}
        text = clean("\n".join(f"{title}\n{body}" for title, body in kept.items()))
        if len(text.split()) < MIN_WORDS:
            continue
        page = page_of_text.setdefault(text, name)
        aliases.update((alias, page) for alias in others)
        if page != name:
            continue
        parts = name.split(".")
        metadata = {"name": parts[-1], "package": parts[0], "kind": kind}
        pages[name] = {"id": name, "title": name, "text": text, "metadata": metadata}
        related[name] = sections.get("See Also", "")
    links = list(_links(aliases, related))
    return list(pages.values()), *_observed(links), links


def _public_objects() -> list[tuple[str, list[str], str, str]]:
    """(shortest name, all names, kind, docstring) of each public object."""
    objects: dict[int, tuple[object, str, list[str]]] = {}

    def offer(name: str, value) -> None:
        if isinstance(inspect.getdoc(value), str):
            doc = inspect.cleandoc(inspect.getdoc(value))
            objects.setdefault(id(value), (value, doc, []))[2].append(name)

    for module in _modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not _is_documented(value):
                continue
            offer(f"{module.__name__}.{name}", value)
            if inspect.isclass(value):
                for attribute in dir(value):
                    member = inspect.getattr_static(value, attribute, None)
                    member = getattr(member, "__func__", member)
                    if not attribute.startswith("_") and (
                        _is_documented(member) or isinstance(member, property)
                    ):
                        offer(f"{module.__name__}.{name}.{attribute}", member)
    pages = []
    for value, doc, names in objects.values():
        kind = (
            "class" if inspect.isclass(value) else "property" if isinstance(value, property) else "function"
        )
        names.sort(key=lambda name: (name.count("."), len(name), name))
        pages.append((names[0], names, kind, doc))
    return pages


def _modules() -> Iterator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in PACKAGES:
            root = importlib.import_module(package)
            yield root
            for module in pkgutil.walk_packages(root.__path__, package + ".", onerror=lambda name: None):
                if SKIPPED_MODULES.search(module.name):
                    continue
                try:
                    yield importlib.import_module(module.name)
                except (
                    ImportError,
                    RuntimeError,
                    AttributeError,
                ):  # needs a GUI toolkit or an optional package
                    continue


def _is_documented(value) -> bool:
    if not (inspect.isclass(value) or callable(value)):
        return False
    module = getattr(value, "__module__", None) or ""
    return module.split(".")[0] in PACKAGES


def split_sections(doc: str) -> dict[str, str]:
    """The numpydoc sections of a docstring; the text before the first one is under the empty title."""
    marks = list(SECTION.finditer(doc))
    ends = [mark.start() for mark in marks[1:]] + [len(doc)] if marks else []
    sections = {"": doc[: marks[0].start()] if marks else doc}
    for mark, end in zip(marks, ends, strict=True):
        sections.setdefault(mark["title"].strip(), doc[mark.end() : end])
    return sections


def clean(text: str) -> str:
    """Plain text: no reST roles, directives, code prompts, mathematics or repeated white space."""
    text = SIGNATURE.sub("", text)
    text = re.sub(r"^\s*\.\. [^\n]*$", "", text, flags=re.M)
    text = re.sub(r"^\s*(>>>|\.\.\. ?)[^\n]*$", "", text, flags=re.M)
    text = re.sub(r":[a-z:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`", r"\1", text)
    text = re.sub(r"\[[A-Za-z0-9]+\]_|[`*|]+~?|\\\w+", " ", text)
    text = re.sub(r"%\(\w+\)s|::| at 0x[0-9a-f]+", "", text)  # an address differs in every process
    text = re.sub(r"argument\(s\)\s*\{[^}]*\}", _sorted_set, text)  # and so does the order of a printed set
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines()]
    text = re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()
    return re.sub(r"\n\n(Notes|Returns|Parameters)\Z", "", text)


def _sorted_set(printed: re.Match) -> str:
    return "arguments " + ", ".join(sorted(re.findall(r"'(\w+)'", printed[0])))


def _links(aliases: dict[str, str], related: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """(page, its description of another, that page); `aliases` maps any name to its page."""
    by_name: dict[str, list[str]] = {}
    for alias in sorted(aliases):
        parts = alias.split(".")
        for start in range(len(parts)):
            by_name.setdefault(".".join(parts[start:]), []).append(alias)
    for source, section in related.items():
        for entry in SEE_ALSO_ENTRY.finditer(section):
            text = " ".join(clean(entry["text"]).split()).rstrip(".")
            if not 2 <= len(text.split()) <= 30:
                continue
            for name in re.split(r"[,\s]+", re.sub(r":[a-z]+:|[`~]", "", entry["names"]).strip()):
                target = aliases.get(_resolve(name.strip("."), source, by_name))
                if target is not None and target != source:
                    yield source, text, target


def _observed(links: Iterable[tuple[str, str, str]]) -> tuple[list[dict], list[dict]]:
    """Queries, which are the descriptions, and the pages they are about."""
    queries: dict[str, str] = {}
    pairs: set[tuple[str, str]] = set()
    for _, text, target in links:
        query_id = sha256_text(text.lower())[:16]
        queries.setdefault(query_id, text)
        pairs.add((query_id, target))
    return (
        [{"id": key, "text": text} for key, text in queries.items()],
        [{"query_id": query, "document_id": document} for query, document in sorted(pairs)],
    )


def _resolve(name: str, source: str, by_name: dict[str, list[str]]) -> str | None:
    """The full name that `name` means on the page `source`: the one that shares the longest path with it."""
    candidates = by_name.get(name, [])

    def shared(page: str) -> int:
        same = [a == b for a, b in zip(page.split("."), source.split("."), strict=False)]
        return same.index(False) if False in same else len(same)

    return min(candidates, key=lambda page: (-shared(page), page.count("."), page), default=None)


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what a package prints when it is imported is no part of the answer
        rows = installed_pages()
    json.dump(rows, sys.stdout)
