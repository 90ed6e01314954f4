"""The kind academic: papers to a student that answers questions about them, and a fair benchmark of it."""

from stages.kinds.academic.knobs import STAGES
from stages.kinds.kind import Blocks, Kind

# What the datasets that it goes by are built up to, in order: theirs are questions, or another student.
ASKED = ("corpus_papers", "corpus_asked", "price", "prompt", "collect")


def before(dataset: str, blocks: Blocks) -> list[str]:
    """The dataset whose questions, or paragraphs, its documents are made of, with those before it."""
    of = blocks["corpus_asked"].get(dataset, {}).get("of")
    if not of or of == dataset:
        return []
    stages = [stage for stage in ASKED if of in blocks["prompt" if stage == "price" else stage]]
    return [*before(of, blocks), *(f"{stage}@{of}" for stage in stages)]


KIND = Kind(
    name="academic",
    stages=STAGES,
    report="stages.kinds.academic.report",
    rows="stages.kinds.academic.parts.any_rows",
    before=before,
)
