"""DVC's own command line, with less work for each stage of a large graph: `python -m stages.core.dvc`.

DVC rewrites dvc.lock after every stage, and reads it for that with the parser that keeps comments and the
layout of lines: half a second for 129 stages. It writes dvc.lock itself, with neither, so the parser in C is
enough and gives the same bytes. Other files, which people write, are read as ever. DVC tells nothing more of
a stage that has told in one line why it failed. And what it keeps for its next command is renamed into place:
DVC empties such a file and writes it anew, and a kill in that time would leave a torn one, at which every
later command stops.

A debt: it replaces functions of the pinned DVC. It goes as soon as DVC itself reads and writes its lock so.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from dvc import cli
from dvc.fs import LocalFileSystem
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils.serialize import _yaml

from stages.core.processes import collect_seldom

KEPT = ("dvc.lock", "rwlock")  # the second: which process reads and writes which outputs
keep_all, open_in_place = _yaml.parse_yaml_for_update, LocalFileSystem.open


def parse(text: str, path: str) -> object:
    return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else keep_all(text, path)


def open_file(fs: LocalFileSystem, path: str, mode: str = "r", **options: Any) -> AbstractContextManager[IO]:
    whole = "w" in mode and Path(path).name in KEPT
    return renamed(path, mode, **options) if whole else open_in_place(fs, path, mode, **options)


@contextmanager
def renamed(path: str, mode: str, **options: Any) -> Iterator[IO]:
    """Open a sibling of `path` that takes its place when it is closed without an error.

    One process writes there at a time, by DVC's own locks: what a killed one left is written over. Nothing is
    flushed to disk: a kill loses nothing that is written, and DVC edits these files for every stage.
    """
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    with open(temporary, mode, **options) as stream:
        yield stream
    os.replace(temporary, path)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a message of DVC says more than a stage has said that ended with 2."""
    error = record.exc_info[1] if record.exc_info else None
    while error and not isinstance(error, StageCmdFailedError):
        error = error.__cause__
    return not (error and str(error).endswith("exited with 2"))


if __name__ == "__main__":
    collect_seldom()
    cli.logger.addFilter(is_news)
    _yaml.parse_yaml_for_update, LocalFileSystem.open = parse, open_file
    sys.exit(cli.main(sys.argv[1:]))
