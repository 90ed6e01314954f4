"""Paths and files that cannot be read or written: one line that says which."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stages.core import files
from stages.core.errors import UserError
from stages.core.stage import main


def test_a_path_that_cannot_be_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")

    def fails(work) -> str | None:
        with pytest.raises((SystemExit, OSError)) as end:
            main(work)()
        return capsys.readouterr().err if getattr(end.value, "code", None) == 2 else None

    assert fails(lambda: Path("none").read_text()) == "error: none: No such file or directory\n"
    assert fails(lambda: Path().read_text()) == "error: .: Is a directory\n"
    assert fails(lambda: Path("file/below").read_text()) == "error: file/below: Not a directory\n"
    assert fails(lambda: files.write_text(Path("file/below"), "x")) == "error: file: File exists\n"

    def unreachable() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    assert fails(unreachable) is None  # about no file: not the user's to mend


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


def test_what_a_killed_process_left_of_a_directory_is_removed_and_no_other(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine, alive = tmp_path / f".hf.{ended.pid}.tmp", tmp_path / f".hf.{os.getppid()}.tmp"
    others = [tmp_path / name for name in (f".peft.{ended.pid}.tmp", ".hf.mine.tmp", f"hf.{ended.pid}.tmp")]
    huge = tmp_path / f".hf.{10**30}.tmp"
    for directory in (mine, alive, huge, *others):
        (directory / "below").mkdir(parents=True)
    with files.atomic_directory(tmp_path / "hf", "test"):
        pass
    assert not mine.exists() and not huge.exists()
    assert all(directory.is_dir() for directory in (alive, *others))


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
