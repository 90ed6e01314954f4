"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from collections.abc import Iterator

from stages.kinds.kind import COMPOSED, Blocks, Kind
from stages.kinds.retriever.knobs import STAGES

SHOWN = ("mrr@10", "perplexity", "reward_ndcg")
SYSTEMS = ("random", "bm25", "base", "trained", "hybrid", "hybrid_trained", "hybrid_reranked", "oracle")
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
    others = [*named(dataset, "rows", READERS, blocks), *named(dataset, "trained_on", READERS, blocks)]
    for other in sorted(set(others) - {dataset}):
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
        (READERS, "trained_on", "score", blocks["score"].keys()),
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


def summary(figures: dict[str, dict]) -> list[str]:
    """A line for each task: the first of SHOWN that it has, of some systems, and what training brings."""
    lines = []
    for task, own in figures.get("retriever", {}).items():
        measure = next((name for name in SHOWN if own.get("trained", {}).get(name)), None)
        if measure is None:
            continue
        means = ((name, own[name].get(measure)) for name in SYSTEMS if name in own)
        told = ", ".join(f"{name} {value['mean']:.3f}" for name, value in means if value)
        line = f"{task}: {measure} of {told}"
        if gained := own["differences"].get("trained-base", {}).get(measure):
            line += f" (trained - base {gained['low']:+.3f} to {gained['high']:+.3f})"
        lines.append(line)
    return [*lines, COMPOSED] if "people" in figures.get("retriever", {}) else lines


KIND = Kind(
    name="retriever",
    stages=STAGES,
    report="stages.kinds.retriever.report",
    rows="stages.kinds.retriever.parts.any_rows",
    summary=summary,
    before=before,
    problem=problem,
)
