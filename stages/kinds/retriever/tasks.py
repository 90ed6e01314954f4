"""Read rows of retrieval tasks that people bring, and split them: queries and the keys that they should find.

Reads a folder of files, or one file: LLM-Embedder's JSON lines unchanged, `{query, pos, neg?, answers?}`,
or documents and questions. Writes `data/<dataset>/tasks/`: a folder a task with keys.jsonl, train.jsonl,
val.jsonl and test.jsonl, and a manifest. Rows are held out by the names of their files, else by a hash of
their group; rows with the same query share a split, and where files put them into two, that is an error.
Promises the same bytes for the same rows.
"""

from stages.kinds.retriever.knobs import TasksKnobs
from stages.kinds.retriever.parts.made import write_and_tell
from stages.kinds.retriever.parts.reading import tasks_of_files


def run(dataset: str, knobs: TasksKnobs) -> dict:
    made, found = tasks_of_files(knobs)
    return write_and_tell(dataset, "tasks", made, found)
