"""Scoring the systems of a dataset on the rows of any file: `{query, pos}` or `{query, pos_index}`.

`pos_index` has ids of keys, `pos` their texts; both may be one value or a list. A row may name its `task`,
the first of the dataset's otherwise, and have `answers`, `among` (ids) and `last`.
"""

from collections.abc import Callable
from pathlib import Path

from stages.core.errors import UserError
from stages.core.rows import as_text, kind_of, records
from stages.core.stage import valid
from stages.kinds.kind import Blocks
from stages.kinds.retriever import places
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.comparing import compared
from stages.kinds.retriever.parts.rows import Row, read_keys, tasks_in
from stages.kinds.retriever.parts.systems import Keys, Systems

EXPECTED = "expected {query, pos: [texts of keys]} or {query, pos_index: [their ids]}"


def evaluate_rows(
    dataset: str, file: Path, blocks: Blocks, systems: list[str] | None, ask: Callable | None
) -> dict:
    """{task: figures as in retriever.json} of the rows of a file, of all systems or of those named.

    Of `ask` there is no use: no system is a teacher.

    Raises UserError for a row that cannot be read, or whose right key the task has not.
    """
    stage = "evaluate_retriever"
    knobs = valid(EvaluateRetrieverKnobs, blocks[stage].get(dataset, {}), f"params.yaml, {stage}.{dataset}")
    folder = places.scored(knobs.rows)
    tasks = knobs.evaluate or tasks_in(folder)
    if not tasks:
        raise UserError(f"{folder}: has no tasks; `make {dataset}` makes them")
    keys = {task: Keys(task, read_keys(folder / task)) for task in tasks}
    rows: dict[str, list[Row]] = {task: [] for task in tasks}
    for number, values in records(file):
        task = values.get("task") or tasks[0]
        if task not in keys:
            raise UserError(f"{file}, row {number}: field 'task': {task!r} is none of {', '.join(tasks)}")
        rows[task].append(row_of(f"{file}, row {number}", number, values, keys[task]))
    if not any(rows.values()):
        raise UserError(f"{file}: no row; {EXPECTED}")
    models, made = Systems(dataset, knobs), {}
    for task, own in rows.items():
        if not own:
            continue
        hits = models.rank(keys[task], own)
        names = list(hits) if systems is None else systems
        if unknown := [name for name in names if name not in hits]:
            raise UserError(f"--systems: none is called '{unknown[0]}'; expected some of {', '.join(hits)}")
        chosen = {name: hits[name] for name in names}
        made[task] = {"rows": len(own), **compared(keys[task], own, chosen, knobs)}
    return made


def row_of(where: str, number: int, values: dict, keys: Keys) -> Row:
    """A row as the stages have it, grouped with those of its first right key. Raises UserError."""
    query, right = values.get("query"), []
    if not isinstance(query, str) or not query.strip():
        raise UserError(f"{where}: field 'query': {EXPECTED}, found {kind_of(query)}")
    for field, known in (("pos_index", keys.by_id), ("pos", keys.by_text)):
        for value in listed(values.get(field)):
            name = known.get((as_text(value) or "").strip())
            if name is None:
                raise UserError(f"{where}: field '{field}': no key of {keys.task} is {str(value)[:80]!r}")
            right.append(name)
        if right:
            break
    if not right:
        raise UserError(f"{where}: has no right key; {EXPECTED}")
    row: Row = {"id": str(number), "query": query, "pos": sorted(set(right)), "group": right[0]}
    for field in ("answers", "among"):
        if field in values:
            row[field] = list(map(str, listed(values[field])))  # type: ignore[literal-required]  # both are texts
    if unknown := [key for key in row.get("among", ()) if key not in keys.number]:
        raise UserError(f"{where}: field 'among': no key of {keys.task} is {unknown[0]!r}")
    return row


def listed(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def table(scores: dict) -> str:
    """The means of a table, a line for each task and system."""
    lines = []
    for task, own in scores.items():
        measures = next(list(figures) for name, figures in own.items() if name not in ("rows", "differences"))
        lines.append(f"{task + ', ' + str(own['rows']) + ' rows':24}" + "".join(f"{m:>12}" for m in measures))
        for system, figures in own.items():
            if system not in ("rows", "differences"):
                means = ("–" if value is None else f"{value['mean']:.3f}" for value in figures.values())
                lines.append(f"{system:24}" + "".join(f"{mean:>12}" for mean in means))
    return "\n".join(lines)
