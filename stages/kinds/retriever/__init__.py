"""The kind retriever: a model that finds passages, turns, examples or tools, trained on one's own rows."""

from stages.kinds.kind import COMPOSED, Blocks, Kind
from stages.kinds.retriever.knobs import STAGES

SHOWN = ("mrr@10", "perplexity", "reward_ndcg")
SYSTEMS = ("random", "bm25", "base", "trained", "hybrid", "hybrid_trained", "hybrid_reranked", "oracle")
MAKERS = ("tasks", "tasks_synthetic", "tasks_embedded")
ROWS = ("rows", "trained_on")  # knobs that name a dataset whose rows are read
READERS = ("train_retriever", "train_reranker", "evaluate_retriever")


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    made = {name for maker in MAKERS for name in blocks[maker]} & set(blocks["score"])
    for stage in (*MAKERS, *READERS):
        for dataset, knobs in sorted(blocks[stage].items()):
            if stage in MAKERS and "of" in knobs and knobs["of"] not in blocks["generate"]:
                return f"{stage}.{dataset}.of: generate has no block '{knobs['of']}'"
            for knob in ROWS if stage in READERS else ():
                if knob in knobs and knobs[knob] not in made:
                    lacks = f"score, or each of {', '.join(MAKERS)}, has no block '{knobs[knob]}'"
                    return f"{stage}.{dataset}.{knob}: {lacks}"
    return None


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
    problem=problem,
)
