"""stages.core.dvc: DVC itself, and the same files."""

import os
import subprocess
import sys

import pytest

from stages.core import dvc
from tests.helpers.workspace import ROOT

STAGES = """stages:  # a comment
  made:
    foreach:
      - one
      - '2'
    do:
      cmd: >-
        echo '${item}: of "many" words, so many that their line is longer than eighty characters'
        | cat given - > ${item}.txt
      deps: [given]
      outs: [ "${item}.txt" ]
"""


def repeated(directory, module):
    """dvc.yaml and dvc.lock after two runs: the second one finds the lock file of the first."""
    directory.mkdir()
    (directory / "dvc.yaml").write_text(STAGES)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"], ["repro", "-q"]):
        (directory / "given").write_text(f"{arguments} {(directory / 'dvc.lock').exists()}")
        subprocess.run([sys.executable, "-m", module, *arguments], cwd=directory, env=env, check=True)
    return [(directory / name).read_bytes() for name in ("dvc.yaml", "dvc.lock")]


def test_files_are_those_that_dvc_writes(tmp_path):
    plain = repeated(tmp_path / "plain", "dvc")
    assert repeated(tmp_path / "quick", "stages.core.dvc") == plain
    assert plain[1].count(b"2.txt") == 2


@pytest.mark.parametrize(("name", "quick"), [("dvc.lock", True), ("dvc.yaml", False)])
def test_only_lock_files_are_read_without_comments(name, quick):
    found = dvc.parse("a: 1  # one\n", f"/somewhere/{name}")
    assert found == {"a": 1} and (type(found) is dict) is quick
