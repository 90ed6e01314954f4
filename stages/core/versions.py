"""Which version of everything this is: the git commit, and the content hashes in dvc.lock."""

import subprocess
from pathlib import Path


def git(*arguments: str) -> str | None:
    """The output of a git command; None outside of a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def locked_hashes() -> dict[str, str]:
    """Path → md5 of every output that dvc.lock knows. Upstream entries are written before a stage starts."""
    from ruamel.yaml import YAML

    lock = YAML(typ="safe").load(Path("dvc.lock")) if Path("dvc.lock").is_file() else {}
    outs = (out for stage in lock.get("stages", {}).values() for out in stage.get("outs", ()))
    return {out["path"]: out["md5"] for out in outs if "md5" in out}
