"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from stages.kinds.kind import Blocks, Kind
from stages.kinds.retriever.knobs import STAGES

MAKERS = ("tasks", "tasks_synthetic", "tasks_embedded")
# What makes documents, and a student's queries about them, in order.
WRITTEN_BY = (
    *("corpus", "corpus_xc", "prompt", "collect", "convert", "tokenize", "finetune", "merge", "export"),
    "generate",
)
READERS = ("train_retriever", "train_reranker", "evaluate_retriever")


def before(dataset: str, blocks: Blocks) -> list[str]:
    """The documents and queries that its rows are made of; then these rows, where another dataset has them."""
    sources = {blocks[stage][dataset].get("of") for stage in MAKERS if dataset in blocks[stage]}
    targets = [
        f"{stage}@{name}" for name in sources for stage in WRITTEN_BY if name and name in blocks[stage]
    ]
    rows = {blocks[stage][dataset].get("rows") for stage in READERS if dataset in blocks[stage]}
    for name in sorted(rows - {None, dataset}):
        made = [f"{stage}@{name}" for stage in (*MAKERS, "mine", "score") if name in blocks[stage]]
        targets += [*before(name, blocks), *made]
    return targets


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    tasks = {dataset for stage in MAKERS for dataset in blocks[stage]}
    for stage in READERS:
        needed = tasks if stage == "evaluate_retriever" else tasks & blocks["score"].keys()
        for dataset, knobs in blocks[stage].items():
            if "rows" in knobs and knobs["rows"] not in needed:
                made = f"{stage}.{dataset}.rows: no rows are made for '{knobs['rows']}'"
                return f"{made} ({', '.join(MAKERS)}{'' if needed is tasks else '; score'})"
    for stage in ("tasks_synthetic", "tasks_embedded"):
        for dataset, knobs in blocks[stage].items():
            if "of" in knobs and knobs["of"] not in blocks["generate"]:
                return f"{stage}.{dataset}.of: generate has no block '{knobs['of']}'"
    return None


KIND = Kind(
    name="retriever",
    stages=STAGES,
    report="stages.kinds.retriever.report",
    before=before,
    problem=problem,
)
