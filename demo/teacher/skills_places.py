"""Requests for `weather` and `timecheck`: the embedded teacher's reading, and where they are for.

A reader gives the value of its skill, "" for a request without one, None for what is no such request.
"""

from demo.teacher.skills_reading import closed, pattern, starts, unquoted, whole, without_when


def weather(core: str) -> str | None:
    said = pattern("like_outside").sub("what's the weather", closed(core))
    asked = whole("asks_sky", said) or whole("asks_how", said) or whole("asks_clothes", said)
    if asked and not whole("no_weather", said):
        return _where(said)
    if not pattern("weather_noun").search(said) or whole("no_weather", said):
        return None
    if starts("asking", said) and not whole("weather_words", said):
        return _where(said)
    if whole("weather_words", said):
        place = _where(said)
        named = whole("weather_named", without_when(said))
        return place if place or not named else _kept(named[1])
    if whole("weather_after", without_when(said)):
        return _where(said)
    return None


def timecheck(core: str) -> str | None:
    said = closed(core)
    plain = without_when(said)
    own, before = whole("time_of", plain), whole("time_after", plain)
    if own and own[1].lower() not in ("the", "my", "today", "tomorrow", "what"):
        return own[1]
    if whole("no_time", said):
        return None
    if named := whole("time_named", plain):
        return _kept(named[1])
    if whole("asks_time", said):
        return _where(said)
    if before and not starts("asking", before[1]) and not before[1].endswith(","):
        return _kept(before[1])
    return None


def _where(said: str) -> str:
    """The place that a request about weather or time is for, empty without one."""
    core = without_when(said)
    found = starts("place_first", core) or whole("place_last", core) or whole("weather_of", core)
    place = unquoted(without_when(closed(found[1]))) if found else ""
    return "" if starts("asking", place) and not core.lower().startswith("in ") else _kept(place)


def _kept(place: str) -> str:
    return "" if whole("here", place) or whole("no_place", place) else place
