"""The kind xc: new labels for extreme classification, by synthetic queries or categories (SKIM)."""

from stages.kinds.kind import COMPOSED, Kind, few
from stages.kinds.xc.knobs import STAGES


def summary(figures: dict[str, dict]) -> list[str]:
    """How many pages were scored, what the new labels bring to each model, and how pages are found."""
    pages = figures.get("evaluate", {}).get("pages")
    lines = [] if pages is None else [f"means over {pages:,} held-out pages{few(pages)}"]
    for model, scores in figures.get("xc", {}).items():
        before, after, gained = (scores[name]["R@10"] for name in ("original", "augmented", "difference"))
        lines.append(
            f"{model}: R@10 {before:.3f} with the known labels, {after:.3f} with the new ones too "
            f"({gained['low']:+.3f} to {gained['high']:+.3f})"
        )
        if asked := scores.get("people"):
            before, after, gained = (
                asked[name]["all"]["R@10"] for name in ("original", "augmented", "difference")
            )
            lines.append(
                f"{model}, queries in people's wording: R@10 {before['mean']:.3f}, then {after['mean']:.3f} "
                f"({gained['low']:+.3f} to {gained['high']:+.3f})"
            )
    people = figures.get("evaluate", {}).get("people", {})
    if "page" in people:
        own, alike = (people[name]["all"] for name in ("page", "near_duplicate"))
        recall = own["R@10"]
        lines += [
            f"{own['queries']:,} queries in people's wording: BM25 R@10 {recall['mean']:.3f} "
            f"({recall['low']:.3f} to {recall['high']:.3f}; {alike['R@10']['mean']:.3f} if near-duplicates "
            f"of the page count), MRR@10 {own['MRR@10']['mean']:.3f}",
            COMPOSED,
        ]
    return lines


KIND = Kind(
    name="xc",
    stages=STAGES,
    tasks={"queries": "stages.kinds.xc.parts.queries", "categories": "stages.kinds.xc.parts.categories"},
    report="stages.kinds.xc.report",
    headline=("hit_at_10", "hit_at_10_nameless", "groundedness", "format_validity", "rouge_l"),
    summary=summary,
)
