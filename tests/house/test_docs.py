"""The documentation names what is there: every link, every page named in code, every path in backticks."""

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers.workspace import ROOT

TRACKED = sorted(
    path
    for path in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    if (ROOT / path).is_file()
)
PAGES = [path for path in TRACKED if path.endswith(".md") and not path.startswith(("prompts/", "tests/"))]
SOURCES = [
    path for path in TRACKED if path.endswith((".py", ".yaml", ".yml", ".toml", ".in", ".html", ".j2"))
]
SOURCES += ["Makefile", "NOTICE"]

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
PAGE_IN_CODE = re.compile(r"(?<![\w/.])(?:docs|benchmarks)/[\w/-]+\.(?:md|png)")
PATH_IN_BACKTICKS = re.compile(r"`((?:stages|demo|tests|benchmarks|prompts|docs)/[^`\s]*)`")
COMMAND = re.compile(r"python -m (stages|demo|benchmarks)\b([.\w]*)")
PLACEHOLDER = re.compile(r"[<{*…]")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub spells them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", (ROOT / page).read_text("utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        goal = (ROOT / page).parent / path if path else ROOT / page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_backticks_exist(page):
    paths = PATH_IN_BACKTICKS.findall((ROOT / page).read_text("utf-8"))
    assert not [path for path in paths if not PLACEHOLDER.search(path) and not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_modules_of_commands_exist(page):
    """Stages and commands are spelled `python -m stages <name>`; other modules by their path."""
    missing = []
    for top, rest in COMMAND.findall((ROOT / page).read_text("utf-8")):
        module = ROOT / (top + rest.rstrip(".")).replace(".", "/")
        if top == "stages" and rest.rstrip("."):
            missing.append(f"{top}{rest}")
        if not module.with_suffix(".py").exists() and not module.is_dir():
            missing.append(f"{top}{rest}")
    assert not missing


def test_pages_named_in_code_exist():
    missing = [
        f"{source}: {name}"
        for source in SOURCES
        for name in PAGE_IN_CODE.findall((ROOT / source).read_text("utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not missing


def test_every_page_is_in_the_index():
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in LINK.findall(index.read_text("utf-8"))
    }
    assert not [page for page in PAGES if page.startswith("docs/") and (ROOT / page) not in linked | {index}]


def test_every_kind_has_a_page():
    kinds = [path.parent.name for path in (ROOT / "stages/kinds").glob("*/__init__.py")]
    assert [name for name in kinds if not (ROOT / f"docs/kinds/{name}.md").exists()] == []


def test_every_stage_is_in_the_picture_of_the_graph():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    page = (ROOT / "docs/dev/architecture.md").read_text("utf-8")
    picture = page[: page.index("## The folders")]
    assert not [name for name in stages if not re.search(rf"\b{name}\b", picture)]
