"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from collections.abc import Iterator

from stages.kinds.kind import Blocks, Kind
from stages.kinds.retriever.knobs import STAGES

MAKERS = ("tasks", "tasks_synthetic", "tasks_embedded")
READERS = ("train_retriever", "train_reranker", "evaluate_retriever")
# What makes documents, and a student's queries about them, in order.
WRITTEN_BY = "corpus corpus_xc prompt collect convert tokenize finetune merge export generate".split()


def before(dataset: str, blocks: Blocks) -> list[str]:
    """The documents and queries that its rows are made of; and these rows, where another dataset has them."""
    targets = [
        f"{stage}@{source}"
        for source in sorted(set(named(dataset, "of", MAKERS, blocks)))
        for stage in WRITTEN_BY
        if source in blocks[stage]
    ]
    for other in sorted(set(named(dataset, "rows", READERS, blocks)) - {dataset}):
        rows = [f"{stage}@{other}" for stage in (*MAKERS, "mine", "score") if other in blocks[stage]]
        targets += [*before(other, blocks), *rows]
    return targets


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    rows = {dataset for stage in MAKERS for dataset in blocks[stage]}
    for stages, knob, makers, made in (
        (
            READERS,
            "rows",
            "tasks, tasks_synthetic or tasks_embedded, and score",
            rows & blocks["score"].keys(),
        ),
        (MAKERS, "of", "generate", blocks["generate"].keys()),
    ):
        for stage in stages:
            for dataset in blocks[stage]:
                for name in named(dataset, knob, (stage,), blocks):
                    if name not in made:
                        return f"{stage}.{dataset}.{knob}: {makers} must have a block '{name}'"
    return None


def named(dataset: str, knob: str, stages: tuple[str, ...], blocks: Blocks) -> Iterator[str]:
    """The datasets that this one's blocks of `stages` name in a knob."""
    for stage in stages:
        if knob in blocks[stage].get(dataset, {}):
            yield str(blocks[stage][dataset][knob])


KIND = Kind(
    name="retriever",
    stages=STAGES,
    report="stages.kinds.retriever.report",
    before=before,
    problem=problem,
)
