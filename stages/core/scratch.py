"""Scratch directories, <stage>-<dataset>-<fingerprint>: unfinished work, and work that may be used again."""

import re
import shutil
from pathlib import Path


def prune(scratch: Path, used: set[Path]) -> None:
    """Remove the directories of other fingerprints, and the files in `scratch` that are not `used`."""
    pattern = re.compile(re.escape(scratch.name[:-16]) + "[0-9a-f]{16}")
    for other in scratch.parent.iterdir():
        if other != scratch and pattern.fullmatch(other.name):
            shutil.rmtree(other)
    for path in set(scratch.iterdir()) - used:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
