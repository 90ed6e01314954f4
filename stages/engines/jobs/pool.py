"""Worker processes on this machine that finish items."""

import atexit
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from stages.core.errors import UserError
from stages.core.processes import collect_seldom
from stages.core.progress import Progress
from stages.engines.jobs import items

_job = None
_done = None  # rows finished by all workers, for the progress display


def run_items(
    directory: Path, job: items.Job, open_items: list[items.Item], workers: int, label: str
) -> None:
    """Finish `open_items` of a directory with `workers` processes, the largest first.

    A worker loads the model once. Raises UserError from an engine, or when a worker is killed.
    """
    todo = sorted(open_items, key=lambda item: (-item.rows, item.shard))
    before = sum(len(items.saved(directory, item.key)) for item in todo)
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", before)
    with (
        ProcessPoolExecutor(min(workers, len(todo)), context, _start, (job, done)) as pool,
        Progress(sum(item.rows for item in todo), label, "row", before) as shown,
    ):
        try:
            pending = {pool.submit(_work, directory, item) for item in todo}
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                shown.update(done.value - shown.done)
                for future in finished:
                    future.result()
        except BrokenProcessPool:
            raise UserError(
                "a generating worker died: killed for want of memory, or a crash in the engine; lower "
                "workers or batch_size, or try another engine, and run again (finished rows are kept)"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _start(job: items.Job, done) -> None:
    global _job, _done
    _job, _done = job, done
    collect_seldom()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    # Rows are saved: taking torch and openvino apart would only keep the parent waiting.
    atexit.register(os._exit, 0)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)  # the parent was killed: a worker must not go on writing

    threading.Thread(target=follow, daemon=True).start()


def _work(directory: Path, item: items.Item) -> None:
    items.finish(directory, item, _job, Path(_job.model), _count)


def _count(_) -> None:
    with _done.get_lock():
        _done.value += 1
