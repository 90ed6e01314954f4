"""YAML that people write: what is wrong with it becomes one line, and aliases cannot make much of little."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.core.errors import UserError
from stages.core.files import read_text

MOST = 1_000_000  # characters that the aliases of a file may add to it
DEEPEST = 100  # levels


def read_yaml(path: Path, typ: str = "safe") -> Any:
    """What a YAML file holds ({} where that is nothing), by the loader `typ` of ruamel.yaml.

    Raises UserError with the line of a mistake, and where aliases of aliases would make more than MOST
    characters of a short file ("billion laughs"): its events tell that before anything is made of them.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    text, where = read_text(path), f"{path}"
    try:
        if _written_out(YAML(typ="safe").parse(text)) <= MOST + len(text):
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


def _written_out(events: Iterable[Any]) -> float:
    """The characters that a text stands for; without end for an alias within what it names.

    Raises RecursionError at the first level beyond DEEPEST: the loader in C would overflow its stack.
    """
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

    sizes: dict[str | None, float] = {}  # of what an alias can name
    open_parts: list[tuple[str | None, float]] = [(None, 0)]  # (its anchor, its size up to here)
    for event in events:
        anchor, size = getattr(event, "anchor", None), 1.0
        if isinstance(event, CollectionStartEvent):
            sizes[anchor] = math.inf
            open_parts.append((anchor, 0))
            if len(open_parts) > DEEPEST:
                raise RecursionError
            continue
        if isinstance(event, AliasEvent):
            size = sizes.get(anchor, 1)
        elif isinstance(event, CollectionEndEvent):
            anchor, size = open_parts.pop()
        elif isinstance(event, ScalarEvent):
            size = len(event.value) + 1
        if anchor and not isinstance(event, AliasEvent):
            sizes[anchor] = size
        outer, before = open_parts[-1]
        open_parts[-1] = outer, before + size
    return open_parts[0][1]
