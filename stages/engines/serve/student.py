"""What a kind of task says about serving its students: all that the server knows of a kind.

Light: a kind may name these types without importing the server.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """What a student's text says: as text and, where it calls one, the function's name and arguments."""

    content: str
    function: tuple[str, dict] | None


class Served(NamedTuple):
    """How the student of one dataset is asked and read. The defaults: by its prompt alone, as plain text.

    metadata: fields that `document.metadata` has for every request of the dataset; a request adds its own.
    grammar: the Lark file of all its answers, whether or not that file is there; None: it has none.
    read: (a student's text, the request) → what the text says; None: its students call no functions.
    evaluated_by: the stage whose block in params.yaml holds the decoding its students are measured with.
    """

    metadata: Mapping[str, Any] = MappingProxyType({})
    grammar: Path | None = None
    read: Callable[[str, str], Reading] | None = None
    evaluated_by: str | None = None
