"""Where machines meet: items on storage that all of them reach, and what a worker does with one.

A place is a directory of items, HOME/data/.work/NAME: either a path on a file system that the machines share,
where workers write in place, or a URL that fsspec opens (s3://, gs://, …), which they copy from and to.
Without RETORT_SHARED, HOME is the repository. With it, HOME is its value: the model, named by its hash, and
the items are copied there first.
"""

import fcntl
import json
import os
import socket
import time
from functools import cache
from pathlib import Path, PurePosixPath

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_path
from stages.core.hashing import model_fingerprint
from stages.engines.jobs import items
from stages.engines.load import engine_versions

VARIABLE = "RETORT_SHARED"
MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")  # what engines read of a directory
EVERY_S = 30.0  # a worker that copies saves the rows of an unfinished item this often


def place_of(directory: Path) -> str:
    """The place of a directory of items in scratch. Raises UserError for a URL that fsspec does not know."""
    home = os.environ.get(VARIABLE, "").rstrip("/")
    if not home:
        return str(directory.resolve())
    try:
        fs, root = url_to_fs(home)
    except (ImportError, ValueError) as error:
        raise UserError(f"{VARIABLE}={home}: {error}") from None
    return f"{root if isinstance(fs, LocalFileSystem) else home}/{layout.SCRATCH}/{directory.name}"


def publish(directory: Path, place: str, job: items.Job) -> None:
    """Copy to the place what workers need: the model, the items that are open, and last the job."""
    if place == str(directory.resolve()):
        return
    fs, root = url_to_fs(place)
    model = f"models/{job.fingerprint[:16]}/hf"
    read = [path for path in Path(job.model).iterdir() if path.suffix in MODEL_FILES]
    files = {path: f"{_home(root)}/{model}/{path.name}" for path in read}
    keys = [item.key for item in job.items if not items.is_finished(directory, item)]
    files |= {directory / f"{key}.todo": f"{root}/{key}.todo" for key in keys}
    for source, target in files.items():
        if not fs.exists(target) or fs.size(target) != source.stat().st_size:
            _put(fs, source, target)
    description = directory / "shared.json"
    items.write_job(description, job.model_copy(update={"model": model}))
    _put(fs, description, f"{root}/{items.JOB}")


def collect(directory: Path, place: str, job: items.Job) -> None:
    """Copy the items that are finished at the place, and not here, from there."""
    if place == str(directory.resolve()):
        return
    fs, root = url_to_fs(place)
    fs.invalidate_cache()
    for item in job.items:
        name = items.finished_name(item)
        if not items.is_finished(directory, item) and fs.exists(f"{root}/{name}"):
            _get(fs, f"{root}/{name}", directory / name)


def read_job(place: str) -> items.Job:
    """The job at a place. Raises UserError where this machine sees none."""
    fs, root = url_to_fs(place)
    if not fs.exists(f"{root}/{items.JOB}"):
        raise UserError(
            f"{place}: {socket.gethostname()} sees no {items.JOB} there; the machines have to share this "
            f"directory, or set {VARIABLE} to a path or a URL that they share (docs/guide/machines.md)"
        )
    return items.Job(**json.loads(fs.cat_file(f"{root}/{items.JOB}")))


def complete(place: str, item: items.Item) -> None:
    """Finish an item of a place, as a worker. Changes the working directory to the place's HOME.

    Raises UserError where this machine's engine or model is not what the job was made for.
    """
    fs, root = url_to_fs(place)
    job = _job(place)
    if isinstance(fs, LocalFileSystem):
        os.chdir(_home(root))
        items.finish(Path(root), item, job, _checked(Path(job.model), job.fingerprint))
    else:
        os.chdir(_cache())
        _complete_copy(fs, root, item, job)


def _complete_copy(fs: AbstractFileSystem, root: str, item: items.Item, job: items.Job) -> None:
    name, directory = items.finished_name(item), layout.SCRATCH / PurePosixPath(root).name
    fs.invalidate_cache()
    if fs.exists(f"{root}/{name}"):
        return
    _fetch_model(fs, f"{_home(root)}/{job.model}", Path(job.model))
    for source in [f"{root}/{item.key}.todo", *fs.glob(f"{root}/{item.key}.*.part")]:
        _get(fs, source, directory / PurePosixPath(source).name)
    saved = time.monotonic()

    def save(part: Path) -> None:
        nonlocal saved
        if time.monotonic() - saved >= EVERY_S:
            _put(fs, part, f"{root}/{part.name}")
            saved = time.monotonic()

    items.finish(directory, item, job, _checked(Path(job.model), job.fingerprint), save)
    _put(fs, directory / name, f"{root}/{name}")
    for file in directory.glob(f"{item.key}.*"):
        file.unlink()


@cache
def _job(place: str) -> items.Job:
    job = read_job(place)
    versions = engine_versions(job.decoding)
    if versions != job.versions:
        raise UserError(
            f"{socket.gethostname()}: engine {job.decoding.engine} is {versions} here and {job.versions} "
            "where the job was made; install the same requirements.lock on both"
        )
    return job


@cache
def _checked(model: Path, fingerprint: str) -> Path:
    if model_fingerprint(model) != fingerprint:
        raise UserError(
            f"{model.resolve()} on {socket.gethostname()}: not the model that the job was made for; delete "
            "it, run the stage again where the job was made, and then this"
        )
    return model


def _fetch_model(fs: AbstractFileSystem, source: str, model: Path) -> None:
    model.mkdir(parents=True, exist_ok=True)
    with open(model.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of a machine want it at the same time
        for path in fs.find(source):
            target = model / PurePosixPath(path).name
            if not target.is_file():
                _get(fs, path, target)


def _home(root: str) -> str:
    return str(PurePosixPath(root).parents[2])


def _cache() -> Path:
    """The HOME of what this machine copied."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "retort")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _put(fs: AbstractFileSystem, source: Path, target: str) -> None:
    if isinstance(fs, LocalFileSystem):
        _get(fs, str(source), Path(target))
    else:
        fs.put_file(str(source), target)  # object stores show an object when it is whole


def _get(fs: AbstractFileSystem, source: str, target: Path) -> None:
    with atomic_path(target) as temporary:
        fs.get_file(source, str(temporary))
