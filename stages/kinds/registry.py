"""The kinds of task that this project has: a new one is one line here.

The spine asks this module by the name of a task or a stage, and never names a kind.
"""

import difflib
import importlib
from collections.abc import Iterable
from functools import cache
from typing import Annotated

from pydantic import AfterValidator

from stages.core.errors import UserError
from stages.core.stage import Stage
from stages.kinds.academic import KIND as ACADEMIC
from stages.kinds.kind import Kind, Task
from stages.kinds.rag import KIND as RAG
from stages.kinds.retriever import KIND as RETRIEVER
from stages.kinds.skills import KIND as SKILLS
from stages.kinds.xc import KIND as XC

KINDS: tuple[Kind, ...] = (XC, SKILLS, RETRIEVER, RAG, ACADEMIC)


def check(kinds: Iterable[Kind], spine: Iterable[Stage] = ()) -> None:
    """Raises UserError where a kind, a stage or a task is registered twice."""
    owners = {("stage", stage.name): "the spine" for stage in spine}
    for kind in kinds:
        names = [("kind", kind.name), *(("task", task) for task in kind.tasks)]
        for entry in [*names, *(("stage", stage.name) for stage in kind.stages)]:
            if entry in owners:
                what, name = entry
                raise UserError(
                    f"stages/kinds/registry.py: the {what} '{name}' is registered twice, by {owners[entry]} "
                    f"and by the kind '{kind.name}'; rename or remove one"
                )
            owners[entry] = f"the kind '{kind.name}'"


@cache
def task(name: str) -> Task:
    """The task of that name. Raises UserError for a name that no kind has."""
    modules = {task: module for kind in KINDS for task, module in kind.tasks.items()}
    module, _, attribute = modules[known_task(name)].partition(":")
    return getattr(importlib.import_module(module), attribute or "TASK")


def kinds_of(stages: set[str]) -> list[Kind]:
    """The kinds that have one of these stages, by name."""
    return [kind for kind in KINDS if any(stage.name in stages for stage in kind.stages)]


def task_names() -> list[str]:
    return [task for kind in KINDS for task in kind.tasks]


def default_task() -> str:
    """What params that name no task mean: the first task of the first kind."""
    return task_names()[0]


def known_task(name: str) -> str:
    """The name itself. Raises ValueError where no kind has such a task."""
    if name not in task_names():
        raise ValueError(f"no task is called '{name}'{nearest(name, task_names())}")
    return name


TaskName = Annotated[str, AfterValidator(known_task)]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: what was probably meant, if anything is close."""
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
