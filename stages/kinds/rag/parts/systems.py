"""What answers questions: the model of a name, opened as its kind is asked."""

from pathlib import Path

from stages.core import layout
from stages.core.prompts import Template
from stages.engines.protocol import Decoding
from stages.kinds.rag.parts.answering import FID, System
from stages.kinds.rag.parts.context import prompts_of
from stages.kinds.rag.parts.fid import FidSystem


def system_of(dataset: str, name: str, directory: Path, decoding: Decoding) -> System:
    """The system of that name of `models_of`. Raises UserError for a model that cannot answer."""
    if name == FID:
        return FidSystem(name, directory, Template(layout.prompt(dataset, "student")), decoding)
    return System(name, directory, prompts_of(dataset, directory), decoding)
