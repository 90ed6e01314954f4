"""Reading skill files, text (`text_form`) or YAML; every example is held to the schema.

A YAML file holds one skill with the fields of `schema.Skill`. A folder is all its *.txt, *.yaml and *.yml
files. Strict reading fails at the first file with a problem and tells its problems; lenient reading leaves
out what cannot be read, fixes what can be fixed, and counts both.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.stage import explain
from stages.core.yaml_text import read_yaml
from stages.kinds.skills.parts import text_form
from stages.kinds.skills.parts.rows import SourceExample
from stages.kinds.skills.parts.schema import Example, Skill, Skills, together
from stages.kinds.skills.parts.text_form import EXAMPLES, Parsed, PlacedExample, Problem

TEXT_SUFFIXES, YAML_SUFFIXES = (".txt",), (".yaml", ".yml")
SHOWN = 5  # problems of a file in an error


class Source(NamedTuple):
    """What was read: skills, examples, and how many lines or examples were `mended` or `left out`."""

    skills: Skills
    examples: list[SourceExample]
    problems: Counter[str]


def read_source(path: Path, lenient: bool = False) -> Source:
    """Read a skill file or a folder of them.

    Raises UserError where there is no skill, two files define one, and, unless `lenient`, for the first file
    in which something is wrong.
    """
    files = skill_files(Path(path))
    parsed_files = {file: parsed_file(file) for file in files}
    defined = [parsed.skill for parsed in parsed_files.values() if parsed.skill]
    repeated = [name for name, count in Counter(skill.name for skill in defined).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: two files define the skill '{repeated[0]}'; delete or rename one")
    if not defined:
        raise _not_readable(files[0], parsed_files[files[0]].problems or [Problem(1, "no skill")])
    schema = together(defined)
    skills: list[Skill] = []
    examples: list[SourceExample] = []
    counts: Counter[str] = Counter()
    for file, parsed in parsed_files.items():
        name = parsed.skill.name if parsed.skill else None
        valid, problems = [], list(parsed.problems)
        for example in parsed.examples:
            try:
                schema.checked(example.call, example.user)
            except ValueError as error:
                problems.append(Problem(example.line, f"{example.call}: {error}"))
                continue
            valid.append(example)
            row = {"user": example.user, "call": example.call, "skill": name}
            row |= {"shown": example.section == "prompt_examples", "source": f"{file.name}:{example.line}"}
            examples.append(row)
        if problems and not lenient:
            raise _not_readable(file, problems)
        counts.update("mended" if problem.fixed else "left out" for problem in problems)
        if parsed.skill:
            skills.append(_with_examples(parsed.skill, valid))
    return Source(together(skills), examples, counts)


def skill_files(path: Path) -> list[Path]:
    """The skill files of a folder in the order of their names, or the one file. Raises UserError."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder of skill files")
    files = sorted(file for file in path.iterdir() if file.suffix in TEXT_SUFFIXES + YAML_SUFFIXES)
    if not files:
        raise UserError(f"{path}: no skill files (*.txt, *.yaml) in this folder")
    return files


def parsed_file(file: Path) -> Parsed:
    """One file, its examples not yet held to a schema. Raises UserError for a suffix that is none of ours."""
    if file.suffix in TEXT_SUFFIXES:
        return text_form.parse(read_text(file))
    if file.suffix in YAML_SUFFIXES:
        return _parsed_yaml(file)
    raise UserError(f"{file}: expected a skill file that ends in .txt, .yaml or .yml")


def _parsed_yaml(file: Path) -> Parsed:
    """Raises UserError with file and line for broken YAML and for what is no skill."""
    value, placed = read_yaml(file), read_yaml(file, "rt")  # the second one knows its lines
    if not value or not isinstance(value, dict):
        raise UserError(f"{file}: expected one skill: name, description, parameters, examples")
    try:
        skill = Skill.model_validate(value)
    except ValidationError as error:
        where = f"{file}, line {_line(placed, error.errors()[0]['loc'])}"
        raise UserError(explain(error, where)) from None
    examples = [
        PlacedExample(placed[section].lc.item(place)[0] + 1, section, example.user, example.call)
        for section in EXAMPLES
        for place, example in enumerate(getattr(skill, section))
    ]
    return Parsed(_with_examples(skill, ()), examples, [])


def _line(value: object, place: tuple[str | int, ...]) -> int:
    """The line of the field in a YAML document, or of the last part of its place that is there."""
    line = value.lc.line
    for part in place:
        lines = getattr(value, "lc", None) and value.lc.data
        if not lines or part not in lines:
            break
        line, value = lines[part][0], value[part]
    return line + 1


def _with_examples(skill: Skill, examples: Iterable[PlacedExample]) -> Skill:
    """The skill with these examples in place of its own."""
    sections: dict[str, list[Example]] = {section: [] for section in EXAMPLES}
    for example in examples:
        sections[example.section].append(Example(user=example.user, call=example.call))
    return skill.model_copy(update={section: tuple(rows) for section, rows in sections.items()})


def _not_readable(file: Path, problems: list[Problem]) -> UserError:
    """The first problems of a file, in the order of its lines."""
    first = [f"{file}, line {problem.line}: {problem.what}" for problem in sorted(problems)[:SHOWN]]
    more = f"\n({len(problems) - SHOWN} more in this file)" if len(problems) > SHOWN else ""
    return UserError("\n".join(first) + more + "\ncorrect the file, or read it leniently (--lenient)")


def read_skills(directory: Path) -> Skills:
    """The skills in `data/<dataset>/skills/`. Raises UserError."""
    path = Path(directory) / "skills.json"
    try:
        return Skills.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UserError(explain(error, f"{path} (run the skills stage again)")) from None
