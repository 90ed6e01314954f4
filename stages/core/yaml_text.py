"""YAML that people write: what is wrong with it becomes one line, and aliases cannot make much of little."""

import math
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import read_text

MOST = 1_000_000  # characters that the aliases of a file may add to it


def read_yaml(path: Path, typ: str = "safe") -> Any:
    """What a YAML file holds ({} where that is nothing), by the loader `typ` of ruamel.yaml.

    Raises UserError with the line of a mistake, and where aliases of aliases would make more than MOST
    characters of a short file ("billion laughs"): its nodes tell that before anything is made of them.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    text, where = read_text(path), f"{path}"
    try:
        if _written_out(YAML(typ="safe").compose(text), {}) <= MOST + len(text):
            return YAML(typ=typ).load(text) or {}
        why = f"its aliases (*name) stand for more than {MOST:,} characters; write out what you mean"
    except MarkedYAMLError as error:
        where += f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "; put a value with a colon in quotes" if "':'" in str(error.problem) else ""
        why = f"{error.problem}{hint}"
    except ReaderError as error:
        where += f", line {text[: text.find(chr(error.character))].count(chr(10)) + 1}"
        why = f"the character {chr(error.character)!r}; remove it"
    except RecursionError:
        why = "nested too deeply"
    except (ValueError, LookupError, TypeError) as error:  # such as of a date that does not exist
        why = f"{error}; put such a value in quotes"
    raise UserError(f"{where}: not valid YAML ({why})")


def _written_out(node: Any, known: dict[int, float]) -> float:
    """The characters that a node of YAML's graph stands for; without end for one that holds itself."""
    if not isinstance(value := getattr(node, "value", ""), list):
        return len(value) + 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = (part for item in value for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]
