"""Where the data of this kind lie, beside what stages.core.layout says of all datasets.

Each of the three folders of rows has a folder a task: TASK/{train,val,test}.jsonl (parts/rows.py), and TASK/
keys.jsonl, what the rows of the task retrieve from. `mined` and `scored` repeat the keys, so that a folder
can be read alone.
"""

from pathlib import Path


def tasks(dataset: str) -> Path:
    return Path("data") / dataset / "tasks"


def mined(dataset: str) -> Path:
    """The same rows with negatives."""
    return Path("data") / dataset / "mined"


def scored(dataset: str) -> Path:
    """The same rows with the scores of a language model."""
    return Path("data") / dataset / "scored"


def runs(dataset: str) -> Path:
    """What each system found for the test rows, as TREC files."""
    return Path("data") / dataset / "runs"
