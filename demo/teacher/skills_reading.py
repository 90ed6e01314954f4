"""Patterns of skills_reading.yaml, and what every reading of a request needs: endings, quotes, times."""

import functools
import re
from pathlib import Path

REFERENCE = re.compile(r"\{([a-z_]+)\}")


@functools.cache
def pattern(name: str) -> re.Pattern:
    """The regular expression of that name, case ignored."""
    return re.compile(_source(name), re.I | re.S)


@functools.cache
def _source(name: str) -> str:
    found = _all()[name]
    joined = "|".join(found) if isinstance(found, list) else found
    return REFERENCE.sub(lambda reference: f"(?:{_source(reference[1])})", joined)


@functools.cache
def _all() -> dict:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(Path(__file__).with_name("skills_reading.yaml"))


def whole(name: str, text: str) -> re.Match | None:
    return pattern(name).fullmatch(text)


def starts(name: str, text: str) -> re.Match | None:
    return pattern(name).match(text)


def without(name: str, text: str) -> str:
    """The text without what the pattern finds, until it finds no more."""
    before = None
    while text != before:
        before, text = text, pattern(name).sub("", text)
    return text


def closed(core: str) -> str:
    """Without what may end a request whose value is short: `for me`, `now`, a question mark."""
    core, before = core.rstrip(" ?.!"), None
    while core != before:
        before = core
        core = without("closing", without("idle", core)).rstrip(" ,?.!")
    return core


def ended(value: str) -> str:
    """A value of free text without the politeness after it."""
    before = None
    while value != before:
        before = value
        value = without("closing", re.sub(r" for (?:me|us)$", "", value.rstrip(" ?.!"), flags=re.I)).rstrip(
            " ,"
        )
    return value


def unquoted(value: str) -> str:
    value = value.strip(" ,")
    found = re.fullmatch(r"(['\"])(.+)\1[.?!]?", value)
    return found[2] if found else value


def without_when(core: str) -> str:
    """Without the times at its end and before the place."""
    before = None
    while core != before:
        before = core
        core = pattern("when_before").sub("", without("when_after", core))
    return pattern("when_between").sub(" ", core)
