"""Where the data of this kind lie, beside what stages.core.layout says of all datasets."""

from pathlib import Path


def filtered(dataset: str) -> Path:
    return Path("data") / dataset / "filtered"


def packed(dataset: str) -> Path:
    """The dataset in the format of the XC repository."""
    return Path("data") / dataset / "xc"


def mapped(dataset: str) -> Path:
    return Path("data") / dataset / "mapped"
