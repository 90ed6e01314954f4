"""The corpus of a dataset of skills: accepted candidates as documents, each with its split, in balance.

Requests are held out by their wording and by their values, so that a test needs both to be new.
"""

import re
import string
from collections import Counter

from text_to_num import alpha2digit

from stages.core.hashing import stable_unit
from stages.core.records import Document
from stages.core.text import letters
from stages.kinds.skills.parts.briefs import about
from stages.kinds.skills.parts.calls import Call, Value, parse_call, span
from stages.kinds.skills.parts.candidates import content
from stages.kinds.skills.parts.match import normal_value
from stages.kinds.skills.parts.rows import Candidate, Decision
from stages.kinds.skills.parts.schema import Skills

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
MASK = "\x00"
WITHOUT_PUNCTUATION = str.maketrans(string.punctuation, " " * len(string.punctuation))

FreeValue = tuple[str, str, str]  # skill, parameter, normalised value


def accepted(decisions: dict[str, Decision]) -> set[tuple[str, str]]:
    """The `content` of what people accepted, as it was or as they edited it."""
    kept = (row for row in decisions.values() if row["decision"] != "reject")
    return {content(row.get("new_user", row["user"]), row.get("new_call", row["call"])) for row in kept}


def without_contradictions(
    rows: list[Candidate], decided: set[tuple[str, str]]
) -> tuple[list[Candidate], int]:
    """(one row for each request, how many with another call were left out).

    What people accepted (`decided` has its content) comes first, then what is in the skill files; among
    equals the call that most rows have, then the lowest id.
    """
    votes = Counter(content(row["user"], row["call"]) for row in rows)

    def rank(row: Candidate) -> tuple[bool, bool, int, str]:
        key = content(row["user"], row["call"])
        return key not in decided, row["origin"] != "file", -votes[key], row["id"]

    chosen: dict[str, Candidate] = {}
    for row in sorted(rows, key=rank):
        chosen.setdefault(letters(row["user"]) or row["user"], row)
    kept = sorted(chosen.values(), key=lambda row: row["id"])
    return kept, len(rows) - len(kept)


def documents(
    rows: list[Candidate], skills: Skills, test_templates: float, test_values: float, val_share: float
) -> tuple[list[Document], int]:
    """(the documents, how many requests are new in only one of wording and values and were left out)."""
    common = about(skills)
    kept: list[Document] = []
    for row in rows:
        call = parse_call(row["call"])
        wording = template(row["user"], call, skills)
        split = split_of(wording, values(call, skills), test_templates, test_values, val_share)
        if split is None:
            continue
        metadata = {
            "call": row["call"],
            "skill": call.name,
            "variety": row["variety"],
            "origin": row["origin"],
        }
        defaults = skills.by_name[call.name].defaults
        if defaults:
            metadata["defaults"] = defaults
        metadata |= {"template": wording, **common}
        kept.append({"id": row["id"], "title": "", "text": row["user"], "metadata": metadata, "split": split})
    return kept, len(rows) - len(kept)


def template(user: str, call: Call, skills: Skills) -> str:
    """The wording of a request: lower case, no punctuation, its values and all its numbers masked."""
    places = {
        place: name
        for name, value in _free(call, skills)
        if isinstance(value, str) and (place := span(value, user))
    }
    for (start, stop), name in sorted(places.items(), reverse=True):  # from the end: earlier places stay
        user = f"{user[:start]} {MASK}{name}{MASK} {user[stop:]}"
    masked = NUMBER.sub(f"{MASK}number{MASK}", alpha2digit(user, "en", threshold=0))
    words = masked.casefold().translate(WITHOUT_PUNCTUATION).split()
    # Braces are punctuation: they can stand for the masks only now.
    return re.sub(rf"{MASK}(.*?){MASK}", r"{\1}", " ".join(words))


def values(call: Call, skills: Skills) -> list[FreeValue]:
    """The arguments that are free, normalised."""
    return [(call.name, name, normal_value(value)) for name, value in _free(call, skills)]


def _free(call: Call, skills: Skills) -> list[tuple[str, Value]]:
    """(name, value) of all arguments but those of an enum, which are few and known."""
    parameters = skills.by_name[call.name].parameters
    arguments = call.arguments.items()
    return [(name, value) for name, value in arguments if parameters[name].type not in ("enum", "boolean")]


def split_of(
    wording: str, free: list[FreeValue], test_templates: float, test_values: float, val: float
) -> str | None:
    """train, val, test or None: a function of wording and values only, so new requests never move old ones.

    test: the wording is held out, and so are all values; train: neither; None: one of the two, so it may
    neither teach nor test. val: wordings kept from training, with values of training. A value is held out
    whatever skill and parameter it is for, so a city of one skill's tests is in no other skill's training.
    """
    held_out = [stable_unit("value", value) < test_values for _, _, value in free]
    unit = stable_unit("template", wording)
    if unit < test_templates:
        return "test" if all(held_out) else None
    if any(held_out):
        return None
    return "val" if unit < test_templates + val else "train"


def balanced(rows: list[Document], max_share: float) -> tuple[list[Document], Counter[str]]:
    """(rows of which no skill has more than `max_share`, how many of each skill were left out).

    Which ones stay is a matter of their ids, so more rows change little. With fewer skills than the share
    allows for (one skill, or two at .4) all stay that can.
    """
    counts = Counter(row["metadata"]["skill"] for row in rows)
    limits = _limits(counts, max_share)
    ranked: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        ranked.setdefault(row["metadata"]["skill"], []).append((stable_unit("balance", row["id"]), row["id"]))
    staying = {name for skill, ids in ranked.items() for _, name in sorted(ids)[: limits[skill]]}
    left_out = Counter({skill: counts[skill] - limit for skill, limit in limits.items()})
    return [row for row in rows if row["id"] in staying], +left_out


def _limits(counts: dict[str, int], max_share: float) -> dict[str, int]:
    """How many rows of each skill may stay: the largest are cut, again and again, as the total shrinks."""
    limits = dict(counts)
    if len(counts) * max_share <= 1:
        return limits
    while (most := max(limits.values())) > (bound := int(max_share * sum(limits.values()))):
        limits = {skill: max(1, bound) if limit == most else limit for skill, limit in limits.items()}
        if bound < 1:
            break
    return limits
