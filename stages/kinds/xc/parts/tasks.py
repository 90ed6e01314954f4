"""The tasks of the kind xc, by name."""

from stages.kinds.kind import Task
from stages.kinds.xc.parts import categories, queries

TASKS: dict[str, Task] = {task.name: task for task in (queries.TASK, categories.TASK)}
