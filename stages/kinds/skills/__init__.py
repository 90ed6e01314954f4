"""The kind skills: a request goes in, one function call comes out (Otto)."""

from stages.kinds.kind import COMPOSED, Blocks, Kind, few
from stages.kinds.skills.knobs import STAGES


def problem(blocks: Blocks) -> str | None:
    """What a block names that no other block makes."""
    for stage, knob, maker in (
        ("candidates", "briefs", "corpus_briefs"),
        ("corpus_briefs", "skills", "skills"),
    ):
        for dataset, knobs in blocks[stage].items():
            if knob in knobs and knobs[knob] not in blocks[maker]:
                return f"{stage}.{dataset}.{knob}: {maker} has no block '{knobs[knob]}'"
    return None


def summary(figures: dict[str, dict]) -> list[str]:
    """How many requests were scored, and how the students do on those in people's wording, if any."""
    evaluated = figures.get("evaluate", {})
    rows = evaluated.get("rows")
    measured = [] if rows is None else [f"means over {rows:,} held-out requests{few(rows)}"]
    people = evaluated.get("people", {})
    if "systems" not in people:
        return measured
    shown = ("normalised_match_macro", "other_recall", "other_precision")
    lines = [f"{people['rows']:,} requests in people's wording: {', '.join(shown)}"]
    for system, own in people["systems"].items():
        means = (own[measure]["mean"] for measure in shown)
        texts = ("–" if mean is None else f"{mean:.3f}" for mean in means)
        low, high = own[shown[0]]["low"], own[shown[0]]["high"]
        lines.append(f"  {system:16}{', '.join(texts)} (the first {low:.3f} to {high:.3f})")
    return [*measured, *lines, COMPOSED]


KIND = Kind(
    name="skills",
    stages=STAGES,
    tasks={"skills": "stages.kinds.skills.parts.task"},
    report="stages.kinds.skills.report",
    serving="stages.kinds.skills.serving",
    rows="stages.kinds.skills.parts.scored_rows",
    headline=(
        *("normalised_match_macro", "ast_match", "valid_call", "other_recall", "other_precision"),
        "latency_ms_p50",
    ),
    summary=summary,
    problem=problem,
)
