"""Candidates: examples that may enter the data of a dataset of skills, checked, each there once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.hashing import sha256_json
from stages.core.text import letters
from stages.kinds.skills.parts.calls import parse_call, write_call
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.task import Examples
from stages.kinds.skills.parts.verbatim import span
from stages.sources.near import near_repeated
from stages.teacher.structured import stated

LITERAL = 0.5  # of a parameter's values: if more stand in the request as they are, all are expected to


def candidate_id(user: str, call: str) -> str:
    """16 hex digits of the content, so that what was decided about it stays decided."""
    return sha256_json([user, call])[:16]


def content(user: str, call: str) -> tuple[str, str]:
    """A request and its call, whatever their case and punctuation: what exact duplicates have in common."""
    return letters(user) or user, call.casefold()


def from_files(path: Path, skills: Skills) -> Iterator[dict]:
    """The examples of the skill files, as rows of `gather`."""
    for row in iter_jsonl(path, ("user", "call", "source")):
        call = parse_call(row["call"])
        variety = (
            "other" if call.name == skills.fallback else "multi" if len(call.arguments) > 1 else "positive"
        )
        yield {**row, "variety": variety, "origin": "file"}


def from_teacher(responses: Path, briefs: dict[str, dict], left_out: Counter) -> Iterator[dict]:
    """The examples in accepted answers, as rows of `gather`; answers that hold none are counted.

    Raises UserError for an answer to a brief that is not among `briefs`.
    """
    fields = ("id", "document_id", "accepted", "outcome", "response")
    for number, row in enumerate(iter_jsonl(responses, fields), start=1):
        if not row["accepted"]:
            left_out[f"answer: {row['outcome']}"] += 1
            continue
        try:
            answers = stated(row["response"], row.get("form", "text"), Examples)
        except ValueError:
            left_out["answer: not in the form that was asked for"] += 1
            continue
        if row["document_id"] not in briefs:
            raise UserError(
                f"{responses}, row {number}: '{row['document_id']}' is none of the briefs there are now; "
                "run the prompt and collect stages of their dataset again"
            )
        brief = briefs[row["document_id"]]["metadata"]
        for example in (example for answer in answers for example in answer.examples):
            yield {
                "user": example.user,
                "call": example.assistant,
                "variety": brief["variety"],
                "origin": "teacher",
                "source": row["id"],
            }


def gather(rows: Iterable[dict], skills: Skills, near: float, left_out: Counter) -> list[dict]:
    """The candidates among rows {user, call, variety, origin, source}, sorted by id; earlier rows come first.

    Left out and counted: what breaks the schema, and repeats of a request with the same call, exact ones
    (but for case and punctuation) and those whose word and character sets are as close as `near` (Jaccard).
    """
    kept: dict[tuple[str, str], dict] = {}
    for row in rows:
        user = " ".join(row["user"].split())
        try:
            call = skills.canonical(skills.checked(row["call"], user))
        except ValueError as error:
            left_out[f"schema: {str(error).split(' (')[0].split(', found')[0]}"] += 1
            continue
        if not letters(user) and call.name != skills.fallback:
            left_out["no words"] += 1
            continue
        text = write_call(call)
        fresh = {"id": candidate_id(user, text), "skill": call.name, "variety": row["variety"], "user": user}
        fresh |= {"call": text, "origin": row["origin"], "source": row["source"], "notes": []}
        if kept.setdefault(content(user, text), fresh) is not fresh:
            left_out["exact duplicate"] += 1
    found = _without_near(list(kept.values()), near, left_out)
    _take_notes(found, skills)
    return sorted(found, key=lambda row: row["id"])


def _without_near(rows: list[dict], near: float, left_out: Counter) -> list[dict]:
    groups = defaultdict(list)
    for row in rows:
        groups[row["call"].casefold()].append(row)
    found = []
    for own in groups.values():
        repeats = near_repeated([row["user"] for row in own], near) if len(own) > 1 else [False]
        left_out["near duplicate"] += sum(repeats)
        found += [row for row, repeat in zip(own, repeats, strict=True) if not repeat]
    return found


def _take_notes(rows: list[dict], skills: Skills) -> None:
    """Say why a person should look at a candidate first."""
    calls = defaultdict(set)
    absent: dict[str, set[tuple[str, str]]] = {}
    seen, standing = Counter(), Counter()
    for row in rows:
        calls[letters(row["user"])].add(row["call"].casefold())
        absent[row["id"]] = set()
        call = parse_call(row["call"])
        for name, value in call.arguments.items():
            if skills.by_name[call.name].parameters[name].type == "string":
                key = (call.name, name)
                seen[key] += 1
                if span(value, row["user"]):
                    standing[key] += 1
                else:
                    absent[row["id"]].add(key)
    for row in rows:
        if len(calls[letters(row["user"])]) > 1:
            row["notes"].append("another candidate has this request with another call")
        for key in sorted(absent[row["id"]]):
            if standing[key] > LITERAL * seen[key]:
                row["notes"].append(f"the value of '{key[1]}' is not in the request")
