"""The kind rag: a small model that answers questions from passages, and how good its answers are."""

from stages.kinds.kind import COMPOSED, Blocks, Kind
from stages.kinds.rag.knobs import STAGES

MAKERS = ("passages", "passages_embedded", "passages_asked")


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    for stage, other in (("passages_embedded", "corpus"), ("corpus_judged", "answer")):
        for dataset, knobs in sorted(blocks[stage].items()):
            if "of" in knobs and knobs["of"] not in blocks[other]:
                return f"{stage}.{dataset}.of: {other} has no block '{knobs['of']}'"
    for stage in ("retrieved", "convert_rag", "finetune_fid", "answer", "evaluate_rag"):
        for dataset in sorted(blocks[stage]):
            if not any(dataset in blocks[maker] for maker in MAKERS):
                return f"{stage}.{dataset}: neither {' nor '.join(MAKERS)} has a block '{dataset}'"
    for dataset in sorted(blocks["corpus_judged"]):
        if dataset in blocks["answer"]:
            return f"corpus_judged.{dataset}: '{dataset}' has answers itself; judge them under another name"
    for dataset in sorted(blocks["judge"]):
        if dataset not in blocks["corpus_judged"]:
            return f"judge.{dataset}: corpus_judged has no block '{dataset}'"
    for dataset, knobs in sorted(blocks["answer"].items()):
        for name in ("encoder", "reranker"):
            if knobs.get(name) != (by := blocks["retrieved"].get(dataset, {}).get(name)):
                return f"answer.{dataset}.{name}: expected {by}, as in the block retrieved"
    return None


def summary(figures: dict[str, dict]) -> list[str]:
    """A line for each system and context: F1 and ROUGE-L of its answers."""
    found = dict(figures.get("rag") or {})
    people = found.pop("people", {})
    lines = [
        f"{prefix}{name}, {context} passages: "
        + ", ".join(f"{m} {own[m]['mean']:.3f}" for m in ("f1", "rouge_l") if own.get(m))
        for prefix, systems in (("", found), ("people's questions: ", people))
        for name, contexts in systems.items()
        for context, own in contexts.items()
        if name != "differences" and context in ("gold", "retrieved")
    ]
    judge = figures.get("judge") or {}
    lines += [
        f"{split}: {system}, {context} passages: correct {own['correct']['mean']:.3f}, by {judge['by'][0]}"
        for split in ("test", "people")
        for context, systems in judge.get(split, {}).items()
        for system, own in systems.items()
        if own.get("correct")
    ]
    return [*lines, COMPOSED] if people or "people" in judge else lines


KIND = Kind(
    name="rag",
    stages=STAGES,
    tasks={"verdict": "stages.kinds.rag.parts.verdict"},
    report="stages.kinds.rag.report",
    rows="stages.kinds.rag.parts.any_rows",
    serving="stages.kinds.rag.parts.asking",
    summary=summary,
    problem=problem,
)
