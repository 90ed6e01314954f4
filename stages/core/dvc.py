"""DVC's own command line, with less work for each stage of a large graph: `python -m stages.core.dvc`.

DVC rewrites dvc.lock after every stage, and reads it for that with the parser that keeps comments and the
layout of lines: half a second for 129 stages. It writes dvc.lock itself, with neither, so the parser in C is
enough and gives the same bytes. Other files, which people write, are read as ever. And DVC tells nothing
more of a stage that has told in one line why it failed.

A debt: it replaces a private function of the pinned DVC. It goes as soon as DVC itself reads its lock so.
"""

import logging
import sys
from pathlib import Path

from dvc import cli
from dvc.stage.exceptions import StageCmdFailedError
from dvc.utils.serialize import _yaml

from stages.core.processes import collect_seldom

keep_all = _yaml.parse_yaml_for_update


def parse(text: str, path: str) -> object:
    return _yaml.parse_yaml(text, path) if Path(path).name == "dvc.lock" else keep_all(text, path)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a message of DVC says more than a stage has said that ended with 2."""
    error = record.exc_info[1] if record.exc_info else None
    while error and not isinstance(error, StageCmdFailedError):
        error = error.__cause__
    return not (error and str(error).endswith("exited with 2"))


if __name__ == "__main__":
    collect_seldom()
    cli.logger.addFilter(is_news)
    _yaml.parse_yaml_for_update = parse
    sys.exit(cli.main(sys.argv[1:]))
