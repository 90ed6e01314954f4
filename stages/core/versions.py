"""Which version of everything this is: the git commit, and the content hashes in dvc.lock."""

import subprocess
from pathlib import Path

from stages.core.errors import UserError
from stages.core.yaml_text import read_yaml

LOCK = Path("dvc.lock")


def git(*arguments: str) -> str | None:
    """The output of a git command; None where it fails, as outside of a repository, or without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def locked_hashes() -> dict[str, str]:
    """Path → md5 of every output in dvc.lock; empty without that file.

    DVC writes the entries of a stage when the stage has succeeded, so those of all it reads are up to date.
    Raises UserError for a file that is no lock, such as one with the marks of a merge.
    """
    try:
        lock = read_yaml(LOCK) if LOCK.is_file() else {}
        outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", ())]
        return {out["path"]: out["md5"] for out in outs if "md5" in out}
    except (UserError, AttributeError, TypeError, KeyError) as error:
        why = error if isinstance(error, UserError) else f"{LOCK}: not a lock file of DVC"
        raise UserError(f"{why}; take one side of a merge, or delete it and run again") from None
