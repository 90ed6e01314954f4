"""Requests with their calls that the embedded teacher writes for a brief, for the skills that it knows."""

import json
import random
import re

from demo.teacher.skills_phrases import Phrases, Piece, lexicon

PARAMETERS = {
    "weather": "location", "timecheck": "location", "timer": "duration", "news": "topic", "math": "question",
    "notes": "note", "story": "description", "runapp": "program", "openai": "prompt", "other": None,
}  # fmt: skip
WITHOUT = {"weather": 0.3, "timecheck": 0.3, "news": 0.25, "story": 0.2, "notes": 0.22}  # share with no value
# Where a near miss puts its words: the skill that it is for, and the values that it takes the place of.
SLOTS = {
    "note": ("notes", ["<{any}>"]),
    "story": ("story", ["{idea}"]),
    "openai": ("openai", ["<{question}>", "<{question}?>"]),
    "news": ("news", ["{subject}"]),
    "app": ("runapp", ["<{some}>"]),
}


def written_call(name: str, arguments: dict[str, str]) -> str:
    shown = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
    return f"{name}({shown})"


def call_of(skill: str, value: str | None, fallback: str = "other") -> str:
    """The call of one of the ten skills with its value, or without one."""
    if skill == "other":
        return written_call(fallback, {})
    arguments = {} if value is None else {PARAMETERS[skill]: value}
    if skill == "notes":
        arguments = {"action": "list" if value is None else "add", **arguments}
    return written_call(skill, arguments)


def example(
    skill: str, variety: str, topics: list[str], chance: random.Random
) -> tuple[str, str, str | None]:
    """(what a user says, the skill that it is for, its value): one of a variety of a skill."""
    if variety == "other" or skill == "other":
        return _spoken(_piece("other", "line", topics, chance), "other", chance)
    if variety == "near_miss":
        return _near_miss(skill, topics, chance)
    valued = variety == "multi" or chance.random() >= WITHOUT.get(skill, 0)
    section = "value" if valued else "list" if skill == "notes" else "none"
    piece = _piece(skill, section, topics, chance)
    if chance.random() < (0.5 if variety == "multi" else 0.06):
        user, name, value = _spoken(piece, skill, chance)
        beside = lexicon()["beside"]
        if chance.random() < 0.75 or skill == "openai" or not user.endswith((".", "?", "!")):
            return f"{chance.choice(beside['before'])} {user[:1].upper()}{user[1:]}", name, value
        return f"{user} {chance.choice(beside['after'])}", name, value
    return _spoken(piece, skill, chance)


def _piece(skill: str, section: str, topics: list[str], chance: random.Random) -> Piece:
    return Phrases(skill, topics, chance).piece(chance.choice(lexicon()[skill][section]))


def _near_miss(skill: str, topics: list[str], chance: random.Random) -> tuple[str, str, str | None]:
    subjects = {kind: lines for kind, lines in lexicon()["near_miss"].get(skill, {}).items() if lines}
    if not subjects or chance.random() < 0.3:
        section = chance.choice(["keyword", "keyword", "cannot", "sentence"])
        return _spoken(_piece("other", section, topics, chance), "other", chance)
    kind = chance.choice(sorted(subjects))
    target, slots = SLOTS[kind]
    subject = chance.choice(subjects[kind])
    phrases = [phrase for phrase in lexicon()[target]["value"] if any(slot in phrase for slot in slots)]
    phrase = chance.choice(phrases)
    for slot in slots:
        mark = f"<{subject}?>" if slot.endswith("?>") else f"<{subject}>"
        phrase = phrase.replace(slot, mark)
    return _spoken(Phrases(target, topics, chance).piece(phrase), target, chance)


def _spoken(piece: Piece, skill: str, chance: random.Random) -> tuple[str, str, str | None]:
    """A piece as it may be typed or heard: with or without capitals, end marks and apostrophes."""
    text, said, value = piece
    if text.endswith("?") and chance.random() < 0.5:
        text = text[:-1]
        value = value[:-1] if said and value == said and said.endswith("?") else value
    elif re.search(r"\w$", text) and skill != "other" and chance.random() < 0.25:
        text += "." if chance.random() < 0.9 else "!"
    if chance.random() < 0.5:
        text = text[:1].upper() + text[1:]
        if value and said == value and text.startswith(value[:1].upper() + value[1:]):
            value = value[:1].upper() + value[1:]
    elif chance.random() < 0.3:
        text, value = text.lower(), value and value.lower()
    if chance.random() < 0.06 and "'" not in (value or ""):
        text = re.sub(r"(?<=\w)'(?=\w)", "", text)
    return text, skill, value
