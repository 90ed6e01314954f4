"""Files that are whole or absent: atomic writes, JSON lines, and directories with a manifest."""

import codecs
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.errors import LACKS, UserError
from stages.core.hashing import sha256_file
from stages.core.strict_json import parse_json, why_no_json

MANIFEST = "manifest.json"
BOM = "\ufeff"
EXPANDS = 200  # times that a packed file of a MiB may be larger once it is read


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reserve(path: Path) -> None:
    """Give a file its place on the disk before it is filled through a map. Raises OSError (ENOSPC).

    A write through a map to a full disk is no error: it kills the process (SIGBUS).
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; fsync and rename it over `path` if the block succeeds."""
    path = Path(path)
    temporary = _sibling(path)
    try:
        with disk_errors(path, temporary):
            yield temporary
            fsync(temporary)
            os.replace(temporary, path)
            fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Make what goes wrong in writing `temporary` an OSError about `path`, whatever a library makes of it.

    A library in Rust ends its message with the system's number. torch and OpenVINO say "unexpected pos" or
    "iostream error", so one more block is written after theirs: the system then says why it cannot be.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # numpy's own have no number
            error.filename = error.filename or str(path)
            raise
        try:
            told = re.search(r"os error (\d+)", str(error))
            if told and (number := int(told[1])) in LACKS:
                raise OSError(number, os.strerror(number))
            _write_more(temporary)
        except OSError as reason:
            raise OSError(reason.errno, reason.strerror, str(path)) from error
        raise


def _write_more(path: Path) -> None:
    """Add a block to a file that is to be thrown away, or to the last one in a directory of such."""
    files = [file for file in [path, *path.rglob("*")] if file.is_file()]
    last = max(files, key=lambda file: file.stat().st_mtime_ns, default=None)
    if last is not None:
        with open(last, "ab") as stream:
            stream.write(bytes(1 << 16))
            stream.flush()
            os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line; returns the number of rows."""
    count = 0
    with atomic_path(path) as temporary, jsonl(temporary) as add:
        for row in rows:
            add(row)
            count += 1
    return count


@contextmanager
def jsonl(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that adds a row to `path`, which is to lie in an `atomic_directory`."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:

        def add(row: Mapping[str, Any]) -> None:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield add


@contextmanager
def json_array(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that adds a row to the array in `path`: the bytes of `write_json`, one row in memory.

    `path` is to lie in an `atomic_directory`: it is torn while rows are added.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        before = "["

        def add(row: Mapping[str, Any]) -> None:
            nonlocal before
            text = json.dumps(row, ensure_ascii=False, indent=2).replace("\n", "\n  ")
            stream.write(f"{before}\n  {text}")
            before = ","

        yield add
        stream.write("\n]\n" if before == "," else "[]\n")


@contextmanager
def npy_array(path: Path, dtype: str) -> Iterator[Callable[[Sequence], None]]:
    """Yield a function that adds values to the array (n,) in `path`: the bytes of `numpy.save`.

    `path` is to lie in an `atomic_directory`: it is torn while values are added.
    """
    import numpy as np

    with open(path, "wb") as stream:
        count = 0

        def write_header() -> None:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count,)})

        def add(values: Sequence) -> None:
            nonlocal count
            stream.write(np.asarray(values, dtype=dtype).tobytes())
            count += len(values)

        write_header()
        yield add
        stream.seek(0)
        write_header()  # as long as before: the format leaves room for a number of any size


def read_text(path: Path) -> str:
    """Read UTF-8 text, less the mark (BOM) that editors on Windows put before it.

    Raises UserError that names the file and the first bad line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8").removeprefix(BOM)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise not_utf8(f"{path}, line {line}", error) from None


def check_expansion(path: Path, size: int) -> None:
    """Raise UserError for a packed file that stands for `size` bytes or more, unlike any that holds data.

    Text and numbers are packed to a tenth or so; a few KB that become GB are made to fill the memory.
    """
    if size > EXPANDS * max(path.stat().st_size, 1 << 20):
        raise UserError(
            f"{path}: stands for {size:,} bytes or more, over {EXPANDS} times its own; if that is meant so, "
            "save it without compression and dictionaries"
        )


def not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    """The error to raise for bytes that are not UTF-8; `where` is the file and the line or row."""
    if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return UserError(f"{where}: is UTF-16, which some programs call Unicode; save the file as UTF-8")
    return UserError(
        f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8 (one of "
        "Windows: iconv -f cp1252 -t utf-8 OLD > NEW)"
    )


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError that names the file, and the line where that is known."""
    try:
        return parse_json(read_text(path))
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{line}: not valid JSON ({why_no_json(error)})") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError as `read_json` does, and for another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def iter_jsonl(path: Path, required: Iterable[str] = ()) -> Iterator[Any]:
    """Yield the rows of a JSON-lines file.

    Raises UserError with file, row and field when a line is not UTF-8, not a JSON object, or lacks one of
    the `required` fields.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    required = tuple(required)
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8").removeprefix(BOM)
            except UnicodeDecodeError as error:
                raise not_utf8(f"{path}, row {number}", error) from None
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, row {number}: not valid JSON ({why_no_json(error)})") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, row {number}: expected a JSON object, found {type(row).__name__}")
            for field in required:
                if field not in row:
                    raise UserError(
                        f"{path}, row {number}: field '{field}' is missing; "
                        f"this row has {', '.join(row) or 'none'}"
                    )
            yield row


def read_jsonl(path: Path, required: Iterable[str] = ()) -> list[Any]:
    """The rows of `iter_jsonl`, all at once."""
    return list(iter_jsonl(path, required))


@contextmanager
def atomic_directory(
    path: Path, producer: str, rows: dict[str, int] | None = None, hashed: dict[str, str] | None = None
) -> Iterator[Path]:
    """Yield an empty temporary sibling; on success add its manifest and put it in place of `path`.

    The manifest lists the sha256 and size of every file, the row counts in `rows` (file name → rows) and the
    `producer` (a stage name). `hashed` has the sha256 of files that were hashed as they were written. Both
    dicts may be filled inside the block.
    """
    path = Path(path)
    with temporary_directory(path) as temporary, disk_errors(path, temporary):
        yield temporary
        _seal(temporary, producer, rows or {}, hashed)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
        fsync(path.parent)


@contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """Yield an empty sibling of `path`. It is removed at the end, by the next process if this is killed."""
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sibling(path: Path) -> Path:
    """Where to write what is to become `path`. What processes left there that were killed is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = left.name.split(".")[-2]
        if left == temporary or (process.isdecimal() and not _is_running(int(process))):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return temporary


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _seal(directory: Path, producer: str, rows: dict[str, int], hashed: dict[str, str] | None) -> None:
    """Add the manifest, and bring all files to the disk: it writes while they are hashed.

    All get the permissions that the directory has: safetensors makes files that no one else may read.
    """
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(directory.stat().st_mode & 0o666)
    with ThreadPoolExecutor(8) as pool:
        synced = [pool.submit(fsync, file) for file in directory.rglob("*")]
        write_manifest(directory, producer, rows, hashed)
        for each in synced:
            each.result()
    fsync(directory)


def write_manifest(
    directory: Path, producer: str, rows: dict[str, int], hashed: dict[str, str] | None = None
) -> None:
    files: dict[str, dict[str, Any]] = {}
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        if file.is_file() and name != MANIFEST:
            sha256 = (hashed or {}).get(name) or sha256_file(file)
            files[name] = {"sha256": sha256, "bytes": file.stat().st_size}
            if name in rows:
                files[name]["rows"] = rows[name]
    write_json(directory / MANIFEST, {"producer": producer, "files": files})


def verify_manifest(directory: Path, sized: Sequence[str] = ()) -> dict[str, Any]:
    """Return the manifest of `directory` after checking that its files are exactly those listed.

    Of the files in `sized`, whose contents the caller checks itself, only the size is compared.
    Raises UserError naming the first missing, extra or altered file, or a manifest that is none.
    """
    directory = Path(directory)
    manifest = read_object(directory / MANIFEST)
    present = {f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file()} - {MANIFEST}
    present = {name for name in present if Path(name).name != ".gitignore"}
    redo = f"delete {directory} and run `dvc repro` again"
    try:
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{directory / MANIFEST}: does not list files, bytes and sha256; {redo}") from None
    for name, (size, sha256) in listed.items():
        if name not in present:
            raise UserError(f"{directory / name}: listed in {MANIFEST} but missing; {redo}")
        if (directory / name).stat().st_size != size:
            raise UserError(f"{directory / name}: torn or edited (size is not the one in {MANIFEST}); {redo}")
        if name not in sized and sha256_file(directory / name) != sha256:
            raise UserError(
                f"{directory / name}: edited or damaged (checksum differs from {MANIFEST}); {redo}"
            )
    for name in sorted(present - set(listed)):
        raise UserError(f"{directory / name}: not listed in {MANIFEST} (a stray or duplicated file); {redo}")
    return manifest


def prune(scratch: Path, used: set[Path] | None = None) -> None:
    """Remove the scratch directories of other fingerprints, and from `scratch` what is not `used`.

    `scratch` is named `<stage>-<dataset>-<fingerprint of 16 hex digits>`; it need not exist. Without `used`
    nothing in it is removed.
    """
    pattern = re.compile(re.escape(scratch.name[:-16]) + "[0-9a-f]{16}")
    for other in scratch.parent.glob(f"{glob.escape(scratch.name[:-16])}*"):
        if other != scratch and pattern.fullmatch(other.name):
            shutil.rmtree(other)
    for path in set(scratch.iterdir()) - used if used is not None else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
