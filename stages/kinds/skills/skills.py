"""Read the skills of a dataset: the functions that its student may call, with examples of what users say.

Reads skill files (text or YAML, docs/kinds/skills.md); writes `data/<dataset>/skills/`: `skills.json`,
`examples.jsonl` (each example with file and line), `grammar.lark` (every valid call and nothing else) and a
manifest. Every example is held to the schema.
"""

from collections import Counter
from pathlib import Path

from stages.core.files import atomic_directory, write_json, write_jsonl, write_text
from stages.core.messages import say
from stages.kinds.skills import places
from stages.kinds.skills.knobs import SkillsKnobs
from stages.kinds.skills.parts.files import read_source
from stages.kinds.skills.parts.grammar import lark


def run(dataset: str, knobs: SkillsKnobs) -> dict:
    source = read_source(Path(knobs.path), knobs.lenient)
    counts: dict[str, int] = {}
    with atomic_directory(places.skills(dataset), "skills", counts) as directory:
        write_json(directory / "skills.json", source.skills.model_dump(mode="json"))
        counts["examples.jsonl"] = write_jsonl(directory / "examples.jsonl", source.examples)
        write_text(directory / "grammar.lark", lark(source.skills))
    for what, count in sorted(source.problems.items()):
        say(f"skills {dataset}: {count:,} lines or examples {what}")
    return {
        "skills": len(source.skills.skills),
        "fallback": source.skills.fallback,
        "examples": len(source.examples),
        "examples_of": dict(sorted(Counter(row["skill"] for row in source.examples).items())),
        "problems": dict(sorted(source.problems.items())),
    }
