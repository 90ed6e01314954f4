"""Prompts: Jinja templates in a sandbox, or texts with names in braces; errors name file and variable."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from stages.core.errors import UserError
from stages.core.files import read_text
from stages.core.numerals import numerals
from stages.core.records import Document


def clip_words(text: str, limit: int) -> str:
    """The first `limit` words of `text`, line breaks kept."""
    ends = [match.end() for match in re.finditer(r"\S+", text)][:limit]
    return text[: ends[-1]] if ends else ""


class Template:
    """A prompt file. Filters: `words(n)`, `chars(n)` cut text, `oneline` joins lines, `numerals` has digits."""

    def __init__(self, path: Path):
        self.path, self.source = Path(path), read_text(path)
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["words"] = clip_words
        environment.filters["chars"] = lambda text, limit: text[:limit]
        environment.filters["oneline"] = lambda text: " ".join(text.split())
        environment.filters["numerals"] = numerals
        try:
            self.template = environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: {error.message}") from None

    def render(self, **variables: Any) -> str:
        """Render; the result has no white space at either end. Raises UserError."""
        try:
            return self.template.render(**variables).strip()
        except SecurityError as error:
            raise UserError(f"{self.path}: not allowed in a prompt: {error}") from None
        except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            known = ", ".join(sorted(variables))
            raise UserError(
                f"{self.path}: {error}; a prompt can use: {known} (see docs/guide/prompts.md)"
            ) from None


# What a name in braces stands for: the names that the prompts published with SKIM use.
FIELDS = {
    "url": "metadata.url",
    "relevant_queries": "metadata.queries",
    "title": "title",
    "doc_title": "title",
    "content": "text",
    "doc_body": "text",
}
MAY_BE_MISSING = "relevant_queries"
IN_BRACES = re.compile(r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})")


class BracesTemplate:
    """A prompt file that is not Jinja: the FIELDS in it are filled in, every other brace is a brace.

    Raises UserError for a name in single braces that is none of the FIELDS: most likely it is misspelt.
    """

    def __init__(self, path: Path):
        self.path, self.source = Path(path), read_text(path)
        for match in IN_BRACES.finditer(self.source):
            if match[1] not in FIELDS:
                line = self.source[: match.start()].count("\n") + 1
                raise UserError(
                    f"{path}, line {line}: no field is called {match[0]}; there are "
                    f"{', '.join(f'{{{name}}}' for name in FIELDS)} (see docs/guide/prompts.md)"
                )

    def render(self, document: Mapping[str, Any]) -> str:
        """Fill in; the result has no white space at either end. Raises UserError."""

        def value(match: re.Match[str]) -> str:
            text: object = document
            for key in FIELDS[match[1]].split("."):
                text = text.get(key) if isinstance(text, Mapping) else None
            if match[1] == MAY_BE_MISSING:
                text = text or ""
            if isinstance(text, list):
                text = "\n".join(map(str, text))
            if not isinstance(text, str):
                raise UserError(f"{self.path}: document '{document['id']}' has no text for {match[0]}")
            return text

        return IN_BRACES.sub(value, self.source).strip()


def messages(text: str) -> list[dict[str, Any]]:
    """The chat messages of a rendered prompt.

    With a first line `# System` and a later line `# User` these part two messages; else all is the user's.
    """
    match = re.match(r"\A# System\n(.*?)^# User\n(.*)\Z", text, flags=re.S | re.M)
    if not match:
        return [{"role": "user", "content": text}]
    system, user = (part.strip() for part in match.groups())
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def render(template: Template | BracesTemplate, document: Document) -> str:
    """The prompt for one document. Templates see `document` with `id`, `title`, `text`, `metadata`."""
    fields: Mapping[str, Any] = document
    return template.render(document={key: fields[key] for key in ("id", "title", "text", "metadata")})
