"""Worker processes that generate shards, each row saved as it finishes, so that a killed run goes on."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import NamedTuple

from stages.engines.protocol import Decoding, open_engine
from stages.support.errors import UserError
from stages.support.progress import Progress


class Row(NamedTuple):
    document_id: str
    sample: int
    prompt: str
    seed: int


_done = None  # rows finished by all workers, for the progress display


def saved(path: Path) -> dict[tuple[str, int], dict]:
    """The rows saved in a shard's scratch file, by (document_id, sample); cut off from a torn line on."""
    if not path.is_file():
        return {}
    rows, whole = {}, 0
    with open(path, "rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            rows[row["document_id"], row["sample"]] = row
            whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return rows


def run_shards(
    jobs: dict[Path, list[Row]],
    directory: Path,
    decoding: Decoding,
    workers: int,
    label: str,
    grammar: str | None = None,
) -> None:
    """Complete the scratch file of every job (file → its rows) with `workers` processes, largest job first.

    A worker loads the model once. Raises UserError from an engine, or when a worker is killed.
    """
    missing = {path: len(rows) - len(saved(path)) for path, rows in jobs.items()}
    todo = sorted((path for path in jobs if missing[path]), key=lambda path: (-missing[path], path))
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    with (
        ProcessPoolExecutor(min(workers, len(todo)), context, _start, (done,)) as pool,
        Progress(sum(missing.values()), label, "row") as shown,
    ):
        try:
            pending = {pool.submit(_work, path, jobs[path], directory, decoding, grammar) for path in todo}
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


def _start(done) -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)  # the parent was killed: a worker must not go on writing

    threading.Thread(target=follow, daemon=True).start()


_engine = cache(open_engine)


def _work(path: Path, rows: Iterable[Row], directory: Path, decoding: Decoding, grammar: str | None) -> None:
    finished = saved(path)
    rows = [row for row in rows if (row.document_id, row.sample) not in finished]
    answers = _engine(directory, decoding).generate(
        [row.prompt for row in rows], decoding, [row.seed for row in rows], grammar
    )
    with open(path, "a", encoding="utf-8", newline="\n") as stream:
        for answer in answers:
            row = rows[answer.index]
            record = {"document_id": row.document_id, "sample": row.sample, **answer._asdict()}
            del record["index"]
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            stream.flush()
            with _done.get_lock():
                _done.value += 1
