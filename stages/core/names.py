"""The one rule for names of datasets and base models.

They become folders, words of commands and parts of DVC's names of stages, so they hold nothing that a shell,
a file system or DVC reads in another way.
"""

import re

from stages.core.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
TAKEN = set(
    "ask bench check cost demo evaluate help lint long new pull push register remove review serve slurm "
    "store test ui base bases code example shipped sources teacher packages".split()
)


def check_name(name: object, where: str = "") -> str:
    """The name itself. Raises UserError, which begins with `where`, for what cannot be one."""
    if not isinstance(name, str):  # of a key in YAML
        raise UserError(f"{where}{name!r} cannot be a name: it is no text; begin it with a letter")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where}{name!r} cannot be a name: write a lowercase letter, then up to 63 lowercase letters, "
            "digits, - and _"
        )
    if name in TAKEN:
        raise UserError(f"{where}{name!r} cannot be a name: make, or a folder of the project, has it")
    return name
