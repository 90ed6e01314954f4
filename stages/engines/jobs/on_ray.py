"""Items as tasks of an existing Ray cluster.

Prompts and rows do not pass through Ray: a task is told the place and the item, and reads and writes there
(stages/engines/jobs/shared.py). The code travels as a `py_modules` package; the environment, which is what
requirements.lock says and Ray itself, is the workers' own.
"""

import os
import socket
from pathlib import Path

from stages.core.errors import UserError
from stages.core.progress import Progress
from stages.engines.jobs.items import Item
from stages.engines.jobs.shared import complete

INSTALL = "pip install ray==2.60.0"
RETRIES = 8  # of an item whose worker is lost: each goes on from the rows that the last one left


def run_items(place: str, open_items: list[Item], num_cpus: float, num_gpus: float, label: str) -> None:
    """Finish `open_items` of a place on the cluster at RAY_ADDRESS, or the one this machine is part of.

    `num_cpus` and `num_gpus` are what Ray sets aside for a worker. Raises UserError where there is no
    cluster, from an engine, and for an item whose workers are lost again and again.
    """
    ray = _connect()
    # max_calls=0: else Ray ends a worker with a GPU after each task, and the model would be loaded anew.
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES, max_calls=0)(complete)
    todo = sorted(open_items, key=lambda item: (-item.rows, item.shard))
    try:
        with Progress(sum(item.rows for item in todo), label, "row") as shown:
            rows = {task.remote(place, item): item.rows for item in todo}
            while rows:
                (ended,), _ = ray.wait(list(rows))
                ray.get(ended)
                shown.update(rows.pop(ended))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise UserError(
            f"a shard lost its worker {RETRIES + 1} times ({type(error).__name__}); give workers more "
            "memory, or lower batch_size, and run again (finished rows are kept)"
        ) from None
    finally:
        ray.shutdown()


def _connect():
    try:
        import ray
    except ImportError:
        raise UserError(f"runner ray: Ray is not installed; {INSTALL}, here and on the workers") from None

    address = os.environ.get("RAY_ADDRESS", "auto")
    code = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["__pycache__"]}
    try:
        if address.count(":") == 1:  # Ray ends the process where it cannot reach one
            host, port = address.split(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level="warning")
    except (OSError, ValueError) as error:
        raise UserError(
            f"runner ray: no cluster at {address} ({error}); start one with `ray start --head`, or set "
            "RAY_ADDRESS to the one that you have"
        ) from None
    return ray
