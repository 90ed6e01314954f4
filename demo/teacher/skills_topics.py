"""Requests for `news` and `story`: the embedded teacher's reading, and what they are about.

A reader gives the value of its skill, "" for a request without one, None for what is no such request.
"""

import re

from demo.teacher.skills_reading import closed, ended, pattern, starts, unquoted, whole, without_when


def news(core: str) -> str | None:
    said = re.sub(
        r"^(?:tell me|show me|do you know|i (?:want|need|'d like) to know) (?=what)",
        "",
        closed(core),
        flags=re.I,
    )
    if pattern("weather_noun").search(said) and not whole("news_sure", said):
        return None
    plain = without_when(said)
    if whole("news_none", said):
        return ""
    named = whole("news_about", plain)
    if named:
        return _topic(next(part for part in named.groups() if part))
    if not whole("news_word", said) or whole("no_news", said):
        return None
    if starts("news_asked", said):
        about = whole("news_topic", plain)
        if about:
            return _topic(about[1])
        if whole("news_plain", plain):
            before = whole("news_before", plain)
            return _topic(before[1]) if before and not whole("not_topic", before[1]) else ""
    after = whole("news_after", said)
    return _topic(after[1]) if after and not whole("not_subject", after[1]) else None


def _topic(text: str) -> str:
    topic = unquoted(without_when(closed(text)))
    topic = re.sub(r"^(?:the (?:world of )?|an? |recent |latest )+", "", topic, flags=re.I)
    topic = re.sub(r"(?<=\w) industry$", "", topic, flags=re.I)
    return "" if whole("no_topic", topic) else topic


def story(core: str) -> str | None:
    said = core.rstrip(" ?.!")
    if re.fullmatch(r"story ?time", said, re.I):
        return ""
    found = whole("story", said)
    if not found or whole("no_story", said) or whole("no_story_yet", said[: found.start("rest")]):
        return None
    rest = found["rest"].strip(" ,")
    if titled := whole("story_named", rest):
        return unquoted(ended(titled[1]))
    about = whole("story_about", rest)
    if about and not whole("for_whom", closed(about[1])) and not whole("for_whom", rest):
        return unquoted(ended(about[1]))
    return "" if not closed(f" {rest}").strip() or whole("story_ends", rest) else None
