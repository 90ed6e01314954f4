"""Scoring the systems of a dataset on the rows of any file: `{query, pos}` or `{query, pos_index}`.

`pos_index` has ids of keys, `pos` their texts; a row may name its `task`, else the first of the dataset's.
"""

from collections.abc import Callable
from pathlib import Path

from stages.core.errors import UserError
from stages.core.stage import valid
from stages.kinds.kind import Blocks
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.comparing import Systems, compared_pages
from stages.kinds.retriever.parts.reading import InputRow, input_row
from stages.kinds.retriever.parts.rows import Keys, Row, asked_row, folder_of, read_tasks
from stages.sources.data_files import rows_of


def evaluate_rows(
    dataset: str, file: Path, blocks: Blocks, systems: list[str] | None, ask: Callable | None
) -> dict:
    """{task: figures as in retriever.json} of the rows of a file, of all systems or of those named.

    Of `ask` there is no use: no system is a teacher. Raises UserError for a row that cannot be read, or whose
    right key the task has not.
    """
    stage = "evaluate_retriever"
    knobs = valid(EvaluateRetrieverKnobs, blocks[stage].get(dataset, {}), f"params.yaml, {stage}.{dataset}")
    tasks = read_tasks(folder_of(knobs.rows, "scored"), knobs.evaluate, "evaluate")
    keys = {name: Keys(name, task.keys) for name, task in tasks.items()}
    rows: dict[str, list[Row]] = {}
    for number, (where, fields) in enumerate(rows_of([file])):
        row = input_row(where, fields)
        task = row.task or next(iter(keys))
        if task not in keys:
            raise UserError(f"{where}: field 'task': {task!r} is none of {', '.join(keys)}")
        rows.setdefault(task, []).append(resolved(where, number, row, keys[task]))
    if not rows:
        raise UserError(f"{file}: no row; expected {{query, pos}} or {{query, pos_index}}")
    models, made = Systems(dataset, knobs), {}
    for task, own in rows.items():
        ranked = models.rank(keys[task], own)
        names = list(ranked.hits) if systems is None else systems
        if unknown := [name for name in names if name not in ranked.hits]:
            known = ", ".join(ranked.hits)
            raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {known}")
        made[task] = compared_pages(ranked._replace(hits={n: ranked.hits[n] for n in names}), knobs)
    return made


def resolved(where: str, number: int, row: InputRow, keys: Keys) -> Row:
    """The row with ids of keys. Raises UserError."""
    field, named = ("pos_index", list(map(str, row.pos_index))) if row.pos_index else ("pos", row.pos)
    right = [keys.by_text.get(name, "") if field == "pos" else name for name in named]
    for name, key in zip(named, right, strict=True):
        if key not in keys.number:
            raise UserError(f"{where}: field '{field}': no key of {keys.task} is {name[:80]!r}")
    if not right:
        raise UserError(f"{where}: has no right key; give pos (texts of keys) or pos_index (their ids)")
    return asked_row(number, row.query, right, row.last, row.answers)


def table(scores: dict) -> str:
    """The means, a line for each task and system."""
    lines = []
    for task, own in scores.items():
        systems = {name: figures for name, figures in own.items() if name not in ("queries", "differences")}
        measures = list(next(iter(systems.values())))
        lines.append(
            f"{task + ', ' + str(own['queries']) + ' rows':24}" + "".join(f"{m:>12}" for m in measures)
        )
        for system, figures in systems.items():
            means = ("–" if value is None else f"{value['mean']:.3f}" for value in figures.values())
            lines.append(f"{system:24}" + "".join(f"{mean:>12}" for mean in means))
    return "\n".join(lines)
