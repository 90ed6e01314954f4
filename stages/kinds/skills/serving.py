"""How students of skills are served: what their prompts may say of the skills, their grammar, their calls."""

from stages.engines.serve.student import Reading, Served
from stages.kinds.skills import places
from stages.kinds.skills.parts.briefs import about
from stages.kinds.skills.parts.calls import write_call
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.task import called


def served(dataset: str) -> Served | None:
    """How the student of this dataset is served; None for a dataset without skills.

    Raises UserError where its skills.json cannot be read.
    """
    directory = places.skills(dataset)
    if not (directory / "skills.json").is_file():
        return None
    skills = read_skills(directory)
    return Served(
        metadata=about(skills),
        grammar=directory / "grammar.lark",
        read=lambda text, request: reading(text, request, skills),
        evaluated_by="evaluate_calls",
    )


def reading(text: str, request: str, skills: Skills) -> Reading:
    """A student's text as a call. A text that is no call stays as it is.

    A call of the fallback is text, too: a client that offered tools has nothing to call for it.
    """
    call = called(text)
    if call is None:
        return Reading(text, None)
    return Reading(write_call(call), None if call.name == skills.fallback else call)
