"""A project in the working directory with one dataset of skills and a tiny student of random weights."""

import json
from pathlib import Path

from stages.kinds.skills.parts import grammar as skill_grammar
from stages.kinds.skills.parts.schema import Parameter, Skill, together
from stages.kinds.skills.parts.text_form import signature
from tests.helpers.tiny import tiny_model

SKILLS = together(
    [
        Skill(name="weather", description="Tells the weather.", parameters={"location": Parameter()}),
        Skill(
            name="lamp",
            description="Switches a lamp.",
            parameters={"state": Parameter(type="enum", values=("on", "off"))},
        ),
        Skill(name="other", description="Anything else.", fallback=True),
    ]
)
PROMPT = "Request: {{ document.text }}\nCall:"


def make_project(dataset: str, kind: str = "pythia", prompt: str = PROMPT, skills: bool = True) -> None:
    tiny_model(Path("models") / dataset / "hf", kind)
    prompts, files = Path("prompts") / dataset, Path("data") / dataset / "skills"
    prompts.mkdir(parents=True, exist_ok=True)
    (prompts / "student.md").write_text(prompt + "\n")
    if skills:
        files.mkdir(parents=True, exist_ok=True)
        (files / "skills.json").write_text(json.dumps(SKILLS.model_dump()))
        (files / "grammar.lark").write_text(skill_grammar.lark(SKILLS))


def written(skill: Skill, suffix: str) -> str:
    """A skill as the text of a skill file: YAML, or the text form, as far as that can say it."""
    if suffix == ".yaml":
        return json.dumps(skill.model_dump(mode="json", exclude_defaults=True))
    marked = any(parameter.verbatim or not parameter.required for parameter in skill.parameters.values())
    first = signature(skill)
    if not marked:  # else it would be read as an older file
        first = first.replace('"[', '"[text: ')
    lines = ["#### Prompt:", f"{first} {skill.description}"]
    if skill.fallback and skill.name != "other":
        lines += ["", "#### Fallback:"]
    for section in ("prompt_examples", "examples"):
        lines += ["", f"#### {section.replace('_', ' ').title()}:"]
        for example in getattr(skill, section):
            lines += ["", f"### User: {example.user}", f"### Assistant: {example.call}"]
    return "\n".join(lines) + "\n"
