"""Gather the examples that may enter the data: those of the skill files and those that the teacher wrote.

Reads `data/<dataset>/skills/` and the corpus and responses of the dataset of briefs; writes
`data/<dataset>/candidates/candidates.jsonl`, sorted by id, which is a hash of request and call. What breaks
the schema and exact and near duplicates are left out and counted. `make review` shows them to people.
"""

from collections import Counter
from itertools import chain

from stages.core import layout
from stages.core.files import atomic_directory, iter_jsonl, verify_manifest, write_jsonl
from stages.kinds.skills import places
from stages.kinds.skills.knobs import CandidatesKnobs
from stages.kinds.skills.parts.candidates import from_files, from_teacher, gather
from stages.kinds.skills.parts.files import read_skills


def run(dataset: str, knobs: CandidatesKnobs) -> dict:
    source, corpus = places.skills(dataset), layout.corpus(knobs.briefs)
    verify_manifest(source)
    verify_manifest(corpus)
    skills = read_skills(source)
    briefs = {row["id"]: row for row in iter_jsonl(corpus / "documents.jsonl", ("id", "metadata"))}
    left_out, offered = Counter(), Counter()

    def counted(rows):
        for row in rows:
            offered[row["origin"]] += 1
            yield row

    known = from_files(source / "examples.jsonl", skills)
    asked = from_teacher(layout.responses(knobs.briefs), briefs, left_out)
    rows = gather(counted(chain(known, asked)), skills, knobs.near, left_out)
    written: dict[str, int] = {}
    with atomic_directory(places.candidates(dataset), "candidates", written) as directory:
        written["candidates.jsonl"] = write_jsonl(directory / "candidates.jsonl", rows)

    def tally(field: str) -> dict[str, int]:
        return dict(sorted(Counter(row[field] for row in rows).items()))

    return {
        "briefs": len(briefs),
        "offered": dict(sorted(offered.items())),
        "candidates": len(rows),
        "skills": tally("skill"),
        "varieties": tally("variety"),
        "origins": tally("origin"),
        "with_notes": sum(bool(row["notes"]) for row in rows),
        "left_out": dict(sorted(left_out.items())),
    }
