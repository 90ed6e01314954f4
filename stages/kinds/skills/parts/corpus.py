"""The corpus of a dataset of skills: accepted candidates as documents, each with its split."""

from collections import Counter

from stages.core.text import letters
from stages.kinds.skills.parts.briefs import about
from stages.kinds.skills.parts.calls import parse_call
from stages.kinds.skills.parts.candidates import content
from stages.kinds.skills.parts.held_out import split_of, template, values
from stages.kinds.skills.parts.schema import Skills


def accepted(decisions: dict[str, dict]) -> set[tuple[str, str]]:
    """The `content` of what people accepted, as it was or as they edited it."""
    kept = (row for row in decisions.values() if row["decision"] != "reject")
    return {content(row.get("new_user", row["user"]), row.get("new_call", row["call"])) for row in kept}


def without_contradictions(rows: list[dict], decided: set[tuple[str, str]]) -> tuple[list[dict], int]:
    """(one row for each request, how many with another call were left out).

    What people accepted (`decided` has its content) comes first, then what is in the skill files; among
    equals the call that most rows have, then the lowest id.
    """
    votes = Counter(content(row["user"], row["call"]) for row in rows)

    def rank(row: dict) -> tuple:
        own = content(row["user"], row["call"])
        return (own not in decided, row["origin"] != "file", -votes[own], row["id"])

    chosen: dict[str, dict] = {}
    for row in sorted(rows, key=rank):
        chosen.setdefault(letters(row["user"]) or row["user"], row)
    kept = sorted(chosen.values(), key=lambda row: row["id"])
    return kept, len(rows) - len(kept)


def documents(
    rows: list[dict], skills: Skills, test_templates: float, test_values: float, val_share: float
) -> tuple[list[dict], int]:
    """(the documents, how many requests are new in only one of wording and values and were left out)."""
    common, found = about(skills), []
    for row in rows:
        call = parse_call(row["call"])
        wording = template(row["user"], call, skills)
        split = split_of(wording, values(call, skills), test_templates, test_values, val_share)
        if split is None:
            continue
        own = {"call": row["call"], "skill": call.name, "variety": row["variety"], "origin": row["origin"]}
        if defaults := skills.by_name[call.name].defaults:
            own["defaults"] = defaults
        metadata = {**own, "template": wording, **common}
        found.append(
            {"id": row["id"], "title": "", "text": row["user"], "metadata": metadata, "split": split}
        )
    return found, len(rows) - len(found)
