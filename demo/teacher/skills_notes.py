"""Notes and reminders in what people say: the embedded teacher's reading of requests for `notes`."""

import re

from demo.teacher.skills_numbers import duration
from demo.teacher.skills_reading import closed, pattern, starts, whole, without

IRREGULAR = """cancelling=cancel canceling=cancel making=make taking=take writing=write giving=give
having=have leaving=leave moving=move inviting=invite arranging=arrange baking=bake scheduling=schedule
replacing=replace changing=change updating=update preparing=prepare exercising=exercise organizing=organize
practicing=practice completing=complete closing=close saving=save dividing=divide hiring=hire driving=drive
getting=get putting=put running=run setting=set planning=plan swimming=swim cutting=cut shopping=shop
stopping=stop dropping=drop wrapping=wrap chopping=chop"""
BASES = dict(pair.split("=") for pair in IRREGULAR.split())
REGULAR = set(
    """answer ask attend book brush buy call check clean collect confirm cook do drop email feed find
    finish fix fold go help learn look mail meet mow order pack paint pay pick play read renew
    repair report reschedule return see sell send sign start study submit talk text thank train turn
    visit wait walk wash watch water wear work""".split()
)


def notes(core: str) -> str | None:
    """The note that a request adds, "" for a request to list them, None for neither."""
    return "" if whole("listed", closed(core)) else note(core)


def note(core: str) -> str | None:
    """The note that a request wants to be kept, in the user's words; None where it wants none."""
    core = core.strip()
    bare = core.rstrip(" .?!")
    if under := whole("note_under", core):
        return _words(under[1])
    onto = whole("note_onto", bare)
    if onto and not re.match(rf"(?:an? |the )?(?:\w+ )?(?:{pattern('note').pattern})\b", onto["value"], re.I):
        return _words(onto["value"])
    found = starts("note_explicit", core)
    if found and whole("note_made_so", core[: found.start("rest")].strip(" ,:.-")):
        return _rest(found["rest"].strip()) if found["rest"].strip() else None
    plain, later = whole("note_plain", core), whole("note_later", closed(bare))
    if plain is None or whole("no_note", core) or later and duration(later[1]):
        return None
    value = next(part for name in ("value", "fact", "task", "todo") if (part := plain[name]))
    value = re.sub(r"^to (?=\w)", "", value) if plain["fact"] else value
    return _words(re.sub(r"^the ", "", value, flags=re.I) if plain["on"] else value)


def _rest(rest: str) -> str | None:
    rest = re.sub(r"^(?:(?:to|in|on) my (?:notes|list)|down)\b[,:]? ?", "", rest, flags=re.I)
    if about := whole("note_about", rest):
        return _about(_words(about[1]))
    if reminding := whole("note_reminding", rest):
        return f"remind me {reminding[1]} {_words(reminding[2])}"
    rest = re.sub(r"^to remind me (?:to|that|about) ", "", rest, flags=re.I)
    if whole("no_note_rest", rest):
        return None
    return _words(re.sub(r"^to (?=\w)", "", _after(starts("note_intro", rest), rest), flags=re.I))


def _after(found: re.Match | None, text: str) -> str:
    return text[found.end() :] if found else text


def _about(value: str) -> str:
    """A subject without `the`; an -ing form at its head as what is to be done: buying → buy."""
    if re.match(r"(?:the|meeting with) ", value, re.I):
        return re.sub(r"^the ", "", value, flags=re.I)
    first, _, others = value.partition(" ")
    stem = first.lower().removesuffix("ing")
    base = BASES.get(first.lower()) or (stem if stem != first.lower() and stem in REGULAR else None)
    return f"{base} {others}" if base and others else value


def _words(value: str) -> str:
    before, value = None, value.strip()
    while value != before:
        before = value
        value = without("polite_end", value.rstrip(" ,.!")).rstrip(" ,")
    found = re.fullmatch(r"(['\"])(.+)\1[.?!]?", value, re.S)
    return (found[2] if found else value).strip()
