"""Compare systems on held-out queries: the retriever before and after training, BM25, both, a reranker.

Reads the test rows in `data/<rows>/scored/`, the training rows in `data/<trained_on>/scored/`, the models
`base`, `models/<dataset>/retriever/`, `reranker` and `lm`, and the file `eval_rows`: queries in people's
wording for the keys of qa, or else of the first task. Writes `reports/<dataset>/figures/retriever.json`
({task: {system: {measure: interval}, differences: {…}}}, and `people` in the same shape),
`retriever_misses.json`, and `data/<dataset>/runs/`: a TREC run of each task and system, and qrels.
All systems choose from the same keys: those of the task, or of the row where it brings its own. A query that
training has, too, ends the stage. docs/kinds/retriever.md defines the measures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.core import layout
from stages.core.files import atomic_directory, write_json
from stages.evaluation.people import check_unseen, read_rows, right_places
from stages.evaluation.ranking import write_qrels, write_run
from stages.kinds.retriever.knobs import EvaluateRetrieverKnobs
from stages.kinds.retriever.parts.comparing import (
    EDGES,
    Systems,
    check_leaks,
    compared,
    compared_pages,
    cosines,
    misses,
)
from stages.kinds.retriever.parts.downstream import Reader, rewarded
from stages.kinds.retriever.parts.rows import Asked, Keys, Task, asked_row, folder_of, read_tasks

PEOPLE, PAGES = "people", "qa"


def run(dataset: str, knobs: EvaluateRetrieverKnobs) -> dict:
    folder, people = folder_of(knobs.rows, "scored"), Path(knobs.eval_rows)
    tasks = read_tasks(folder, knobs.evaluate, "evaluate")
    training = read_tasks(folder_of(knobs.trained_on, "scored"))
    asked = read_rows(people, Asked)
    about = PAGES if PAGES in tasks else next(iter(tasks))
    keys_of = {
        name: Keys(name, task.keys if asked and name == about else task.keys_of("test"))
        for name, task in tasks.items()
    }
    rows_of = {name: task.splits["test"] for name, task in tasks.items()}
    told = {
        name: {"leaks": check_leaks(folder / name / "test.jsonl", keys_of[name], rows, training)}
        for name, rows in rows_of.items()
    }
    check_people(people, asked, keys_of[about], training)
    systems, reader = Systems(dataset, knobs), Reader(knobs)
    figures: dict[str, dict] = {}
    missed: dict[str, list[dict]] = {}
    with atomic_directory(folder_of(dataset, "runs"), "evaluate_retriever") as runs:
        for task, rows in rows_of.items():
            ranked = systems.rank(keys := keys_of[task], rows)
            figures[task] = compared(ranked, knobs)
            for more in (rewarded(ranked, knobs), reader.read(ranked)):
                merge(figures[task], more)
            missed[task] = misses(ranked)
            right = {row["id"]: row["pos"] for row in rows if row["pos"]}
            told[task] |= {"rows": len(rows), "labelled": len(right), "keys": len(keys.ids)}
            told[task]["cosines"] = {name: cosines(ranked, name) for name in ("base", "trained") if right}
            write_qrels(runs / f"{task}.qrels", right)
            for system, found in ranked.hits.items():
                rankings = {row["id"]: keys.ranking(found, place) for place, row in enumerate(rows)}
                write_run(runs / f"{task}.{system}.trec", system, rankings)
    if asked:
        rows = [asked_row(number, row.query, row.pos_index, row.last) for number, row in enumerate(asked)]
        ranked = systems.rank(keys_of[about], rows)
        figures[PEOPLE] = compared_pages(ranked, knobs, [row.kind for row in asked])
        missed[PEOPLE] = misses(ranked)
    write_json(layout.figures(dataset) / "retriever.json", figures)
    write_json(layout.figures(dataset) / "retriever_misses.json", missed)
    return {"tasks": told, "edges": EDGES.round(2).tolist(), PEOPLE: {"rows": len(asked), "task": about}}


def check_people(path: Path, asked: Sequence[Asked], keys: Keys, training: Mapping[str, Task]) -> None:
    """Raises UserError for a query whose key is not there, or that was trained on."""
    right_places(path, asked, {key: key for key in keys.ids})
    seen = (
        (f"task {name}, row {row['id']!r}", text)
        for name, task in training.items()
        for row in task.rows("train", "val")
        for text in (row["query"], row.get("last", ""))
    )
    check_unseen(path, [row.query for row in asked], seen)


def merge(figures: dict, more: dict) -> None:
    """Add measures to those of the same systems and differences."""
    for name, own in more.items():
        if name == "differences":
            merge(figures.setdefault(name, {}), own)
        else:
            figures.setdefault(name, {}).update(own)
