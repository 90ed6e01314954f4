"""The kind academic: papers to a student that answers questions about them, and a fair benchmark of it."""

from stages.kinds.academic.knobs import STAGES
from stages.kinds.kind import COMPOSED, Blocks, Kind

CORPORA = ("corpus", "corpus_papers", "corpus_asked")
WRITTEN = "stages.kinds.written"


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    for dataset, knobs in sorted(blocks["corpus_asked"].items()):
        of, task = knobs.get("of"), knobs.get("task", "question")
        if of == dataset:
            return f"corpus_asked.{dataset}.of: '{of}' would be made of itself; ask under another name"
        if of and (of not in blocks["collect"] or not any(of in blocks[maker] for maker in CORPORA)):
            return f"corpus_asked.{dataset}.of: collect, or each of {', '.join(CORPORA)}, has no block '{of}'"
        asked = blocks["prompt"].get(str(of), {}).get("task")
        if of and asked != task:
            return f"corpus_asked.{dataset}.task: '{task}', but prompt.{of}.task is '{asked}'"
    for dataset in sorted(blocks["benchmark"]):
        for maker in ("chunks", "evaluate_papers"):
            if dataset not in blocks[maker]:
                return f"benchmark.{dataset}: {maker} has no block '{dataset}'"
        if dataset not in blocks["convert"] and dataset not in blocks["instruct"]:
            return f"benchmark.{dataset}: neither convert nor instruct has a block '{dataset}'"
    return None


def summary(figures: dict[str, dict]) -> list[str]:
    """A line for each model, of the benchmark's questions and with rows held out: F1, ROUGE-L, cosine."""
    found = figures.get("academic") or {}
    lines = [
        f"{prefix}{model}: "
        + ", ".join(f"{m} {own[m]['mean']:.3f}" for m in ("f1", "rouge_l", "cosine") if own.get(m))
        for prefix, models in (("", found), ("with rows held out, ", found.get("pooled") or {}))
        for model, own in models.items()
        if "mean" in (own.get("f1") or {})
    ]
    return [*lines, COMPOSED] if lines else []


KIND = Kind(
    name="academic",
    stages=STAGES,
    tasks={name.lower(): f"{WRITTEN}:{name}" for name in ("PARAGRAPHS", "QUESTION", "ANSWER")},
    report="stages.kinds.academic.report",
    rows="stages.kinds.academic.parts.any_rows",
    summary=summary,
    problem=problem,
)
