"""How good answered calls are: measures, which skills are mixed up, what test shares with training.

docs/kinds/skills/calls.md defines the measures.
"""

import ast
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stages.core.records import Document
from stages.evaluation.bootstrap import intervals, macro_interval, quantile_interval
from stages.evaluation.people import one_spelling
from stages.kinds.skills.parts.calls import call_or_none, parse_call
from stages.kinds.skills.parts.match import ast_compat, normal_value, normalised_match, same
from stages.kinds.skills.parts.schema import Skills
from stages.sources.near import nearest

NO_CALL = "no call"
MEASURES = """normalised_match match ast_match right_skill valid_call valid_format_compat other_recall
    other_precision""".split()
BY_SKILL = ("normalised_match", "ast_match", "right_skill")
UNDEFINED = {"mean": None, "low": None, "high": None}
FIRST = 5  # examples of each kind of leak
NEAR = 0.8  # least Jaccard similarity of letter trigrams


class Judged(NamedTuple):
    """`values` are those of MEASURES, NaN where one is not defined for the row."""

    skill: str
    answered: str  # the skill that was called, or NO_CALL
    values: dict[str, float]


def score(
    judged: Sequence[Judged], resamples: int, seed: int, latencies_ms: Sequence[float] = ()
) -> dict[str, dict]:
    """Measures of one system, each as {mean, low, high}; all three are None where it is not defined.

    `normalised_match_macro` is the mean over the skills of the gold calls; `latency_ms_*` are quantiles.
    """
    of_rows = intervals([list(row.values.values()) for row in judged], resamples, seed)
    matches, gold_skills = zip(*((row.values["normalised_match"], row.skill) for row in judged), strict=True)
    measures = {
        "normalised_match_macro": macro_interval(matches, gold_skills, resamples, seed),
        **dict(zip(MEASURES, of_rows, strict=True)),
        "latency_ms_p50": quantile_interval(latencies_ms, 0.5, resamples, seed),
        "latency_ms_p95": quantile_interval(latencies_ms, 0.95, resamples, seed),
    }
    return {name: value or dict(UNDEFINED) for name, value in measures.items()}


def judge(right: str, text: str, skills: Skills) -> Judged:
    """The measures of a text, where the call in `right` is right. Raises ValueError if that is no call."""
    gold, answer = parse_call(right), call_or_none(text)
    fallback = skills.fallback
    called = answer.name if answer is not None and answer.name in skills.by_name else NO_CALL
    values = {
        "normalised_match": answer is not None and normalised_match(gold, answer, skills),
        "match": answer is not None and same(gold, answer),
        "ast_match": ast_compat(right, text),
        "right_skill": called == gold.name,
        "valid_call": answer is not None and skills.problem_with(answer) is None,
        "valid_format_compat": is_expression(text),
        "other_recall": called == fallback if gold.name == fallback else math.nan,
        "other_precision": gold.name == fallback if called == fallback else math.nan,
    }
    return Judged(gold.name, called, {measure: float(values[measure]) for measure in MEASURES})


def is_expression(text: str) -> bool:
    """What the reference calls the right format: any Python expression."""
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def by_skill(judged: Iterable[Judged]) -> dict[str, dict[str, float]]:
    """For each skill with a row: how many (`rows`), and the means of BY_SKILL."""
    rows_by_skill: dict[str, list[dict[str, float]]] = defaultdict(list)
    for row in judged:
        rows_by_skill[row.skill].append(row.values)
    return {
        skill: {"rows": len(rows)}
        | {measure: round(statistics.fmean(row[measure] for row in rows), 4) for measure in BY_SKILL}
        for skill, rows in sorted(rows_by_skill.items())
    }


def confusion(judged: Iterable[Judged], skills: Skills) -> dict[str, list]:
    """How often each skill was called where each was right: `counts` (gold, answered), the last NO_CALL.

    An answer that cannot be read, or calls what is no skill, is no call.
    """
    gold, answered = [*skills.by_name], [*skills.by_name, NO_CALL]
    pairs = Counter((row.skill, row.answered) for row in judged)
    counts = [[pairs[name, called] for called in answered] for name in gold]
    return {"gold": gold, "answered": answered, "counts": counts}


# What test rows share with training rows


def leaks(documents: Iterable[Document], skills: Skills) -> dict:
    """Counts and first examples of what the split `test` shares with `train`, and of duplicates within it.

    `requests` counts test rows under the strictest name that holds: `exact`, `spelling` (the same but for
    case and punctuation) or `near` (Jaccard similarity of letter trigrams from NEAR on). Templates are those
    of `metadata.template`; values those of texts, by skill and parameter, normalised. Enums are left out.
    """
    split = defaultdict(list)
    for document in documents:
        split[document["split"]].append(document)
    train, test = split["train"], split["test"]
    train_values = values(train, skills)
    return {
        "test": len(test),
        "train": len(train),
        "requests": shared_requests([row["text"] for row in test], [row["text"] for row in train]),
        "duplicates_in_test": repeated(one_spelling(row["text"]) or row["text"] for row in test),
        "templates": shared(templates(test), templates(train)),
        "values": {
            name: shared(test_values, train_values.get(name, set()))
            for name, test_values in values(test, skills).items()
        },
    }


def shared_requests(test: Sequence[str], train: Sequence[str]) -> dict[str, dict]:
    """{exact, spelling, near: {rows, first: [[test request, training request], …]}}."""
    exact, spelling = set(train), {one_spelling(text): text for text in reversed(train)}
    spelling.pop("", None)  # texts of nothing but punctuation are not alike
    pairs: dict[str, list[list[str]]] = {"exact": [], "spelling": [], "near": []}
    for text, (similarity, other) in zip(test, nearest(test, train, trigrams), strict=True):
        if text in exact:
            pairs["exact"].append([text, text])
        elif one_spelling(text) in spelling:
            pairs["spelling"].append([text, spelling[one_spelling(text)]])
        elif similarity >= NEAR:
            pairs["near"].append([text, other])
    return {name: {"rows": len(alike), "first": alike[:FIRST]} for name, alike in pairs.items()}


def trigrams(text: str) -> set[str]:
    """The runs of three letters of each word, with a space before and after it."""
    words = one_spelling(text).split()
    return {f" {word} "[start : start + 3] for word in words for start in range(len(word))}


def repeated(texts: Iterable[str]) -> dict:
    """Texts that occur more than once: `rows` are those that would go."""
    often = {text: count for text, count in sorted(Counter(texts).items()) if count > 1}
    return {"rows": sum(count - 1 for count in often.values()), "first": list(often)[:FIRST]}


def templates(rows: Iterable[Document]) -> set[str]:
    """The wordings of requests, where they are known."""
    return {row["metadata"]["template"] for row in rows if row["metadata"].get("template")}


def values(rows: Iterable[Document], skills: Skills) -> dict[str, set[str]]:
    """Normalised values of text parameters under `skill.parameter`, sorted by it."""
    by_parameter: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        name, arguments = parse_call(row["metadata"]["call"])
        for key, value in arguments.items():
            if skills.by_name[name].parameters[key].type == "string":
                by_parameter[f"{name}.{key}"].add(normal_value(value))
    return dict(sorted(by_parameter.items()))


def shared(test: set[str], train: set[str]) -> dict:
    """How many of the test values there are in training, too."""
    return {"test": len(test), "shared": len(test & train), "first": sorted(test & train)[:FIRST]}
