"""Prompts: Jinja templates in a sandbox, or texts with names in braces; errors name file and variable.

A document is data: no text of it can begin a message of another role, whatever headings it holds.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from stages.core.errors import UserError
from stages.core.files import BOM, read_text
from stages.core.numerals import numerals
from stages.core.records import Document
from stages.core.text import clip_words


def read_prompt(path: Path) -> str:
    """The text of a prompt file, without what editors add: byte order marks, other ends of lines."""
    return re.sub(r"\r\n?", "\n", read_text(path).lstrip(BOM))  # two editors leave two


# Stands before each heading of a template while it is rendered, so that those of documents are told apart. It
# is half a character, which no file in UTF-8 can hold.
MARK = "\udc00"
HEADING = re.compile(r"((?:^|[%#]\}) {0,3})(?=#)", re.M)
ROLES = re.compile(
    rf"\A{MARK}#[^\S\n]*system[^\S\n]*\n(.*?)^ *{MARK}#[^\S\n]*user[^\S\n]*$(.*)\Z", re.S | re.M | re.I
)
ROLE = re.compile(rf"^ *{MARK}(#+[^\S\n]*(?:system|user)\b[^\w\n]*)$", re.M | re.I)


class Template:
    """A prompt file. Filters: `words(n)`, `chars(n)` cut text, `oneline` joins lines, `numerals`: digits."""

    def __init__(self, path: Path):
        self.path, self.source = Path(path), read_prompt(path)
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["words"] = clip_words
        environment.filters["chars"] = lambda text, limit: text[:limit]
        environment.filters["oneline"] = lambda text: " ".join(text.split())
        environment.filters["numerals"] = numerals
        try:
            self.template = environment.from_string(HEADING.sub(rf"\1{MARK}", self.source))
        except TemplateSyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: {error.message}") from None

    def render(self, document: Mapping[str, Any]) -> str:
        """The whole prompt; no white space at either end. Raises UserError."""
        return self._marked(document).replace(MARK, "")

    def messages(self, document: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The chat messages: a system and a user message, if the template has these headings, else one.

        Raises UserError where a heading of a role parts nothing.
        """
        text = self._marked(document)
        if match := ROLES.match(text):
            parts = (part.replace(MARK, "").strip() for part in match.groups())
            return [
                {"role": role, "content": part} for role, part in zip(("system", "user"), parts, strict=True)
            ]
        if heading := ROLE.search(text):
            name = heading[1].strip()
            raise UserError(
                f"{self.path}: the heading '{name}' makes no message: a prompt of two begins with the line "
                f"'# System' and has a line '# User' below; if it is a text, write {{{{ '{name}' }}}}"
            )
        return [{"role": "user", "content": text.replace(MARK, "")}]

    def _marked(self, document: Mapping[str, Any]) -> str:
        """The prompt with a MARK before each heading that is the template's own."""
        try:
            return self.template.render(document=document).strip()
        except SecurityError as error:
            raise UserError(f"{self.path}: not allowed in a prompt: {error}") from None
        except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise UserError(
                f"{self.path}: {error}; a prompt can use: document (see docs/guide/prompts.md)"
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
        self.path, self.source = Path(path), read_prompt(path)
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

    def messages(self, document: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One message: the prompt is not ours, even if it has our headings."""
        return [{"role": "user", "content": self.render(document)}]


def render(template: Template | BracesTemplate, document: Document) -> str:
    """The prompt for one document."""
    return template.render(seen(document))


def messages(template: Template | BracesTemplate, document: Document) -> list[dict[str, Any]]:
    """The chat messages about one document."""
    return template.messages(seen(document))


def seen(document: Document) -> dict[str, Any]:
    """What a template sees of a document: `id`, `title`, `text`, `metadata`."""
    fields: Mapping[str, Any] = document
    return {key: fields[key] for key in ("id", "title", "text", "metadata")}
