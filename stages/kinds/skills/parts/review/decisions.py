"""What people decided about candidates, kept by content, so that regenerating never asks again.

A decisions file has one canonical JSON object a line (`rows.Decision`), sorted by id: `id` is that of the
candidate (`candidates.candidate_id`), `user` and `call` are what was decided about, and an edit has
`new_user` and `new_call`, too. It is people's work and lies in git.
"""

import fcntl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, read_jsonl, write_text
from stages.core.hashing import canonical_json
from stages.kinds.skills import places
from stages.kinds.skills.parts.calls import parse_call, write_call
from stages.kinds.skills.parts.candidates import candidate_id, content
from stages.kinds.skills.parts.rows import Candidate, Decision
from stages.kinds.skills.parts.schema import Skills

KINDS = ("accept", "reject", "edit")
CANDIDATE = ("id", "skill", "variety", "user", "call", "origin", "source", "notes")
FIELDS = {"id", "decision", "user", "call"}
NEW = {"new_user", "new_call"}


class Change(NamedTuple):
    """A decision to write about a candidate, and the one that was there when it was made; None is none."""

    id: str
    wanted: Decision | None
    seen: Decision | None


class Conflict(Exception):
    """Others decided otherwise in the meantime; `present` has what there is now, or None, by id."""

    def __init__(self, present: dict[str, Decision | None]):
        super().__init__(f"decided otherwise in the meantime: {', '.join(sorted(present))}")
        self.present = present


class Rejected(UserError):
    """Edits make what was rejected; `problems` has what to say about each, by id."""

    def __init__(self, problems: dict[str, str]):
        super().__init__("; ".join(problems.values()))
        self.problems = problems


def candidates_file(dataset: str) -> Path:
    return places.candidates(dataset) / "candidates.jsonl"


def read_candidates(dataset: str) -> list[Candidate]:
    """The candidates. Raises UserError, which names the command to run, where there are none."""
    path = candidates_file(dataset)
    rows = read_jsonl(path, CANDIDATE) if path.is_file() else []
    if not rows:
        command = f"dvc repro candidates@{dataset}"
        raise UserError(f"{path}: nothing to review yet; make candidates first: `{command}`")
    return rows


def decided(candidate: Candidate, kind: str, user: str, call: str, skills: Skills) -> Decision:
    """The row of a decision; `user` and `call` are what an edit makes of the candidate.

    The new call is written as the schema orders it. An edit that changes nothing is an accept. Raises
    ValueError, which says what is wrong.
    """
    if kind not in KINDS:
        raise ValueError(f"expected accept, reject or edit, found {kind!r}")
    row: Decision = {
        "id": candidate["id"],
        "decision": kind,
        "user": candidate["user"],
        "call": candidate["call"],
    }
    if kind != "edit":
        return row
    user = " ".join(user.split())
    if not user:
        raise ValueError("the request has no words")
    call = write_call(skills.canonical(skills.checked(call, user)))
    (user + call).encode()  # half a character can be in no file: ValueError
    if (user, call) == (candidate["user"], candidate["call"]):
        return {**row, "decision": "accept"}
    return {**row, "new_user": user, "new_call": call}


def read_decisions(path: Path, skills: Skills | None = None) -> dict[str, Decision]:
    """The decisions by id; none where there is no file. With `skills`, the calls of edits are held to them.

    Raises UserError with file and row for what is no decision.
    """
    if not Path(path).exists():
        return {}
    decisions: dict[str, Decision] = {}
    for number, row in enumerate(iter_jsonl(path), start=1):
        problem = _problem_with(row, skills)
        if problem:
            raise UserError(f"{path}, row {number}: {problem}")
        if row["id"] in decisions:
            raise UserError(f"{path}, row {number}: the id {row['id']} is there twice; delete one row")
        decisions[row["id"]] = row
    return decisions


def _problem_with(row: dict, skills: Skills | None) -> str | None:
    """Why a row of a decisions file is no decision, or None."""
    if row.get("decision") not in KINDS:
        return f"field 'decision': expected accept, reject or edit, found {row.get('decision')!r}"
    expected = FIELDS | NEW if row["decision"] == "edit" else FIELDS
    unknown = sorted(row.keys() - expected)
    if unknown:
        return f"field '{unknown[0]}' is unknown for the decision {row['decision']}"
    for field in sorted(expected):
        if not isinstance(row.get(field), str) or not row[field].strip():
            return f"field '{field}': expected text, found {row.get(field)!r}"
    if row["id"] != candidate_id(row["user"], row["call"]):
        return (
            f"field 'id': {row['id']} is not the id of this user and call; to change what a candidate says, "
            "restore them and write decision edit with new_user and new_call"
        )
    if row["decision"] == "edit" and skills is not None:
        try:
            skills.checked(row["new_call"], row["new_user"])
        except ValueError as error:
            return f"field 'new_call': {row['new_call']}: {error}"
    return None


def save_decisions(path: Path, changes: Iterable[Change]) -> dict[str, Decision]:
    """Write all changes, or none, and return all decisions by id.

    The file is replaced whole, by one process at a time, so a reader or a kill sees it before or after.
    Raises Conflict where the decision there is neither the one that was seen nor the one wanted; Rejected
    for an edit that makes what was rejected; UserError for a file that cannot be read.
    """
    path, changes = Path(path), list(changes)
    with _locked(path):
        decisions = read_decisions(path)
        before = dict(decisions)
        present = {change.id: decisions.get(change.id) for change in changes}
        # What is there already as wanted is no conflict: the answer to an earlier save may have been lost.
        conflicts = {
            change.id: present[change.id]
            for change in changes
            if present[change.id] not in (change.seen, change.wanted)
        }
        if conflicts:
            raise Conflict(conflicts)
        for change in changes:
            if change.wanted is None:
                decisions.pop(change.id, None)
            else:
                decisions[change.id] = change.wanted
        _refuse_rejected([change.wanted for change in changes], decisions)
        if decisions != before:
            rows = (decisions[name] for name in sorted(decisions))
            write_text(path, "".join(canonical_json(row) + "\n" for row in rows))
    return decisions


def _refuse_rejected(wanted: list[Decision | None], decisions: dict[str, Decision]) -> None:
    """Raises Rejected for edits that make what a decision rejects."""
    edits = [row for row in wanted if row and row["decision"] == "edit"]
    if not edits:
        return
    decision_about = lookup(decisions)
    problems = {
        row["id"]: f"the edit {row['new_user']!r} → {row['new_call']} is a candidate that was rejected; "
        "accept that one first, or reject this one, too"
        for row in edits
        if is_rejected(decision_about(row["new_user"], row["new_call"]))
    }
    if problems:
        raise Rejected(problems)


def lookup(decisions: dict[str, Decision]) -> Callable[[str, str], Decision | None]:
    """What was decided about a user and call, or else about one that differs in case and punctuation only.

    Of several such a rejection comes first.
    """
    alike: dict[tuple[str, str], Decision] = {}
    for row in sorted(decisions.values(), key=lambda row: (not is_rejected(row), row["id"])):
        alike.setdefault(content(row["user"], row["call"]), row)
    return lambda user, call: decisions.get(candidate_id(user, call)) or alike.get(content(user, call))


def is_rejected(decision: Decision | None) -> bool:
    return decision is not None and decision["decision"] == "reject"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from saving to the same file. It works on this machine only."""
    layout.SCRATCH.mkdir(parents=True, exist_ok=True)
    with open(layout.SCRATCH / f".review-{path.resolve().parent.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def reviewed(
    candidates: Iterable[Candidate], decisions: dict[str, Decision], unreviewed: Literal["keep", "drop"]
) -> tuple[list[Candidate], Counter[str]]:
    """(the candidates that may enter the data, how many were: accept, edit, reject, unreviewed).

    An edited one has its new user and call, their id and the skill of the call, and no notes. Where an edit
    makes what another candidate is, it is there once; where it makes what was rejected, it counts as
    rejected. A decision holds for candidates that differ in case and punctuation only (`lookup`).
    """
    kept: dict[str, Candidate] = {}
    counts: Counter[str] = Counter()
    decision_about = lookup(decisions)
    for candidate in candidates:
        decision, row = decision_about(candidate["user"], candidate["call"]), candidate
        kind = decision["decision"] if decision else "unreviewed"
        if decision and kind == "edit":
            user, call = decision["new_user"], decision["new_call"]
            new = {"id": candidate_id(user, call), "skill": parse_call(call).name, "user": user, "call": call}
            row = {**candidate, **new, "notes": []}
            if is_rejected(decision_about(row["user"], row["call"])):
                kind = "reject"
        counts[kind] += 1
        if kind != "reject" and (kind != "unreviewed" or unreviewed == "keep"):
            kept.setdefault(row["id"], row)
    return list(kept.values()), counts
