"""pyproject.toml says what the locked set says."""

import re
import tomllib

from tests.helpers.workspace import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT, TOOLS = CONFIG["project"], CONFIG["tool"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_LOCKED = {"bitsandbytes", "pre-commit", "vllm"}  # for a GPU, or for people who work on the code


def name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_requirements_are_those_of_the_locked_set():
    declared = PROJECT["dependencies"] + [item for extra in EXTRAS.values() for item in extra]
    lines = (ROOT / "requirements.in").read_text("utf-8").splitlines()
    locked = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    assert len(declared) == len(set(declared))
    assert {item for item in declared if name(item) not in NOT_LOCKED} == locked


def test_the_python_version_is_that_of_the_lock():
    assert "--python-version 3.11" in (ROOT / "requirements.in").read_text("utf-8")
    assert PROJECT["requires-python"] == ">=3.11"


def test_files_that_are_no_code_are_in_the_package():
    """Templates and phrases lie beside the code: a wheel without them would fail when they are read."""
    patterns = TOOLS["setuptools"]["package-data"]
    for top in ("stages", "demo"):
        packed = {path for pattern in patterns[top] for path in (ROOT / top).glob(pattern)}
        files = {
            path for path in (ROOT / top).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }
        assert {path for path in files if path.suffix != ".py"} <= packed
        folders = {path.parent for path in files if path.suffix == ".py"}
        assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
