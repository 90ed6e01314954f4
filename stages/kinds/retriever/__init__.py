"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from stages.kinds.kind import Blocks, Kind
from stages.kinds.retriever.knobs import STAGES

MAKERS = ("tasks", "tasks_synthetic", "tasks_embedded")
READERS = ("train_retriever", "train_reranker", "evaluate_retriever")
# What makes documents, and a student's queries about them, in order.
WRITTEN_BY = "corpus corpus_xc prompt collect convert tokenize finetune merge export generate".split()


def before(dataset: str, blocks: Blocks) -> list[str]:
    """The documents and queries that its rows are made of; and these rows, where another dataset has them."""
    targets = []
    for source in sorted({name for _, name in named(dataset, "of", MAKERS, blocks)}):
        targets += [f"{stage}@{source}" for stage in WRITTEN_BY if source in blocks[stage]]
    for other in sorted({name for _, name in named(dataset, "rows", READERS, blocks)} - {dataset}):
        rows = [f"{stage}@{other}" for stage in (*MAKERS, "mine", "score") if other in blocks[stage]]
        targets += [*before(other, blocks), *rows]
    return targets


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    for dataset in sorted({dataset for stage in (*MAKERS, *READERS) for dataset in blocks[stage]}):
        for stage, name in named(dataset, "of", MAKERS, blocks):
            if name not in blocks["generate"]:
                return f"{stage}.{dataset}.of: generate has no block '{name}'"
        for stage, name in named(dataset, "rows", READERS, blocks):
            if name not in blocks["score"] or not any(name in blocks[maker] for maker in MAKERS):
                return f"{stage}.{dataset}.rows: score, or each of {', '.join(MAKERS)}, has no block '{name}'"
    return None


def named(dataset: str, knob: str, stages: tuple[str, ...], blocks: Blocks) -> list[tuple[str, str]]:
    """(stage, the dataset that its block names in `knob`) of those of a dataset's stages that have it."""
    own = ((stage, blocks[stage].get(dataset, {})) for stage in stages)
    return [(stage, str(knobs[knob])) for stage, knobs in own if knob in knobs]


KIND = Kind(
    name="retriever",
    stages=STAGES,
    report="stages.kinds.retriever.report",
    before=before,
    problem=problem,
)
