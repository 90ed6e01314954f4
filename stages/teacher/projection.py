"""`responses.jsonl` and its figures, as they follow from the requests and the store."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

from stages.core.records import Request, Response
from stages.teacher.identity import limit_of, question_key
from stages.teacher.outcomes import OUTCOMES, Answer, row_of
from stages.teacher.prices import Price
from stages.teacher.requests import Requests
from stages.teacher.resolve import Policy, resolve
from stages.teacher.store.store import Store
from stages.teacher.tally import Failures, count_failure
from stages.teacher.usage import TOKENS

SHOWN = 300  # characters of an example


class Projection:
    """`rows()` yields the output; once it is exhausted, the figures stand."""

    def __init__(self, requests: Requests, store: Store, policy: Policy, price: Price | None):
        self.requests, self.store, self.policy, self.price = requests, store, policy, price
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.accepted = self.thoughts_removed = 0
        self.dollars: float | None = 0.0 if price else None
        self.failures: Failures = {}

    def rows(self) -> Iterator[Response]:
        counted: set[bytes] = set()
        for request in self.requests:
            answer = resolve(request, self.store, self.policy).answer or Answer("error")
            accepted = self.policy.accepts(answer)
            key = bytes.fromhex(request["request_key"])
            if key not in counted:  # choices and identical requests share one answer, paid once
                counted.add(key)
                self._count_tokens(answer)
            self.outcomes[answer.outcome] += 1
            self.accepted += accepted
            self.thoughts_removed += bool(answer.thoughts_removed)
            if not accepted:
                self._count_failure(request, answer)
            yield _response(request, answer, accepted)

    def _count_tokens(self, answer: Answer) -> None:
        self.tokens.update({name: (answer.usage or {}).get(name, 0) for name in TOKENS})
        if self.price and answer.usage and self.dollars is not None:
            self.dollars += self.price.dollars(answer.usage)

    def _count_failure(self, request: Request, answer: Answer) -> None:
        text = answer.response and answer.response[:SHOWN]
        key = question_key(request)  # by which `store --disown` knows it
        example = {"id": request["id"], "question_key": key, "problem": answer.problem, "response": text}
        count_failure(self.failures, answer.outcome, example)

    def summary(self) -> str:
        """How many rows have which outcome, in words."""
        return ", ".join(f"{name} {self.outcomes[name]:,}" for name in OUTCOMES if self.outcomes[name])

    def metrics(self) -> dict[str, Any]:
        return {
            "rows": len(self.requests),
            "distinct_requests": self.requests.distinct,
            "outcomes": {name: self.outcomes[name] for name in OUTCOMES if self.outcomes[name]},
            "accepted_share": round(self.accepted / len(self.requests), 6),
            "thoughts_removed": self.thoughts_removed,
            **{name: self.tokens[name] for name in TOKENS},
            "dollars": None if self.dollars is None else round(self.dollars, 6),
        }


def _response(request: Request, answer: Answer, accepted: bool) -> Response:
    fields: Mapping[str, Any] = request
    names = ("id", "document_id", "sample", "choice", "form", "request_key")
    row = {
        **{name: fields[name] for name in names if name in fields},
        "question_key": question_key(request),
        "token_limit": limit_of(request),
        "accepted": accepted,
        **row_of(answer),
        "model": answer.model or request["model"],
        "prompt_hash": request["prompt_hash"],
    }
    return cast(Response, row)
