"""What stages that ask a server share: how address and key are named and read, and how much is read of it."""

import io
import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.stage import HIDDEN

PLAIN_URL = re.compile(r"https?://[^/@?#\s\x00-\x1f\x7f]+(/[^?#\s\x00-\x1f\x7f]*)?")
MOST_BYTES = 32 << 20  # of an answer, as it is after decompression
ENV = Path(".env")
ACCOUNT = {"organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}


def address(url: str) -> str:
    """The URL of a server, for pydantic. Raises an error that does not show it: it may hold a password."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        fits = host and parts.port != 0 and PLAIN_URL.fullmatch(url)
    except ValueError:  # brackets that do not close, a port that is no number, a part of the name without end
        fits = None
    if not fits:
        raise PydanticCustomError(HIDDEN, "expected http(s)://host/v1, without user, password or query")
    return url


def variable(name: str) -> str:
    """The name of an environment variable, for pydantic; '' is none. Raises an error that hides it."""
    if not re.fullmatch(r"([A-Z_][A-Z0-9_]*)?", name):
        message = "expected the NAME of an environment variable, in capitals, never a key itself"
        raise PydanticCustomError(HIDDEN, message)
    return name


Address = Annotated[str, AfterValidator(lambda url: url and address(url))]  # '' is none
Variable = Annotated[str, AfterValidator(variable)]


def api_key(name: str, url: str) -> str:
    """The key for the server at `url`, in the variable `name`. Raises UserError where there is none."""
    if not (key := setting(name)):
        raise UserError(
            f"no key for {url}: set {name} in the environment or in {ENV} (git-ignored), "
            "or set api_key_env to '' for a server that needs none"
        )
    return key


def account() -> dict[str, str]:
    """`organization` and `project` of OpenAI's API, as far as they are set. Raises UserError."""
    return {field: value for field, name in ACCOUNT.items() if (value := setting(name))}


def setting(name: str) -> str:
    """The value of an environment variable, else of its line in .env; '' where neither has one.

    Raises UserError where it cannot stand in a header of HTTP: a line break, a smart quote.
    """
    value, place = os.environ.get(name, "").strip(), name
    if not value and ENV.is_file():
        value, place = (_lines_of_env().get(name) or "").strip(), f"{ENV}, {name}"
    if not re.fullmatch(r"[ -~]*", value):
        raise UserError(
            f"{place}: holds a line break, a smart quote or the like, which no key has; copy it again"
        )
    return value


def _lines_of_env() -> dict[str, str | None]:
    from dotenv import dotenv_values

    text = read_text(ENV)
    if "\0" in text:
        raise UserError(f"{ENV}: not UTF-8; save the file as UTF-8")  # UTF-16, without the mark for it
    return dotenv_values(stream=io.StringIO(text))
