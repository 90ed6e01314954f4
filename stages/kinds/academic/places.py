"""Where the data of this kind lie, beside what stages.core.layout says of all datasets."""

from pathlib import Path


def chunks(dataset: str) -> Path:
    """chunks.jsonl (rows Passage of stages/retrieval/passages.py) and questions.jsonl (parts/rows.py)."""
    return Path("data") / dataset / "chunks"


def answers(dataset: str) -> Path:
    """What each model answers (rows Answer of parts/rows.py)."""
    return Path("data") / dataset / "benchmark.jsonl"


def times(dataset: str) -> Path:
    """How long they took over some (rows Time of parts/rows.py): apart, since no two runs are alike in it."""
    return Path("data") / dataset / "benchmark_times.jsonl"


def tables(dataset: str) -> Path:
    """<model>.csv, with the columns of the original."""
    return Path("reports") / dataset / "answers"
