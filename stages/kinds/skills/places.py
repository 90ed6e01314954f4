"""Where the data of this kind lie, beside what stages.core.layout says of all datasets."""

from pathlib import Path


def skills(dataset: str) -> Path:
    """The functions that a student of this dataset may call, and their grammar."""
    return Path("data") / dataset / "skills"


def candidates(dataset: str) -> Path:
    return Path("data") / dataset / "candidates"


def decisions(dataset: str) -> Path:
    """What people decided about candidates: their work, so it is kept in git."""
    return Path("prompts") / dataset / "decisions.jsonl"
