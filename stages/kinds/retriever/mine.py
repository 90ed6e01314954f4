"""Find hard negatives: keys that rank high for a query and are not what it asks for.

Reads data/DATASET/tasks/, ENCODER and RERANKER. Writes data/DATASET/mined/: the same rows and keys, and
`neg`, best first. Rows that bring `neg` keep theirs; rows with candidates of their own (`among`) get those
that are no positives; rows of tasks that are not in `tasks` pass as they are.
"""

from stages.core.errors import UserError
from stages.kinds.retriever.knobs import MineKnobs
from stages.kinds.retriever.parts.mining import mined
from stages.kinds.retriever.parts.rows import Keys, folder_of, read_tasks, write_tasks
from stages.retrieval.knobs import MODEL, method_of
from stages.retrieval.vectors import Vectors


def run(dataset: str, knobs: MineKnobs) -> dict:
    if method_of(knobs.encoder, "encoder", ("none",)) != MODEL and knobs.by != "bm25":
        raise UserError(f"encoder: {knobs.encoder}: by {knobs.by} needs a sentence-transformers directory")
    tasks, vectors = read_tasks(folder_of(dataset, "tasks")), Vectors()
    figures = {name: mined(Keys(name, own.keys), own.rows(), knobs, vectors) for name, own in tasks.items()}
    write_tasks(folder_of(dataset, "mined"), "mine", tasks)
    return {"tasks": figures}
