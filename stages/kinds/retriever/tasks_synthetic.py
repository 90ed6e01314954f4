"""Make retrieval rows without any question of people's: the queries that a student wrote for its documents.

Reads data/<of>/corpus/ and data/<of>/generated/ of the dataset `of`, and the file `eval_rows`. Writes
`data/<dataset>/tasks/qa/`: documents are the keys, each query is to find its own, and its split is that of
the document. Queries that equal an observed one, or one of people's in the file, are left out. It is what
GPL, InPars and Promptagator do. Promises the same bytes for the same inputs.
"""

from pathlib import Path

from stages.core.errors import UserError
from stages.kinds.retriever.knobs import TasksSyntheticKnobs
from stages.kinds.retriever.parts.made import write_and_tell
from stages.kinds.retriever.parts.pages import Pages
from stages.kinds.retriever.parts.rows import Task


def run(dataset: str, knobs: TasksSyntheticKnobs) -> dict:
    pages = Pages(knobs.of)
    rows = pages.synthetic(Path(knobs.eval_rows))
    if not rows["train"]:
        raise UserError(
            f"data/{knobs.of}/generated: no query about a document of train; raise `share` of "
            f"generate.{knobs.of}"
        )
    return write_and_tell(dataset, "tasks_synthetic", {"qa": Task(pages.keys(knobs.words), rows)}, {})
