"""What a request calls: the embedded teacher's reading of any request for the ten skills that it knows.

`label` strips greetings and politeness and asks one reader a skill, in an order in which the more explicit
ones come first ("ask gpt about the weather" is no weather request). A reader gives the value of its skill,
"" for a request without one, or None where it is no such request; what no reader wants is talk.
"""

import re

from demo.teacher.skills_asking import direct_question, general_question
from demo.teacher.skills_notes import notes
from demo.teacher.skills_places import timecheck, weather
from demo.teacher.skills_reading import starts, whole, without
from demo.teacher.skills_tasks import math, program, runapp, timer
from demo.teacher.skills_topics import news, story

STRAIGHT = str.maketrans("“”‘’", "\"\"''")
ABBREVIATED = r"(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bSt)(?<!\b[A-Za-z])"
SENTENCE = re.compile(rf"{ABBREVIATED}[.!?…]+\s+(?=\S)", re.I)
QUOTED = re.compile(r"(?<!\w)(['\"])(?:(?!\1).)*[.!?] .*\1(?!\w)")
SHORT_FORMS = {
    **{"im": "I'm", "id": "I'd", "ill": "I'll", "ive": "I've", "lets": "let's", "whats": "what's"},
    **{"hows": "how's", "whos": "who's", "wheres": "where's", "dont": "don't", "isnt": "isn't"},
}
SHORT = re.compile(rf"^(?:{'|'.join(SHORT_FORMS)})\b", re.I)
VERB_FIRST = re.compile(r"(?:is|are|was|were|does|did|has|have|so|which|that)\b")
READERS = (
    ("openai", direct_question),
    ("runapp", program),
    ("notes", notes),
    ("timer", timer),
    ("story", story),
    ("news", news),
    ("weather", weather),
    ("timecheck", timecheck),
    ("math", math),
    ("runapp", runapp),
    ("openai", general_question),
)


def label(text: str) -> tuple[str, str | None]:
    """(skill, value or None) of a request; the skill is `other` for what is no request at all.

    For `notes`, no value means that the notes are to be listed. Of several sentences, one that is a request
    counts; a question of general knowledge only as the last of them.
    """
    plain = " ".join(text.translate(STRAIGHT).split())
    found = _sentence(plain)
    ends = [mark.end() for mark in SENTENCE.finditer(plain)]
    if not ends or QUOTED.search(plain):
        return found
    parts = [plain[start:end] for start, end in zip([0, *ends], [*ends, len(plain)], strict=True)]
    asked = [
        one for part in parts[:-1] if (one := _sentence(part))[0] != "other" and not _idle_question(part)
    ]
    asked += [one for one in [_sentence(parts[-1])] if one[0] != "other"]
    if not asked:
        return found if found[0] == "notes" else ("other", None)
    if len(asked) == 1:
        return asked[0]
    return found if asked[0][0] == "notes" else asked[-1] if len(asked) == 2 else ("other", None)


def _idle_question(text: str) -> bool:
    core = stripped(text)
    return direct_question(core) is None and _sentence(text)[0] == "openai"


def _sentence(text: str) -> tuple[str, str | None]:
    core = stripped(text)
    if not re.search(r"\w", core):
        return "other", None
    for skill, reader in READERS:
        value = reader(core)
        if value is not None:
            scrap = text[:1].islower() and text.rstrip().endswith((".", "…", "-")) and VERB_FIRST.match(text)
            if reader is general_question and (scrap or whole("unended", core)):
                return "other", None
            return skill, value or None
    return "other", None


def stripped(text: str) -> str:
    """A request without greetings, names and politeness around it, and with its first short form mended."""
    core, before = re.sub(r"[.!…]+$", "", text.strip()).rstrip(" ,"), None
    core = re.sub(r"^what'?s is\b", "what is", core, flags=re.I)
    while core != before:
        before = core
        for name in ("opening", "please"):
            found = starts(name, core)
            if found and found.end() < len(core):
                core = core[found.end() :].lstrip(" ,")
        bare = without("closing", core.rstrip("?")).rstrip(" ,")
        core = bare if bare != core.rstrip("?").rstrip(" ,") else core.rstrip(" ,")
        core = SHORT.sub(lambda found: SHORT_FORMS[found[0].lower()], core)
    return core
