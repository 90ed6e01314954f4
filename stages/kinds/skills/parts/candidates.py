"""Candidates: examples that may enter the data of a dataset of skills, checked, each there once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.hashing import sha256_json
from stages.core.records import Document
from stages.core.text import letters
from stages.kinds.answers import document_of, read_responses
from stages.kinds.skills.parts.calls import parse_call, span, write_call
from stages.kinds.skills.parts.rows import Candidate, OfferedExample
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.task import Examples
from stages.sources.near import near_repeated
from stages.teacher.structured import stated

LITERAL = 0.5  # of a parameter's values: if more stand in the request as they are, all are expected to


def candidate_id(user: str, call: str) -> str:
    """16 hex digits of the content, so that what was decided about it stays decided."""
    return sha256_json([user, call])[:16]


def content(user: str, call: str) -> tuple[str, str]:
    """A request and its call, whatever their case and punctuation: what exact duplicates have in common."""
    return letters(user) or user, call.casefold()


def from_files(path: Path, skills: Skills) -> Iterator[OfferedExample]:
    """The examples of the skill files. Raises UserError for a file that cannot be read."""
    for row in iter_jsonl(path, ("user", "call", "source")):
        call = parse_call(row["call"])
        if call.name == skills.fallback:
            variety = "other"
        else:
            variety = "multi" if len(call.arguments) > 1 else "positive"
        yield {**row, "variety": variety, "origin": "file"}


def from_teacher(
    responses: Path, briefs: dict[str, Document], left_out: Counter[str]
) -> Iterator[OfferedExample]:
    """The examples in accepted answers; those that hold none are counted in `left_out`.

    Raises UserError for an answer to a brief that is not among `briefs`, which are by id.
    """
    for number, row in enumerate(read_responses(responses), start=1):
        if not row["accepted"]:
            left_out[f"answer: {row['outcome']}"] += 1
            continue
        try:
            answers = stated(row["response"], row.get("form", "text"), Examples)
        except ValueError:
            left_out["answer: not in the form that was asked for"] += 1
            continue
        if document_of(row) not in briefs:
            raise UserError(
                f"{responses}, row {number}: '{row['document_id']}' is none of the briefs there are now; "
                "run the prompt and collect stages of their dataset again"
            )
        variety = briefs[document_of(row)]["metadata"]["variety"]
        for example in (example for answer in answers for example in answer.examples):
            yield {
                "user": example.user,
                "call": example.assistant,
                "variety": variety,
                "origin": "teacher",
                "source": row["id"],
            }


def gather(
    examples: Iterable[OfferedExample], skills: Skills, near: float, left_out: Counter[str]
) -> list[Candidate]:
    """The candidates among the examples, sorted by id; of repeats the first stays.

    Left out and counted: what breaks the schema, and repeats of a request with the same call, exact ones
    (but for case and punctuation) and those whose word and character sets are as close as `near` (Jaccard).
    """
    kept: dict[tuple[str, str], Candidate] = {}
    for example in examples:
        user = " ".join(example["user"].split())
        try:
            call = skills.canonical(skills.checked(example["call"], user))
        except ValueError as error:
            left_out[f"schema: {str(error).split(' (')[0].split(', found')[0]}"] += 1
            continue
        if not letters(user) and call.name != skills.fallback:
            left_out["no words"] += 1
            continue
        text = write_call(call)
        key = content(user, text)
        if key in kept:
            left_out["exact duplicate"] += 1
            continue
        kept[key] = {
            "id": candidate_id(user, text),
            "skill": call.name,
            "variety": example["variety"],
            "user": user,
            "call": text,
            "origin": example["origin"],
            "source": example["source"],
            "notes": [],
        }
    candidates = _without_near(kept.values(), near, left_out)
    _add_notes(candidates, skills)
    return sorted(candidates, key=lambda row: row["id"])


def _without_near(rows: Iterable[Candidate], near: float, left_out: Counter[str]) -> list[Candidate]:
    """The rows whose request is not nearly that of an earlier row with the same call."""
    rows_by_call: dict[str, list[Candidate]] = defaultdict(list)
    for row in rows:
        rows_by_call[row["call"].casefold()].append(row)
    kept: list[Candidate] = []
    for group in rows_by_call.values():
        repeats = near_repeated([row["user"] for row in group], near) if len(group) > 1 else [False]
        left_out["near duplicate"] += sum(repeats)
        kept += [row for row, repeat in zip(group, repeats, strict=True) if not repeat]
    return kept


def _add_notes(rows: list[Candidate], skills: Skills) -> None:
    """Say why a person should look at a candidate first.

    A value that does not stand in its request is worth a note only where most values of that parameter do:
    a question's formula never does, a city does.
    """
    calls: dict[str, set[str]] = defaultdict(set)  # by request
    absent: dict[str, list[tuple[str, str]]] = {}  # by candidate: (skill, parameter) of such values
    counts: Counter[tuple[str, str]] = Counter()
    absent_counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        calls[letters(row["user"])].add(row["call"].casefold())
        call = parse_call(row["call"])
        parameters = skills.by_name[call.name].parameters
        texts = [(name, value) for name, value in call.arguments.items() if parameters[name].type == "string"]
        absent[row["id"]] = [(call.name, name) for name, value in texts if not span(value, row["user"])]
        counts.update((call.name, name) for name, _ in texts)
        absent_counts.update(absent[row["id"]])
    for row in rows:
        if len(calls[letters(row["user"])]) > 1:
            row["notes"].append("another candidate has this request with another call")
        for skill, name in sorted(absent[row["id"]]):
            if counts[skill, name] - absent_counts[skill, name] > LITERAL * counts[skill, name]:
                row["notes"].append(f"the value of '{name}' is not in the request")
