"""Requests for `timer`, `math` and `runapp`: the embedded teacher's reading, and their values.

A reader gives the value of its skill, None for what is no such request.
"""

import re

from demo.teacher.skills_numbers import duration, expression
from demo.teacher.skills_reading import closed, pattern, starts, unquoted, whole


def timer(core: str) -> str | None:
    """The longest duration in a request for a timer."""
    said = closed(core)
    asked = any(whole(name, said) for name in ("timer_named", "timer_called", "timer_clock"))
    if not asked or whole("no_timer", said):
        return None
    said = re.sub(r"(?<=\w)-(?=(?:hour|minute|second)\b)", " ", said, flags=re.I)
    begins = [found.start() for found in pattern("amount").finditer(said)]
    ends = sorted((found.end() for found in pattern("unit_end").finditer(said)), reverse=True)
    spans = ((start, end) for start in begins for end in ends if end > start)
    return next((value for start, end in spans if (value := duration(said[start:end]))), None)


def math(core: str) -> str | None:
    """The arithmetic of a request, once the words around it are taken off one by one."""
    said, before = closed(core), None
    while said != before:
        said = pattern("math_after").sub("", said)
        if found := expression(said):
            return found
        before = said
        lead = starts("math_lead", said)
        said = said[lead.end() :] if lead else said
    return None


def program(core: str) -> str | None:
    """The program of a request that says that it is for one, whatever the program is called."""
    said = closed(core)
    if whole("run_strict", said) and not whole("not_run", said) and not whole("listed", said):
        return runapp(core)
    return None


def runapp(core: str) -> str | None:
    said = closed(core)
    opened, found, after = whole("run_opened", said), whole("run", said), whole("run_after", said)
    if opened:
        called = opened[1]
    elif found:
        called = found["program"]
        if found["vague"] and whole("vague_thing", called):
            return None
    elif after:
        called = after[1]
    else:
        return None
    sure = re.search(rf"\b(?:{pattern('program').pattern})\b", called, re.I)
    called = pattern("program_called").sub("", pattern("on_machine").sub("", called))
    quoted = re.match(r"(?:the |my )?(['\"])(.+?)\1", called)
    if quoted:
        return quoted[2]
    if (
        whole("no_program", called)
        or len(called.split()) > 5
        or not sure
        and whole("no_program_thing", called)
    ):
        return None
    called = re.sub(r"^(?:the|my|our|an?|up) ", "", called, flags=re.I)
    return unquoted(re.sub(rf"(?<=\S) (?:{pattern('program').pattern})$", "", called, flags=re.I)) or None
