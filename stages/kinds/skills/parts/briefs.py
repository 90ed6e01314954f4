"""Briefs: what a teacher is to write examples of, for each skill and variety, about ever other topics."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from stages.core.hashing import stable_integer
from stages.core.records import Document
from stages.kinds.skills.parts.schema import Example, Skill, Skills
from stages.kinds.skills.parts.text_form import signature

VARIETIES = ("positive", "multi", "near_miss", "other")
TOPICS = 3  # in a brief
EXAMPLES = 2  # of a skill, where a prompt tells about all skills
WORDS = {
    "positive": "requests that a user may make of an assistant for which {name} is the right call",
    "multi": "requests for which {name} is called with several arguments at once",
    "near_miss": "requests that look as if they were for {name}, but for which another call is right",
    "other": (
        "things that people near a microphone say that are no request to the assistant: talk with others, "
        "parts of sentences, sounds that were misheard; for all of them {name} is the right call"
    ),
}

Item = TypeVar("Item")


def briefs(
    skills: Skills,
    topics: list[str],
    counts: dict[str, int],
    examples: int,
    shown: int,
    more: Sequence[str] = (),
) -> Iterator[Document]:
    """Documents, sorted by id: `counts[variety]` of each variety for each skill that it makes sense for.

    A brief asks for `examples` examples about TOPICS of the topics, and shows `shown` of those there are. The
    positive ones of a skill come once more for each time that it is in `more`.
    """
    common = about(skills)
    for skill in skills.skills:
        for variety in sorted(VARIETIES):
            if not suits(skill, variety):
                continue
            times = 1 + (more.count(skill.name) if variety == "positive" else 0)
            for number in range(counts[variety] * times):
                name = f"{skill.name}/{variety}/{number:04}"
                text = f"Write {examples} {WORDS[variety].format(name=f'`{skill.name}`')}."
                metadata = {
                    "skill": skill.name,
                    "variety": variety,
                    "count": examples,
                    "topics": drawn(topics, TOPICS, name),
                    "signature": signature(skill),
                    "description": skill.description,
                    "shown": [example.model_dump() for example in shown_to(skill, shown, name)],
                    **common,
                }
                yield {"id": name, "title": skill.name, "text": text, "metadata": metadata, "split": "train"}


def about(skills: Skills) -> dict[str, Any]:
    """What prompts may say of all skills, with some examples of each."""
    return {
        "signatures": [signature(skill) for skill in skills.skills],
        "descriptions": [skill.description for skill in skills.skills],
        "fallback": skills.fallback,
        "examples": [
            example.model_dump()
            for skill in skills.skills
            for example in (skill.prompt_examples or skill.examples)[:EXAMPLES]
        ],
    }


def request_document(user: str, skills: Skills, name: str = "") -> Document:
    """The document of a request that is in no corpus: prompts may use the same fields as for one that is."""
    return {"id": name, "title": "", "text": user, "metadata": about(skills), "split": ""}


def suits(skill: Skill, variety: str) -> bool:
    """Can a brief of this variety be written for the skill? `multi` needs two parameters."""
    if skill.fallback:
        return variety == "other"
    if variety == "multi":
        return len(skill.parameters) > 1
    return variety in ("positive", "near_miss")


def shown_to(skill: Skill, count: int, name: str) -> list[Example]:
    """`count` examples for the brief of that name: half those meant to be shown, the others any."""
    meant = drawn(skill.prompt_examples, (count + 1) // 2, name)
    return [*meant, *drawn(skill.examples, count - len(meant), name)]


def drawn(items: Sequence[Item], count: int, name: str) -> list[Item]:
    """`count` of the items, those of lowest hash of their place and the name."""
    places = sorted(range(len(items)), key=lambda place: stable_integer("drawn", name, place))
    return [items[place] for place in places[:count]]
