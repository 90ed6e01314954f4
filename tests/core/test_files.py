"""Paths and files that cannot be read or written: one line that says which."""

import errno
import os
import resource
import sqlite3
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from stages.core import files
from stages.core.errors import UserError
from stages.core.stage import main


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """What work that fails prints on stderr, or None where that is no error of the user's."""
    monkeypatch.chdir(tmp_path)

    def run(work) -> str | None:
        with pytest.raises((SystemExit, Exception)) as end:
            main(work)()
        return capsys.readouterr().err if getattr(end.value, "code", None) == 2 else None

    return run


def test_a_path_that_cannot_be_is_one_line(fails):
    Path("file").write_text("")
    assert fails(lambda: Path("none").read_text()) == "error: none: No such file or directory\n"
    assert fails(lambda: Path().read_text()) == "error: .: Is a directory\n"
    assert fails(lambda: Path("file/below").read_text()) == "error: file/below: Not a directory\n"
    assert fails(lambda: files.write_text(Path("file/below"), "x")) == "error: file: File exists\n"

    def unreachable() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    assert fails(unreachable) is None  # about no file: not the user's to mend


LACKS = [
    (errno.ENOSPC, "disk is full"),
    (errno.EDQUOT, "quota"),
    (errno.EROFS, "read-only"),
    (errno.EMFILE, "too many files"),
    (errno.EFBIG, "may not grow"),
]


@pytest.mark.parametrize(("number", "words"), LACKS)
@pytest.mark.parametrize("named", [True, False])
def test_what_a_disk_or_a_limit_lacks_is_one_line(fails, number, words, named):
    def lacking() -> None:
        raise OSError(number, os.strerror(number), *["data/x.npy"] * named)

    told = fails(lacking)
    assert words in told and told.count("\n") == 1 and ("data/x.npy: " in told) is named


def test_too_many_open_files_are_one_line(fails):
    def opens() -> None:
        with ExitStack() as stack:
            for _ in range(soft + 1):
                stack.enter_context(open("file", "w"))

    soft, hard = 64, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard[1]))
    try:
        assert "too many files are open" in fails(opens)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)


def locked(path: Path) -> None:
    with closing(sqlite3.connect(path)) as holder, closing(sqlite3.connect(path, timeout=0)) as other:
        holder.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE t (a)")


def closed_to_writing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE t (a)")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as readonly:
        readonly.execute("CREATE TABLE u (a)")


def nowhere(path: Path) -> None:
    sqlite3.connect(path / "none/store.sqlite")


def damaged(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM sqlite_master")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (locked, "another program holds it"),
        (closed_to_writing, "read-only"),
        (nowhere, "folder"),
        (damaged, "make store"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(fails, tmp_path, what, words):
    told = fails(lambda: what(tmp_path / "x.sqlite"))
    assert words in told and told.count("\n") == 1


def test_a_mistake_in_the_code_stays_a_traceback(fails):
    assert fails(lambda: sqlite3.connect(":memory:").execute("SELEC")) is None


def with_numpy(path: Path) -> None:
    np.save(path / "x.npy", np.zeros(1 << 17))


def with_safetensors(path: Path) -> None:
    safetensors.numpy.save_file({"x": np.zeros(1 << 17)}, path / "x.safetensors")


def with_a_stream(path: Path) -> None:
    with open(path / "x.bin", "wb") as stream:
        stream.write(bytes(1 << 20))


@pytest.mark.parametrize("writes", [with_numpy, with_safetensors, with_a_stream])
def test_a_library_that_cannot_write_is_told_as_the_system_tells_it(fails, tmp_path, writes):
    def work() -> None:
        with files.atomic_directory(tmp_path / "out", "test") as directory:
            writes(directory)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        told = fails(work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "out: a file may not grow that large" in told or "x.bin" in told
    assert told.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_error_while_the_disk_takes_more_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="unexpected pos"):
        with files.atomic_path(tmp_path / "out") as temporary:
            temporary.write_text("")
            raise RuntimeError("unexpected pos 64 vs 0")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB; only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_file_that_is_filled_through_a_map_has_its_place_before(small_disk):
    with open(small_disk / "x", "wb") as stream:
        stream.truncate(1 << 20)
    with pytest.raises(OSError) as end:
        files.reserve(small_disk / "x")
    assert end.value.errno == errno.ENOSPC


@pytest.mark.parametrize("writes", [with_numpy, with_safetensors, with_a_stream])
def test_a_full_disk_is_named_whatever_writes(fails, small_disk, writes):
    def work() -> None:
        with files.atomic_directory(small_disk / "out", "test") as directory:
            writes(directory)

    assert "out: the disk is full" in fails(work) and not list(small_disk.iterdir())


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_json_that_python_does_not_read_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    for read, where in ((files.read_json, "x.json"), (files.read_jsonl, "x.json, row 1")):
        with pytest.raises(UserError, match=f"{where}: not valid JSON .(a number|nested too)"):
            read(path)


@pytest.mark.parametrize(
    "rows", [[], [{"a": "x\ny", "b": [1, {"c": None}], "d": "é"}], [{"a": 1}, {}, {"b": []}]]
)
def test_an_array_that_is_written_row_by_row_has_the_bytes_of_one_written_at_once(tmp_path, rows):
    files.write_json(tmp_path / "whole.json", rows)
    with files.json_array(tmp_path / "rows.json") as add:
        for row in rows:
            add(row)
    assert (tmp_path / "rows.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_numbers_that_are_added_have_the_bytes_of_those_saved_at_once(tmp_path, dtype, count):
    values = np.arange(count, dtype=dtype)
    np.save(tmp_path / "whole.npy", values)
    with files.npy_array(tmp_path / "parts.npy", dtype) as add:
        for part in np.array_split(values, 3):
            add(part.tolist())
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def write_directory(path):
    with files.atomic_directory(path, "test"):
        pass


@pytest.mark.parametrize(
    ("write", "leave"),
    [
        (write_directory, lambda left: (left / "below").mkdir(parents=True)),
        (lambda path: files.write_text(path, "text"), lambda left: left.write_text("te")),
    ],
    ids=["directory", "file"],
)
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, write, leave):
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine, alive = tmp_path / f".hf.{ended.pid}.tmp", tmp_path / f".hf.{os.getppid()}.tmp"
    others = [tmp_path / name for name in (f".peft.{ended.pid}.tmp", ".hf.mine.tmp", f"hf.{ended.pid}.tmp")]
    huge = tmp_path / f".hf.{10**30}.tmp"
    for left in (mine, alive, huge, *others):
        leave(left)
    write(tmp_path / "hf")
    assert not mine.exists() and not huge.exists()
    assert all(left.exists() for left in (alive, *others))


def test_all_files_of_a_directory_have_the_permissions_of_any_other(tmp_path):
    with files.atomic_directory(tmp_path / "d", "test") as directory:
        for name, mode in (("a", 0o600), ("b", 0o777)):
            (directory / name).touch()
            (directory / name).chmod(mode)
    (tmp_path / "plain").touch()
    modes = {file.stat().st_mode for file in [*(tmp_path / "d").iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"files": []}', '{"files": {"a": {}}}', '{"files": {"a": null}}', "{"]
)
def test_a_manifest_that_is_none_is_one_line(tmp_path, manifest):
    (tmp_path / "a").touch()
    (tmp_path / files.MANIFEST).write_text(manifest)
    with pytest.raises(UserError, match="manifest.json(, line 1)?: (expected|does not list|not valid)"):
        files.verify_manifest(tmp_path)
