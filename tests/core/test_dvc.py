"""stages.core.dvc: DVC itself, and the same files."""

import os
import signal
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


KILLED = """
import json, os, runpy, sys
from dvc import rwlock
from dvc.utils.serialize import _yaml
written, dump_yaml = sys.argv.pop(1), _yaml._dump
def dump(data, stream):
    if written not in stream.name:  # the record of the run cache
        return dump_yaml(data, stream)
    stream.write("stages: {")
    stream.flush()
    os.kill(os.getpid(), 9)
if written == "rwlock":
    rwlock.json.dump = dump
else:
    _yaml._dump = dump
runpy.run_module("stages.core.dvc", run_name="__main__")
"""


@pytest.mark.parametrize("written", ["dvc.lock", "rwlock"])
def test_a_kill_while_a_file_is_written_leaves_the_one_before(tmp_path, written):
    repeated(tmp_path / "d", "stages.core.dvc")
    lock = (tmp_path / "d/dvc.lock").read_bytes()
    (tmp_path / "d/given").write_text("changed")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    repro = {"cwd": tmp_path / "d", "env": env}
    killed = subprocess.run([sys.executable, "-c", KILLED, written, "repro", "-q"], **repro)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "d/dvc.lock").read_bytes() == lock
    subprocess.run(
        [sys.executable, "-m", "stages.core.dvc", "repro", "-q"], cwd=tmp_path / "d", env=env, check=True
    )
    assert (tmp_path / "d/dvc.lock").read_bytes() != lock
    assert not [path for path in (tmp_path / "d").rglob("*.tmp") if path.is_file()]
