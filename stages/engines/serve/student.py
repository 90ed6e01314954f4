"""What a kind of task says about serving its students: all that the server knows of a kind.

Light: a kind may name these types without importing the server.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from stages.core import layout
from stages.core.errors import UserError


def exported(dataset: str) -> Path:
    """The Hugging Face directory of its student. Raises UserError where there is none."""
    model = layout.model(dataset, "hf")
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no exported student; make it with `make {dataset}`")
    return model


class Reading(NamedTuple):
    """What a student's text says: as text and, where it calls one, the function's name and arguments."""

    content: str
    function: tuple[str, dict] | None


class Asked(NamedTuple):
    """What a chat asks a student: the prompt, and fields that the response has beside the answer."""

    prompt: str
    response: Mapping[str, Any]


class Served(NamedTuple):
    """How the student of one dataset is asked and read. The defaults: by its prompt alone, as plain text.

    metadata: fields that `document.metadata` has for every request of the dataset; a request adds its own.
    grammar: the Lark file of all its answers, whether or not that file is there; None: it has none.
    ask: (role, text) of the messages of a chat, of users and assistants, the last a user's → what is asked;
    None: student.md with that message. It is called in one thread, and may raise Refused.
    page: the HTML file of a page to ask on; None: there is none.
    read: (a student's text, the request) → what the text says; None: its students call no functions.
    evaluated_by: the stage whose block in params.yaml holds the decoding its students are measured with.
    """

    metadata: Mapping[str, Any] = MappingProxyType({})
    grammar: Path | None = None
    read: Callable[[str, str], Reading] | None = None
    ask: Callable[[Sequence[tuple[str, str]]], Asked] | None = None
    page: Path | None = None
    evaluated_by: str | None = None
