"""Reading and writing skill files, text (`skill_text`) or YAML; every example is held to the schema.

A YAML file holds one skill with the fields of `skill_schema.Skill`. A folder is all its *.txt, *.yaml and
*.yml files. Strict reading fails at the first file with a problem and tells its problems; lenient reading
leaves out what cannot be read, mends what can be mended, and counts both.
"""

import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.stage import explain
from stages.kinds.skills.parts import text_form as skill_text
from stages.kinds.skills.parts.schema import Example, Skill, Skills, together
from stages.kinds.skills.parts.text_form import Parsed, Problem, Said

TEXT, YAML = (".txt",), (".yaml", ".yml")
SHOWN = 5  # problems of a file in an error
BOM = "\ufeff"  # that editors on Windows put before a text


class Source(NamedTuple):
    """What was read: the skills; their examples, each with its `source` (file:line); what was wrong."""

    skills: Skills
    examples: list[dict]
    problems: Counter


def read_source(path: Path, lenient: bool = False) -> Source:
    """Read a skill file or a folder of them. Raises UserError."""
    files = skill_files(Path(path))
    parsed = {file: parsed_file(file) for file in files}
    defined = [own.skill for own in parsed.values() if own.skill]
    names = Counter(skill.name for skill in defined)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise UserError(f"{path}: two files define the skill '{twice}'; delete or rename one")
    if not defined:
        _complain(files[0], parsed[files[0]].problems or [Problem(1, "no skill")])
    schema = together(defined)
    skills, examples, problems = [], [], Counter()
    for file, own in parsed.items():
        good, wrong = _held_to(schema, own.said)
        wrong = [*own.problems, *wrong]
        if wrong and not lenient:
            _complain(file, wrong)
        problems.update("mended" if problem.mended else "left out" for problem in wrong)
        examples += [_row(own.skill, file, said) for said in good]
        if own.skill:
            skills.append(_with_examples(own.skill, good))
    return Source(together(skills), examples, problems)


def skill_files(path: Path) -> list[Path]:
    """The skill files of a folder in the order of their names, or the one file. Raises UserError."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder of skill files")
    files = sorted(file for file in path.iterdir() if file.suffix in TEXT + YAML)
    if not files:
        raise UserError(f"{path}: no skill files (*.txt, *.yaml) in this folder")
    return files


def parsed_file(file: Path) -> Parsed:
    """One file, its examples not yet held to a schema. Raises UserError for a suffix that is none of ours."""
    if file.suffix in TEXT:
        return skill_text.parse(read_text(file).removeprefix(BOM))
    if file.suffix in YAML:
        return _parsed_yaml(file)
    raise UserError(f"{file}: expected a skill file that ends in .txt, .yaml or .yml")


def _parsed_yaml(file: Path) -> Parsed:
    from ruamel.yaml import YAML as Reader
    from ruamel.yaml.error import MarkedYAMLError

    try:
        value = Reader(typ="rt").load(read_text(file).removeprefix(BOM))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}, line {line}: not valid YAML ({error.problem})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected one skill: name, description, parameters, examples")
    try:
        skill = Skill.model_validate(_plain(value))
    except ValidationError as error:
        where = f"{file}, line {_line(value, error.errors()[0]['loc'])}"
        raise UserError(explain(error, where)) from None
    said = [
        Said(value[section].lc.item(place)[0] + 1, section, example.user, example.call)
        for section in ("prompt_examples", "examples")
        for place, example in enumerate(getattr(skill, section))
    ]
    return Parsed(skill.model_copy(update={"prompt_examples": (), "examples": ()}), said, [])


def _line(value, place: tuple[str | int, ...]) -> int:
    """The line of the field in a YAML document, or of the last part of its place that is there."""
    line = value.lc.line
    for part in place:
        lines = getattr(value, "lc", None) and value.lc.data
        if not lines or part not in lines:
            break
        line, value = lines[part][0], value[part]
    return line + 1


def _plain(value):
    """ruamel's numbers, texts and maps, which remember how they were written, as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_plain(own) for own in value]
    kinds = (bool, int, float, str)
    return next((kind(value) for kind in kinds if isinstance(value, kind)), value)


def _held_to(schema: Skills, said: list[Said]) -> tuple[list[Said], list[Problem]]:
    good, wrong = [], []
    for one in said:
        try:
            schema.checked(one.call, one.user)
            good.append(one)
        except ValueError as error:
            wrong.append(Problem(one.line, f"{one.call}: {error}"))
    return good, wrong


def _row(skill: Skill | None, file: Path, said: Said) -> dict:
    shown = said.section == "prompt_examples"
    return {
        "user": said.user,
        "call": said.call,
        "skill": skill.name if skill else None,
        "shown": shown,
        "source": f"{file.name}:{said.line}",
    }


def _with_examples(skill: Skill, said: list[Said]) -> Skill:
    own = {
        section: tuple(Example(user=one.user, call=one.call) for one in said if one.section == section)
        for section in ("prompt_examples", "examples")
    }
    return skill.model_copy(update=own)


def _complain(file: Path, problems: list[Problem]) -> None:
    problems = sorted(problems)
    told = [f"{file}, line {problem.line}: {problem.what}" for problem in problems[:SHOWN]]
    more = f"\n({len(problems) - SHOWN} more in this file)" if len(problems) > SHOWN else ""
    raise UserError("\n".join(told) + more + "\nmend the file, or read it leniently (--lenient)")


def read_skills(directory: Path) -> Skills:
    """The skills in `data/<dataset>/skills/`. Raises UserError."""
    path = Path(directory) / "skills.json"
    try:
        return Skills.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UserError(explain(error, f"{path} (run the skills stage again)")) from None


def written(skill: Skill, suffix: str) -> str:
    """A skill as the text of a file with this suffix.

    Raises UserError for an unknown suffix, and for a skill that the text form cannot say.
    """
    if suffix in TEXT:
        return _as_text(skill_text.one_line(skill))
    if suffix not in YAML:
        raise UserError(f"'{suffix}' is no suffix of a skill file; there are {', '.join(TEXT + YAML)}")
    from ruamel.yaml import YAML as Writer

    writer, stream = Writer(), io.StringIO()
    writer.default_flow_style, writer.width = False, 1 << 16
    writer.dump(skill.model_dump(mode="json", exclude_defaults=True), stream)
    return stream.getvalue()


def _as_text(skill: Skill) -> str:
    text = skill_text.write(skill)
    read, said, problems = skill_text.parse(text)
    if problems or _with_examples(read, said) != skill:
        raise UserError(
            f"the skill '{skill.name}' cannot be said in the text form, which has no way to write some of "
            "its texts (docs/kinds/skills.md): keep YAML"
        )
    return text
