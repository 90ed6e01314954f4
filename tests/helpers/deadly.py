"""A reader of PDFs that dies of one: apart, since processes import the whole of the module that it is in."""

import os
from pathlib import Path

from stages.sources.papers import Paper, read_paper


def read(path: Path) -> Paper:
    if path.name == "deadly.pdf":
        os.kill(os.getpid(), 9)
    return read_paper(path, ())
