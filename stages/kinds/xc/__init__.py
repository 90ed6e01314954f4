"""The kind xc: new labels for extreme classification, by synthetic queries or categories (SKIM)."""

from stages.kinds.kind import Kind
from stages.kinds.xc.knobs import STAGES


def summary(figures: dict[str, dict]) -> list[str]:
    """What the mapped labels bring to each model of extreme classification, a line each, where known."""
    lines = []
    for model, scores in figures.get("xc", {}).items():
        difference = scores["difference"]["R@10"]
        lines.append(
            f"{model}: R@10 {scores['original']['R@10']:.3f} with the known labels, "
            f"{scores['augmented']['R@10']:.3f} with the mapped ones too "
            f"({difference['low']:+.3f} to {difference['high']:+.3f})"
        )
    return lines


KIND = Kind(
    name="xc",
    stages=STAGES,
    tasks={"queries": "stages.kinds.xc.parts.queries", "categories": "stages.kinds.xc.parts.categories"},
    report="stages.kinds.xc.report",
    headline=("hit_at_10", "hit_at_10_nameless", "groundedness", "format_validity", "rouge_l"),
    summary=summary,
)
