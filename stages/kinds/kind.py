"""The contract of a kind of task: everything that the spine knows of one.

A kind is a package of `stages/kinds/` whose `__init__.py` defines `KIND`, and a line in registry.py. The
spine asks the registry; it never names a kind, and kinds never import each other. docs/dev/add-a-kind.md
walks through one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from stages.core.records import Document
from stages.core.stage import Stage

# Said wherever figures of a dataset's eval_rows are shown.
COMPOSED = (
    "The rows that ship with the project were composed by reading each page or skill file, not logged from "
    "users: no substitute for your users' words."
)
FEWEST = 30  # things to measure on, from which a mean says something


def few(count: int) -> str:
    """What to say behind the number of things that a mean is over: nothing, unless these are few."""
    return f" (fewer than {FEWEST} say little: hold out more)" if count < FEWEST else ""


Blocks = Mapping[str, Mapping[str, dict]]  # the params of all files: {stage: {dataset: knobs}}


@dataclass(frozen=True)
class Task:
    """What a model is asked to write about a document, and how that is read. All functions are pure.

    `parse_answer(response, form, cut)` reads a teacher's answer (form: text, json or tool; cut: it ended at
    the token limit) as whatever the task makes of it, and raises ValueError where it is not in that form. Of
    such an answer `fit(answer, document)` is the part that may be used, `flat(answer)` its texts, and
    `output(answer)` what the student is to write. A single text is judged by `well_formed(text)` and
    `reject(text, document)`: why it may not be used, or None. `left_out` says why `fit` leaves out a text
    that is not rejected.
    """

    name: str  # also what its texts are called, in the plural: "queries"
    column: str  # of the generated rows: the texts of an answer, parsed
    Answer: type[BaseModel]  # the shape of a structured answer; sent to the teacher, so part of request keys
    lines: Callable[[str], list[tuple[int, str]]]  # the texts in an answer, each with its line from 0
    parse: Callable[[str], list[str]]  # these texts, each once
    parse_answer: Callable[[str, str, bool], Any]
    fit: Callable[[Any, Document], Any]
    flat: Callable[[Any], list[str]]
    output: Callable[[Any], str]
    well_formed: Callable[[str], bool]
    reject: Callable[[str, Document], str | None]
    left_out: str | None = None
    subject: Callable[[Document], str | None] = lambda document: None  # what must not stay without any answer


def no_problems(blocks: Blocks) -> str | None:
    return None


@dataclass(frozen=True)
class Kind:
    """A kind of task. Modules are dotted names, so that a kind is known without being imported."""

    name: str
    stages: tuple[Stage, ...]
    tasks: Mapping[str, str] = field(default_factory=dict)  # name -> module with TASK, or module:NAME
    report: str = ""  # module with `report(figures) -> Report` (stages/reporting/page.py)
    serving: str = ""  # module with `served(dataset) -> Served` (stages/engines/serve/student.py)
    # For rows of any file, a module with `evaluate_rows(dataset, file, blocks, systems, ask) -> scores` and
    # `table(scores) -> str`. `ask(documents)` gives the teacher's answers; None: it is not to be asked.
    rows: str = ""
    headline: tuple[str, ...] = ()  # measures of metrics.json that `build` prints
    summary: Callable[[dict], list[str]] = lambda figures: []  # further lines that `build` prints
    problem: Callable[[Blocks], str | None] = no_problems  # what its blocks lack, for the check of params
