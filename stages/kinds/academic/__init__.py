"""The kind academic: papers to a student that answers questions about them, and a fair benchmark of it."""

import re

from stages.kinds.academic.knobs import STAGES
from stages.kinds.kind import COMPOSED, Blocks, Kind

STUDENT = re.compile("models/([^/]+)/hf")
ASKED = ("corpus_papers", "corpus_asked", "price", "prompt", "collect")  # what makes documents and answers
TAUGHT_BY = (*ASKED, "convert", "instruct", "tokenize", "finetune", "merge", "export")
CORPORA = ("corpus", "corpus_papers", "corpus_asked")
WRITTEN = "stages.kinds.academic.parts.written"


def before(dataset: str, blocks: Blocks) -> list[str]:
    """What its documents are made of, and all of the students that its own is compared with."""
    models = blocks["benchmark"].get(dataset, {})
    named = (STUDENT.fullmatch(str(models.get(knob))) for knob in ("trained", "beside"))
    students = dict.fromkeys(student[1] for student in named if student and student[1] != dataset)
    targets = made_of(dataset, blocks)
    for student in students:
        targets += [*made_of(student, blocks), *targets_of(student, TAUGHT_BY, blocks)]
    return list(dict.fromkeys(targets))


def made_of(dataset: str, blocks: Blocks) -> list[str]:
    """The answers that its documents are made of, behind what those are made of."""
    chain = [dataset]
    while (of := blocks["corpus_asked"].get(chain[-1], {}).get("of")) and of not in chain:
        chain.append(of)
    return [target for of in chain[:0:-1] for target in targets_of(of, ("corpus", *ASKED), blocks)]


def targets_of(dataset: str, stages: tuple[str, ...], blocks: Blocks) -> list[str]:
    return [f"{stage}@{dataset}" for stage in stages if dataset in blocks[of_price(stage)]]


def of_price(stage: str) -> str:
    """The stage whose blocks say that a dataset takes part in `stage`."""
    return "prompt" if stage == "price" else stage


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
    """A line for each model: F1, ROUGE-L and the cosine of its answers to the benchmark's questions."""
    lines = [
        f"{model}: "
        + ", ".join(f"{m} {own[m]['mean']:.3f}" for m in ("f1", "rouge_l", "cosine") if own.get(m))
        for model, own in (figures.get("academic") or {}).items()
        if isinstance(own.get("f1"), dict) and "mean" in own["f1"]
    ]
    return [*lines, COMPOSED] if lines else []


KIND = Kind(
    name="academic",
    stages=STAGES,
    tasks={name.lower(): f"{WRITTEN}:{name}" for name in ("PARAGRAPHS", "QUESTION", "ANSWER")},
    report="stages.kinds.academic.report",
    rows="stages.kinds.academic.parts.any_rows",
    summary=summary,
    before=before,
    problem=problem,
)
