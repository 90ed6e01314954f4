"""What a run of the collector did."""

from collections import Counter
from dataclasses import dataclass, field

from stages.teacher.outcomes import OUTCOMES

EXAMPLES = 3


def count_failure(failures: dict[str, dict], kind: str, count: int, examples: list[dict]) -> None:
    """Add to the entry of a class of failures, which keeps the first three examples."""
    entry = failures.setdefault(kind, {"count": 0, "examples": []})
    entry["count"] += count
    entry["examples"] = (entry["examples"] + examples)[:EXAMPLES]


@dataclass
class Tally:
    """`refused` counts 429s. `failures` is {class: {"count", "examples": up to three}} of requests
    that were given up, whose keys are in `given_up`."""

    attempts: int = 0
    refused: int = 0
    retried: int = 0
    dollars: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, dict] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)

    def fail(self, kind: str, request: dict, message: str) -> None:
        self.given_up.add(request["request_key"])
        count_failure(self.failures, kind, 1, [{"id": request["id"], "message": message}])

    def add(self, other: "Tally") -> None:
        for name in ("attempts", "refused", "retried", "dollars"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.outcomes.update(other.outcomes)
        self.given_up |= other.given_up
        for kind, entry in other.failures.items():
            count_failure(self.failures, kind, entry["count"], entry["examples"])

    def note(self, priced: bool) -> str:
        """For the progress display."""
        parts = [f"{name} {self.outcomes[name]:,}" for name in OUTCOMES if self.outcomes[name]]
        parts += [f"429s {self.refused:,}"] if self.refused else []
        parts += [f"${self.dollars:,.2f}"] if priced else []
        return ", ".join(parts)

    def failed(self) -> dict[str, dict]:
        """The failures for the failure report, under names of their own."""
        return {f"error: {kind}": entry for kind, entry in sorted(self.failures.items())}

    def figures(self) -> dict:
        names = ("attempts", "refused", "retried")
        return {**{name: getattr(self, name) for name in names}, "dollars": round(self.dollars, 6)}
