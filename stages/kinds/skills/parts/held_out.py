"""Which requests are held out: by their wording, and by their values, so that a test needs both to be new."""

import re
import string
from collections import Counter

from stages.core.hashing import stable_unit
from stages.kinds.skills.parts.calls import Call, Value
from stages.kinds.skills.parts.match import normal_value
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.verbatim import span

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
MASK = "\x00"


def template(user: str, call: Call, skills: Skills) -> str:
    """The wording of a request: lower case, no punctuation, its values and all its numbers masked."""
    from text_to_num import alpha2digit

    spans = {
        found: name
        for name, value in _free(call, skills)
        if isinstance(value, str) and (found := span(value, user))
    }
    for (start, stop), name in sorted(spans.items(), reverse=True):
        user = f"{user[:start]} {MASK}{name}{MASK} {user[stop:]}"
    masked = NUMBER.sub(f"{MASK}number{MASK}", alpha2digit(user, "en", threshold=0))
    bare = masked.casefold().translate(str.maketrans(string.punctuation, " " * len(string.punctuation)))
    return re.sub(rf"{MASK}(.*?){MASK}", r"{\1}", " ".join(bare.split()))


def values(call: Call, skills: Skills) -> list[tuple[str, str, str]]:
    """(skill, parameter, normalised value) of the arguments that are free."""
    return [(call.name, name, normal_value(value)) for name, value in _free(call, skills)]


def _free(call: Call, skills: Skills) -> list[tuple[str, Value]]:
    """All arguments but those of an enum, which are few and known."""
    parameters = skills.by_name[call.name].parameters
    given = call.arguments.items()
    return [(name, value) for name, value in given if parameters[name].type not in ("enum", "boolean")]


def split_of(
    wording: str, held: list[tuple[str, str, str]], test_templates: float, test_values: float, val: float
) -> str | None:
    """train, val, test or None: a function of wording and values only, so new requests never move old ones.

    test: the wording is held out, and so are all values; train: neither; None: one of the two, so it may
    neither teach nor test. val: wordings kept from training, with values of training. A value is held out
    whatever skill and parameter it is for, so a city of one skill's tests is in no other skill's training.
    """
    new = [stable_unit("value", value) < test_values for _, _, value in held]
    unit = stable_unit("template", wording)
    if unit < test_templates:
        return "test" if all(new) else None
    if any(new):
        return None
    return "val" if unit < test_templates + val else "train"


def balanced(rows: list[dict], max_share: float) -> tuple[list[dict], Counter]:
    """(rows of which no skill has more than `max_share`, how many of each skill were left out).

    Which ones stay is a matter of their ids, so more rows change little. With fewer skills than the share
    allows for (one skill, or two at .4) all stay that can.
    """
    counts = Counter(row["metadata"]["skill"] for row in rows)
    limits = dict(counts)
    if len(counts) * max_share > 1:
        while (most := max(limits.values())) > (bound := int(max_share * sum(limits.values()))):
            limits = {skill: max(1, min(own, bound)) if own == most else own for skill, own in limits.items()}
            if bound < 1:
                break
    ranked: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        ranked.setdefault(row["metadata"]["skill"], []).append((stable_unit("balance", row["id"]), row["id"]))
    staying = {name for skill, own in ranked.items() for _, name in sorted(own)[: limits[skill]]}
    left_out = Counter(
        {skill: counts[skill] - limits[skill] for skill in counts if counts[skill] > limits[skill]}
    )
    return [row for row in rows if row["id"] in staying], left_out
