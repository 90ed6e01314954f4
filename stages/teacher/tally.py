"""What a run of the collector did."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.core.records import KeyedRequest
from stages.teacher.endpoint import Failure
from stages.teacher.identity import choices_of
from stages.teacher.outcomes import OUTCOMES

EXAMPLES = 3
# What differs between two messages about the same fault: numbers, ids, what they quote.
VARYING = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|[\w-]*\d[\w-]*""")


# By class of failure: {"count": how often it occurred, "examples": the first three}.
Failures = dict[str, dict[str, Any]]


def count_failure(failures: Failures, kind: str, example: Mapping[str, Any]) -> None:
    """Add one failure of the class `kind`."""
    entry = failures.setdefault(kind, {"count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < EXAMPLES:
        entry["examples"].append(example)


@dataclass
class Tally:
    """`refused` counts 429s. `given_up` has the keys of requests that failed for good, `failures` why.

    `known` requests of the dataset had an answer before the run. `rejected` counts requests that the server
    found wrong, by what it said.
    """

    known: int = 0
    attempts: int = 0
    refused: int = 0
    retried: int = 0
    dollars: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)

    def give_up(self, request: KeyedRequest, row_id: str, failure: Failure) -> None:
        """Count a request that failed for good."""
        self.outcomes["error"] += choices_of(request)
        self.given_up.add(request["request_key"])
        count_failure(self.failures, failure.kind, {"id": row_id, "message": failure.message})

    def reject(self, failure: Failure, most: int) -> str | None:
        """Count a request that the server finds wrong.

        Returns why it is useless to ask more, where `most` were found wrong in the same words and the dataset
        has no answer.
        """
        words = VARYING.sub("", failure.message)
        self.rejected[words] += 1
        is_answered = self.known > 0 or any(self.outcomes[name] for name in OUTCOMES if name != "error")
        if is_answered or (count := self.rejected[words]) < most:
            return None
        return f"{count} requests got this answer and none another; raise `breaker` to send more"

    def note(self, priced: bool) -> str:
        """For the progress display."""
        parts = [f"{name} {self.outcomes[name]:,}" for name in OUTCOMES if self.outcomes[name]]
        parts += [f"429s {self.refused:,}"] if self.refused else []
        parts += [f"${self.dollars:,.2f}"] if priced else []
        return ", ".join(parts)

    def failed(self) -> Failures:
        """The failures for the failure report, where they stand beside answers that were not accepted."""
        return {f"error: {kind}": entry for kind, entry in sorted(self.failures.items())}

    def figures(self) -> dict[str, float]:
        """What differs from run to run: attempts, refusals, retries and dollars."""
        counts = {"attempts": self.attempts, "refused": self.refused, "retried": self.retried}
        return {**counts, "dollars": round(self.dollars, 6)}
