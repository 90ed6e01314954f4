"""How good answered calls are: measures with intervals, figures by skill, which skills are mixed up.

docs/kinds/skills/calls.md defines the measures.
"""

import ast
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stages.kinds.skills.parts.calls import Call, parse_call
from stages.kinds.skills.parts.match import ast_compat, normalised_match, same
from stages.kinds.skills.parts.schema import Skills

NO_CALL = "no call"
MEASURES = """normalised_match match ast_match right_skill valid_call valid_format_compat other_recall
    other_precision""".split()
BY_SKILL = ("normalised_match", "ast_match", "right_skill")
UNDEFINED = {"mean": None, "low": None, "high": None}
WRONG = 30  # wrong answers that are listed


class Answered(NamedTuple):
    """A request, the call that is right for it, which obeys the schema, and what a system wrote."""

    user: str
    gold: str
    answer: str


class Judged(NamedTuple):
    """`values` are those of MEASURES, NaN where one is not defined for the row."""

    skill: str
    answered: str  # the skill that was called, or NO_CALL
    values: list[float]


def score(
    rows: Sequence[Answered], skills: Skills, resamples: int, seed: int, latencies_ms: Sequence[float] = ()
) -> dict:
    """Measures of one system, each as {mean, low, high}; all three are None where it is not defined.

    `normalised_match_macro` is the mean over the skills of the gold calls; `latency_ms_*` are quantiles.
    Raises ValueError for no row, and for a gold call that is none.
    """
    from stages.evaluation.bootstrap import intervals, macro_interval, quantile_interval

    if not rows:
        raise ValueError("no row to score")
    judged = [judge(row, skills) for row in rows]
    found = dict(zip(MEASURES, intervals([one.values for one in judged], resamples, seed), strict=True))
    right, gold = [one.values[0] for one in judged], [one.skill for one in judged]
    measures = {
        "normalised_match_macro": macro_interval(right, gold, resamples, seed),
        **found,
        "latency_ms_p50": quantile_interval(latencies_ms, 0.5, resamples, seed),
        "latency_ms_p95": quantile_interval(latencies_ms, 0.95, resamples, seed),
    }
    return {name: value or dict(UNDEFINED) for name, value in measures.items()}


def details(rows: Sequence[Answered], skills: Skills) -> dict:
    """What there is to look at for one system, besides the measures."""
    return {
        "per_skill": by_skill(rows, skills),
        "confusion": confusion(rows, skills),
        "wrong": wrong(rows, skills),
    }


def judge(row: Answered, skills: Skills) -> Judged:
    gold, answer = parse_call(row.gold), call_in(row.answer)
    known = answer is not None and answer.name in skills.by_name
    fallback, called = skills.fallback, answer.name if known else NO_CALL
    values = {
        "normalised_match": answer is not None and normalised_match(gold, answer, skills),
        "match": answer is not None and same(gold, answer),
        "ast_match": ast_compat(row.gold, row.answer),
        "right_skill": called == gold.name,
        "valid_call": answer is not None and skills.problem_with(answer) is None,
        "valid_format_compat": is_expression(row.answer),
        "other_recall": called == fallback if gold.name == fallback else math.nan,
        "other_precision": gold.name == fallback if called == fallback else math.nan,
    }
    return Judged(gold.name, called, [float(values[measure]) for measure in MEASURES])


def call_in(text: str) -> Call | None:
    try:
        return parse_call(text)
    except ValueError:
        return None


def is_expression(text: str) -> bool:
    """What the reference calls the right format: any Python expression."""
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def by_skill(rows: Iterable[Answered], skills: Skills) -> dict[str, dict]:
    """For each skill with a row: how many, and the means of BY_SKILL."""
    own: dict[str, list[list[float]]] = {}
    for one in (judge(row, skills) for row in rows):
        own.setdefault(one.skill, []).append(one.values)
    found = {}
    for skill, values in sorted(own.items()):
        columns = dict(zip(MEASURES, zip(*values, strict=True), strict=True))
        means = {measure: round(sum(columns[measure]) / len(values), 4) for measure in BY_SKILL}
        found[skill] = {"rows": len(values), **means}
    return found


def confusion(rows: Iterable[Answered], skills: Skills) -> dict:
    """How often each skill was called where each was right: `counts` (gold, answered), the last NO_CALL.

    An answer that cannot be read, or calls what is no skill, is no call.
    """
    names = list(skills.by_name)
    pairs = Counter((one.skill, one.answered) for one in (judge(row, skills) for row in rows))
    answered = [*names, NO_CALL]
    return {
        "gold": names,
        "answered": answered,
        "counts": [[pairs[name, called] for called in answered] for name in names],
    }


def wrong(rows: Iterable[Answered], skills: Skills) -> list[dict]:
    """The first rows whose answer is no normalised match."""
    missed = (row for row in rows if not judge(row, skills).values[0])
    return [row._asdict() for _, row in zip(range(WRONG), missed, strict=False)]
