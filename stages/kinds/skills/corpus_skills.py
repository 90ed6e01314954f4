"""Make the corpus of a dataset of skills: the requests that people accepted, balanced and split.

Reads `data/<dataset>/candidates/`, `data/<dataset>/skills/`, `prompts/<dataset>/decisions.jsonl` and the file
`eval_rows`; writes
`data/<dataset>/corpus/documents.jsonl`, sorted by id: one document a request, with the call it stands for in
its metadata. A test request is new in its wording and in all its values; requests that are new in one of the
two only are left out (docs/kinds/skills.md). So is what a row of `eval_rows` says, whatever its case and
punctuation: a teacher hits upon the shortest of them ("Delete all my notes."), and nothing may train on them.
"""

import shutil
from collections import Counter
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_jsonl, verify_manifest, write_jsonl
from stages.evaluation.people import one_spelling
from stages.kinds.skills import places
from stages.kinds.skills.knobs import CorpusSkillsKnobs
from stages.kinds.skills.parts.corpus import accepted, balanced, documents, without_contradictions
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.people import read_requests
from stages.kinds.skills.parts.review.decisions import read_decisions, reviewed


def run(dataset: str, knobs: CorpusSkillsKnobs) -> dict:
    candidates, skills_directory = places.candidates(dataset), places.skills(dataset)
    verify_manifest(candidates)
    verify_manifest(skills_directory)
    skills = read_skills(skills_directory)
    offered = read_jsonl(
        candidates / "candidates.jsonl", ("id", "user", "call", "skill", "variety", "origin")
    )
    decisions = read_decisions(places.decisions(dataset), skills)
    rows, decided = reviewed(offered, decisions, knobs.unreviewed)
    if not rows:
        raise UserError(
            f"{candidates}: none of {len(offered)} candidates is accepted; decide with "
            f"`make review DATASET={dataset}`, or set corpus_skills.{dataset}.unreviewed to keep"
        )
    for_measuring = {one_spelling(row.user) for row in read_requests(Path(knobs.eval_rows), skills)}
    unseen = [row for row in rows if one_spelling(row["user"]) not in for_measuring]
    in_eval_rows = len(rows) - len(unseen)
    rows, contradicted = without_contradictions(unseen, accepted(decisions))
    shares = (knobs.test_templates, knobs.test_values, knobs.val_share)
    rows, mixed = documents(rows, skills, *shares)
    train, unbalanced = balanced([row for row in rows if row["split"] == "train"], knobs.max_share)
    staying = {row["id"] for row in train}
    rows = [row for row in rows if row["split"] != "train" or row["id"] in staying]
    written: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", written) as directory:
        written["documents.jsonl"] = write_jsonl(directory / "documents.jsonl", rows)
        shutil.copyfile(skills_directory / "grammar.lark", directory / "grammar.lark")  # for generate
    splits = Counter(row["split"] for row in rows)
    if not splits["train"] or not splits["test"]:
        raise UserError(
            f"{candidates}: {splits['train']} requests to train and {splits['test']} to test with; more "
            f"candidates are needed, or another corpus_skills.{dataset}.test_templates and test_values"
        )
    of_split = {
        split: dict(
            sorted(Counter(row["metadata"]["skill"] for row in rows if row["split"] == split).items())
        )
        for split in sorted(splits)
    }
    return {
        "documents": len(rows),
        "splits": dict(sorted(splits.items())),
        "skills": of_split,
        "templates": len({row["metadata"]["template"] for row in rows}),
        "decisions": dict(sorted(decided.items())),
        "in_eval_rows": in_eval_rows,
        "contradicted": contradicted,
        "new_in_one_way_only": mixed,
        "left_out_for_balance": dict(sorted(unbalanced.items())),
    }
