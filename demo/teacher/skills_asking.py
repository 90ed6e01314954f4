"""Questions for a language model: the embedded teacher's reading of requests for `openai`."""

import re

from demo.teacher.skills_reading import pattern, whole, without

HELPING = "is are was were can could will would should do does did may might must has have am".split()
WORDS = ("what", "who", "why", "when", "where", "how", "which", "whose", "whats")
IF = re.compile(r"(?:if|whether) ", re.I)
QUOTED = re.compile(
    r"(?:to |about |the question )?(['\"])(.+)\1[.?!]?(?:,? (?:please|thanks|thank you|otto))*[.?!]?"
)


def direct_question(core: str) -> str | None:
    """The question of a request that names whom to ask: `ask gpt if cats can swim` → Can cats swim?"""
    if says := whole("bot_says", core):
        return _ended(says[1]).rstrip("?")
    found = whole("told", core)
    if found is None:
        return None
    rest = re.sub(r"^the (?:question|prompt)[:,]? ", "", (found["rest"] or found["task"]).strip(), flags=re.I)
    if quoted := QUOTED.fullmatch(rest):
        return quoted[2]
    rest = _ended(rest)
    if IF.match(rest):
        return polar(IF.sub("", rest, count=1))
    about = re.fullmatch(r"(about|for|on|regarding) (.+)", rest, re.I | re.S)
    if about and about[1].lower() == "about" and re.match(r"the \w+ of ", about[2], re.I):
        return f"What is {about[2].rstrip('?')}?"
    if about:
        return about[2]
    return rest[3:] if re.match(r"to \w", rest, re.I) else indirect(rest)


def general_question(core: str) -> str | None:
    """A question of general knowledge that is asked of nobody in particular, in the user's words.

    One that speaks of me, you, this or that is talk between people.
    """
    lead = whole("lead", core)
    core = lead["rest"].strip() if lead and not IF.match(lead["rest"]) else core
    wonder = whole("wondered", core)
    rest = _ended(wonder["rest"] if wonder else core)
    if wonder and IF.match(rest):
        said = IF.sub("", rest, count=1)
        fits = not _near(said) or re.match(r"(?:it'?s|it is|there|we|you) ", said, re.I)
        return polar(said) if fits else None
    if len(rest.split()) + bool(re.match(r"\w+'?s\b", rest)) < 3 or _near(rest) or whole("no_question", rest):
        return None
    word = rest.split(" ")[0].lower().removesuffix("'s")
    if word in WORDS:
        return indirect(rest) if wonder else rest
    return rest if word in HELPING[:12] else None


def _near(said: str) -> bool:
    generic = whole("how_to", said) is not None
    return not generic and pattern("near").search(pattern("generic").sub(" ", said)) is not None


def polar(said: str) -> str:
    """A statement as the question whether it is so: `snakes have legs` → Do snakes have legs?"""
    words = re.sub(r"^it'?s\b", "it is", said.rstrip(" ?."), flags=re.I).split()
    for place, word in enumerate(words[1:], start=1):
        low, following = word.lower(), " ".join(words[place + 1 : place + 2])
        if low in ("have", "has") and not re.match(r"(?:been|\w+ed)$", following):
            return _question("do" if low == "have" else "does", *words[:place], "have", *words[place + 1 :])
        if low in HELPING:
            return _question(low, *words[:place], *words[place + 1 :])
    if re.match(r"(?:a|an|the|it|he|she)$", words[0], re.I):
        for place, word in enumerate(words[2:], start=2):
            if _third_person(word):
                return _question("does", *words[:place], word[:-1], *words[place + 1 :])
    return _question("do", *words)


def indirect(said: str) -> str:
    """A question with the verb where a question has it: `what the capital of Peru is` → What is the capital…?

    One that has it there already stays in the user's words.
    """
    found = whole("question", said.rstrip(" ?."))
    words = found["rest"].split() if found else []
    lower = [word.lower() for word in words]
    first = lower[0].removesuffix("n't").removesuffix("'s") if lower else ""
    if not words or {"do", "does", "did"} & set(lower) or first in (*HELPING, "to", "don", "ca"):
        return said
    asked = found["word"].lower()
    free = asked in ("why", "when", "where") or asked.startswith("how")
    if free or lower[0] in ("the", "a", "an", "my", "your", "all", "most") or lower[-1] in HELPING:
        for place, word in enumerate(lower):
            if place and word in ("is", "are", "was", "were", "can", "will"):
                return _question(asked, word, *words[:place], *words[place + 1 :])
    return free and len(words) > 1 and _with_do(asked, words) or said


def _with_do(asked: str, words: list[str]) -> str | None:
    if words[-1] == "has":
        return _question(asked, "does", *words[:-1], "have")
    if _third_person(words[-1]):
        return _question(asked, "does", *words[:-1], words[-1][:-1])
    return _question(asked, "do", *words) if _third_person(words[0]) or words[0] == "people" else None


def _third_person(word: str) -> bool:
    return word.endswith("s") and not word.endswith("ss")


def _question(*words: str) -> str:
    asked = " ".join(words)
    return f"{asked[:1].upper()}{asked[1:]}?"


def _ended(value: str) -> str:
    before = None
    while value != before:
        before = value
        value = without("polite_end", re.sub(r"(?<!\w) for me$", "", value.rstrip(" ,.!"))).rstrip(" ,")
    return value
