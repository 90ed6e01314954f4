"""Where the answers of an earlier run may lie on a machine whose store does not know them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.core.errors import UserError

LOCK = Path("dvc.lock")


def earlier_outputs(path: Path) -> Iterator[Path]:
    """`path` itself, then the copy of it in DVC's cache.

    DVC deletes a stage's outputs before it runs the stage, so a pulled file is gone by the time it is wanted.
    But `dvc.lock` still names the deleted file's md5 (DVC rewrites the entry only after the stage succeeds),
    and the cache still holds the content under that md5.
    """
    if path.is_file():
        yield path
    md5 = _recorded_md5(path)
    if md5 is None:
        return
    cached = _cache_directory() / "files" / "md5" / md5[:2] / md5[2:]
    if cached.is_file():
        yield cached
    elif not path.is_file():
        note = f"{LOCK} names answers that are not on this machine; `dvc pull {path}` saves asking again"
        print(f"note: {note}", file=sys.stderr)


def _recorded_md5(path: Path) -> str | None:
    if not LOCK.is_file():
        return None
    from ruamel.yaml import YAML

    stages = (YAML(typ="safe").load(LOCK) or {}).get("stages", {})
    outputs = (out for stage in stages.values() for out in stage.get("outs", []))
    return next((out.get("md5") for out in outputs if out["path"] == path.as_posix()), None)


def _cache_directory() -> Path:
    """Ask DVC: the directory is configurable, by project, user and machine."""
    asked = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    if asked.returncode != 0:
        raise UserError(f"`dvc cache dir` failed: {asked.stderr.strip().splitlines()[-1]}")
    return Path(asked.stdout.strip())
