"""Score the calls that base, student, student with grammar and teacher answer to held-out requests.

Reads `data/<dataset>/{corpus,skills}/`, `data/<dataset>/responses.jsonl`, `prompts/<dataset>/student.md`, the
file `eval_rows`, `models/base/<base>/` and `models/<dataset>/hf/`. Writes to `reports/<dataset>/figures/`:
`metrics.json` (each measure of each system with a bootstrap 95% interval), `calls.json` (leaks between train
and test; figures by skill, confusions and wrong answers of each system), `samples.json` and
`plots/confusion.json`.
The requests are those of the split `test` that the teacher was asked about, lowest hash first. The rows
of `eval_rows`, requests in people's wording, are scored apart (`people` in `evaluate.json` and `calls.json`);
the base and the teacher, who costs money, are not asked there. Latency, from one request at a time, is in
`metrics.json` alone, which therefore differs from run to run.
docs/kinds/skills/calls.md defines the measures.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, verify_manifest, write_json
from stages.core.hashing import stable_integer
from stages.core.messages import say
from stages.evaluation.people import check_unseen
from stages.kinds.answers import first_answers, lines_of
from stages.kinds.skills import places
from stages.kinds.skills.knobs import EvaluateCallsKnobs
from stages.kinds.skills.parts.briefs import request_document
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.people import Request, read_requests, training_texts
from stages.kinds.skills.parts.runs import STUDENTS, Scored, score_students, scored
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.scoring import by_skill, confusion, leaks
from stages.kinds.skills.parts.task import TASK

SAMPLES, WRONG = 20, 30  # requests with all answers, wrong answers of each system that are listed


def run(dataset: str, knobs: EvaluateCallsKnobs) -> dict:
    verify_manifest(layout.corpus(dataset))
    skills = read_skills(places.skills(dataset))
    fields = ("id", "title", "text", "metadata", "split")
    documents = list(iter_jsonl(layout.corpus(dataset) / "documents.jsonl", fields))
    people = Path(knobs.eval_rows)
    requests = read_requests(people, skills)
    seen = training_texts(layout.corpus(dataset), documents, skills)
    check_unseen(people, [row.user for row in requests], seen)
    answers, teachers = first_answers(layout.responses(dataset))
    labels = {name: label(row) for name, row in answers.items()}
    rows = chosen(documents, labels, knobs.limit)
    if not rows:
        raise UserError(
            f"{layout.corpus(dataset)}: no request of split 'test' that the teacher was asked about; look at "
            f"corpus_skills.{dataset} and prompt.{dataset}.test_documents in params.yaml"
        )
    gold = [gold_of(row, skills, dataset) for row in rows]
    systems = score_students(dataset, knobs, rows, gold, skills, STUDENTS)
    too_long = {name: system.too_long for name, system in systems.items()}
    systems["teacher"] = scored([labels[row["id"]] for row in rows], gold, skills, knobs)
    per_skill = {name: by_skill(system.judged) for name, system in systems.items()}
    details = {
        name: {
            "per_skill": per_skill[name],
            "confusion": confusion(system.judged, skills),
            "wrong": wrong(rows, gold, system)[:WRONG],
        }
        for name, system in systems.items()
    }
    asked, mistakes = score_people(dataset, knobs, requests, skills) if requests else ({}, {})
    figures, shared = layout.figures(dataset), leaks(documents, skills)
    write_json(figures / "metrics.json", {name: system.measures for name, system in systems.items()})
    write_json(figures / "calls.json", {"leaks": shared, "systems": details, "people": mistakes})
    write_json(figures / "samples.json", samples(rows[:SAMPLES], gold, systems))
    plot(dataset, details["student_grammar"]["confusion"])
    return {
        "task": "skills",
        "rows": len(rows),
        "skills_without_rows": without_rows(skills.by_name, per_skill["student"]),
        "teacher": dict(sorted(teachers.items())),
        "too_long": too_long,
        "shared_requests": {name: own["rows"] for name, own in shared["requests"].items()},
        "per_skill": per_skill,
        "people": asked,
    }


def score_people(
    dataset: str, knobs: EvaluateCallsKnobs, requests: list[Request], skills: Skills
) -> tuple[dict, dict[str, dict]]:
    """(the measures of each student on requests in people's wording; its figures by skill and mistakes)."""
    rows = [request_document(row.user, skills, f"eval row {n}") for n, row in enumerate(requests, start=1)]
    gold = [row.answer for row in requests]
    untimed = knobs.model_copy(update={"latency_requests": 0})
    # a base that was not taught writes no call, but talks to the limit: a third of the stage's time
    systems = score_students(dataset, untimed, rows, gold, skills, STUDENTS[1:])
    measures = {
        name: {key: own for key, own in system.measures.items() if not key.startswith("latency")}
        for name, system in systems.items()
    }
    mistakes = {
        name: {"per_skill": by_skill(system.judged), "wrong": wrong(rows, gold, system)}
        for name, system in systems.items()
    }
    return {"rows": len(rows), "systems": measures}, mistakes


def label(row: dict) -> str:
    """The teacher's call in a row of responses; "" where it is not accepted, or has not the form of one."""
    return next(iter(lines_of(row, TASK)), "")


def chosen(documents: list[dict], labels: dict[str, str], limit: int) -> list[dict]:
    """The held-out documents with a label, lowest hash first, at most `limit` (0: all)."""
    held_out = [row for row in documents if row["split"] == "test" and row["id"] in labels]
    return sorted(held_out, key=lambda row: stable_integer("evaluate", row["id"]))[: limit or None]


def gold_of(document: dict, skills, dataset: str) -> str:
    try:
        skills.checked(document["metadata"]["call"])
    except ValueError as error:
        where = layout.corpus(dataset) / "documents.jsonl"
        raise UserError(f"{where}, document '{document['id']}', metadata.call: {error}") from None
    return document["metadata"]["call"]


def wrong(rows: list[dict], gold: list[str], system: Scored) -> list[dict]:
    """The rows whose answer is no normalised match."""
    return [
        {"user": row["text"], "gold": call, "answer": text}
        for row, call, text, own in zip(rows, gold, system.texts, system.judged, strict=True)
        if not own.values["normalised_match"]
    ]


def without_rows(skills: Iterable[str], scored: Collection[str]) -> list[str]:
    """The skills that no held-out request is for, which are in no mean; told on stderr, too."""
    missing = [name for name in skills if name not in scored]
    if missing:
        say(f"evaluate_calls: no held-out request for {', '.join(missing)}")
    return missing


def plot(dataset: str, confusion: dict) -> None:
    """The confusions of one system: rows for the template of `dvc plots`."""
    gold, answered = confusion["gold"], confusion["answered"]
    rows = [
        {"gold": skill, "answered": called}
        for skill, counts in zip(gold, confusion["counts"], strict=True)
        for called, count in zip(answered, counts, strict=True)
        for _ in range(count)
    ]
    write_json(layout.figures(dataset) / "plots" / "confusion.json", rows)


def samples(rows: list[dict], gold: list[str], systems: dict[str, Scored]) -> list[dict]:
    return [
        {"id": row["id"], "user": row["text"], "gold": gold[place]}
        | {name: system.texts[place] for name, system in systems.items()}
        for place, row in enumerate(rows)
    ]
