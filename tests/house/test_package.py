"""pyproject.toml says what the locked set says."""

import re
import tomllib

from tests.helpers.workspace import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_LOCKED = {"bitsandbytes", "mypy", "pre-commit", "vllm"}  # for a GPU, or for people who work on the code


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
