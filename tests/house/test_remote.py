"""Push here, pull there: the default local remote through make, and the real S3 protocol through dvc-s3."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.workspace import ROOT

pytestmark = pytest.mark.slow
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
GRAPH = """
stages:
  make:
    foreach: {one: {}, two: {}}
    do:
      cmd:
        - mkdir -p data/${key}/out reports/${key}
        - echo ${key} | tee data/${key}/out/a.txt > reports/${key}/make.json
      outs:
        - data/${key}/out
      metrics:
        - reports/${key}/make.json
"""
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def sh(directory: Path, *command: str, **env: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with this one's DVC configuration and Makefile, and two built outputs."""
    directory = tmp_path / "project"
    for name in (
        ".dvc/config",
        ".dvc/.gitignore",
        ".dvcignore",
        ".gitignore",
        "Makefile",
        "requirements.lock",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, directory / name)
    (directory / "dvc.yaml").write_text(GRAPH)
    (directory / "params.yaml").write_text("corpus: {shop: {path: data/sources/shop}}\n")
    (directory / "data/sources/shop").mkdir(parents=True)
    (directory / "data/sources/shop/documents.csv").write_text("id,text\n")
    sh(directory, "git", "init", "-q", "-b", "main")
    sh(directory, "dvc", "repro", "-q")
    sh(directory, *GIT, "add", "-A")
    added = sh(directory, "git", "diff", "--cached", "--name-only").split()
    assert not [name for name in added if name.startswith("data/") and not name.endswith(".gitignore")]
    sh(directory, *GIT, "commit", "-qm", "built")
    return directory


def set_up(directory: Path) -> None:
    """Let make find the environment of this test in place of installing one."""
    sums = sh(directory, "cksum", "requirements.lock").split()[0]
    (directory / ".venv/bin").mkdir(parents=True)
    (directory / ".venv/bin/dvc").symlink_to(Path(sys.executable).parent / "dvc")
    (directory / f".venv/lock-{sums}").touch()


def pulled(directory: Path) -> bool:
    texts = [directory / f"data/{key}/out/a.txt" for key in ("one", "two")]
    return [text.read_text() for text in texts if text.is_file()] == ["one\n", "two\n"]


def test_make_push_and_pull_between_two_clones(project):
    clone = project.parent / "clone"
    sh(project, "git", "clone", "-q", ".", str(clone))
    for directory in (project, clone):
        set_up(directory)
    assert "warning: data/sources/shop is tracked by neither git nor DVC" in sh(project, "make", "push")
    sh(project, "dvc", "add", "-q", "data/sources/shop")
    sh(project, *GIT, "add", "-A")
    assert "data/sources/shop.dvc" in sh(project, "git", "diff", "--cached", "--name-only").split()
    sh(project, *GIT, "commit", "-qm", "sources")
    assert "warning" not in sh(project, "make", "push")
    sh(clone, "git", "pull", "-q")
    assert (project.parent / "retort-remote/files/md5").is_dir()
    assert not pulled(clone)
    sh(clone, "make", "pull")
    assert pulled(clone)
    assert (clone / "data/sources/shop/documents.csv").is_file()
    assert sh(clone, "git", "status", "--porcelain") == ""


def test_a_pulled_file_that_was_changed_in_the_remote_is_refused(project):
    clone = project.parent / "clone"
    sh(project, "git", "clone", "-q", ".", str(clone))
    sh(project, "dvc", "push", "-q")
    for file in (project.parent / "retort-remote/files/md5").rglob("*"):
        if file.is_file() and file.read_text() == "one\n":
            file.chmod(0o644)
            file.write_text("two\n")
    done = subprocess.run([sys.executable, "-m", "dvc", "pull"], cwd=clone, capture_output=True, text=True)
    assert done.returncode and not pulled(clone)


@pytest.fixture
def s3(monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    yield f"http://{host}:{port}"
    server.stop()


def test_push_and_pull_through_s3(project, s3):
    import boto3

    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="retort")
    sh(project, "dvc", "remote", "add", "-d", "s3", "s3://retort/store")
    sh(project, "dvc", "remote", "modify", "s3", "endpointurl", s3)
    sh(project, "dvc", "push", **S3_KEYS)
    stored = {item["Key"] for item in client.list_objects_v2(Bucket="retort")["Contents"]}
    assert len(stored) == 4 and all(key.startswith("store/files/md5/") for key in stored)
    sh(project, *GIT, "commit", "-qam", "an S3 remote")
    clone = project.parent / "clone"
    sh(project, "git", "clone", "-q", ".", str(clone))
    sh(clone, "dvc", "pull", **S3_KEYS)
    assert pulled(clone)
