"""What the store knows about a request, and what is still worth asking: pure functions of stored bodies.

The best stored answer counts: the first that is ok, else the first. So an answer once used is never replaced
by another until somebody disowns it, and asking again can only turn a failure into a success.
"""

from dataclasses import dataclass
from typing import Literal

from stages.core.records import Request
from stages.teacher.identity import choices_of, limit_of, rekeyed, with_limit
from stages.teacher.outcomes import Answer
from stages.teacher.store.store import Store

Action = Literal["keep", "drop", "retry"]
REPAIR = (
    "That answer cannot be used: {problem}. Answer again, in exactly the form that was asked for, and write "
    "nothing else."
)


@dataclass(frozen=True)
class Policy:
    """What to do about each outcome: keep it as an answer, drop it, or ask again (at most `tries` times).

    A `length` is asked again with `longer` as its limit on tokens. With `repair`, an `invalid` answer gets
    one turn more, in which the model sees it and what is wrong with it.
    """

    actions: dict[str, Action]
    tries: int = 1
    longer: int = 0
    repair: bool = False

    def asks_again(self) -> bool:
        """May an answer lead to another request?"""
        return self.repair or "retry" in self.actions.values()

    def accepts(self, answer: Answer) -> bool:
        """Is the answer used: ok, or kept although it is not, with some text."""
        kept = self.actions.get(answer.outcome) == "keep"
        return answer.outcome == "ok" or (kept and bool((answer.response or "").strip()))


@dataclass(frozen=True)
class Resolution:
    """`answer` is the best there is, or None; `ask` the request still to be sent, or None."""

    answer: Answer | None = None
    ask: Request | None = None


def resolve(row: Request, store: Store, policy: Policy) -> Resolution:
    """What the store knows of a row of requests.jsonl, and what is to be asked for it.

    Of a request for several choices only the `choice` of the row (0 by default) counts.
    """
    place = row.get("choice", 0)
    bodies = [answers for answers in store.answers(row) if answers is not None]
    answer = _best([answers[place] for answers in bodies])
    if answer is None or answer.outcome != "ok":
        answer = _best([*([answer] if answer else ()), *_from_other_limits(row, store, policy)])
    if answer is None:
        return Resolution(None, row)
    if answer.outcome == "ok":
        return Resolution(answer)
    again = policy.actions.get(answer.outcome) == "retry" and answer.outcome != "length"
    if again and len(bodies) <= policy.tries:
        return Resolution(answer, row)
    follow = follow_up(row, answer, policy)
    if follow is None:
        return Resolution(answer)
    later = _best([answers[0] for answers in store.answers(follow) if answers is not None])
    if later is None:
        return Resolution(answer, follow)
    return Resolution(later if later.outcome == "ok" else answer)


def follow_up(row: Request, answer: Answer, policy: Policy) -> Request | None:
    """The request that may lead to a better answer than one which is not ok; None where there is none.

    It has a larger limit on tokens, or a further turn that shows the model its answer and what is wrong. It
    asks for the one choice that failed, and follows from the request and the answer alone, so that a later
    run finds its answer in the store.
    """
    longer = policy.longer > (limit_of(row) or policy.longer)
    if answer.outcome == "length" and policy.actions.get("length") == "retry" and longer:
        return with_limit(_one_choice(row), policy.longer)
    if answer.outcome == "invalid" and policy.repair and answer.response:
        said = {"role": "assistant", "content": answer.response}
        wanted = {"role": "user", "content": REPAIR.format(problem=answer.problem)}
        return rekeyed({**_one_choice(row), "messages": [*row["messages"], said, wanted]})
    return None


def _one_choice(row: Request) -> Request:
    """`row` as a request for its choice alone; the sample number keeps it apart from those for the others."""
    count, place = choices_of(row), row.get("choice", 0)
    params = {name: value for name, value in row["params"].items() if name != "n"}
    sample = row.get("sample", 0) * count + place
    return rekeyed({**row, "params": params, "sample": sample, "choice": 0})


def _from_other_limits(row: Request, store: Store, policy: Policy) -> list[Answer]:
    """Answers to the same question that ended by themselves within the limit that this row would go to."""
    limit = limit_of(row)
    if limit is not None and policy.actions.get("length") == "retry":
        limit = max(limit, policy.longer)
    fitting = []
    for answers, other in store.other_limits(row):
        if answers is None or (answer := answers[row.get("choice", 0)]).outcome == "length":
            continue
        spent = (answer.usage or {}).get("completion_tokens")
        fits = (
            limit is None or (other is not None and other <= limit) or (spent is not None and spent <= limit)
        )
        if fits:
            fitting.append(answer)
    return fitting


def _best(answers: list[Answer]) -> Answer | None:
    """The first that is ok, else the first."""
    return next((answer for answer in answers if answer.outcome == "ok"), answers[0] if answers else None)
