"""Prompts: Jinja templates rendered in a sandbox, with errors that name file, line and variable."""

import re
from pathlib import Path

from stages.support.errors import UserError
from stages.support.files import read_text


def clip_words(text: str, limit: int) -> str:
    """The first `limit` words of `text`, line breaks kept."""
    ends = [match.end() for match in re.finditer(r"\S+", text)][:limit]
    return text[: ends[-1]] if ends else ""


class Template:
    """A prompt file. Filters: `words(n)` and `chars(n)` cut text, `oneline` joins lines."""

    def __init__(self, path: Path):
        from jinja2 import StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.path, self.source = Path(path), read_text(path)
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["words"] = clip_words
        environment.filters["chars"] = lambda text, limit: text[:limit]
        environment.filters["oneline"] = lambda text: " ".join(text.split())
        try:
            self.template = environment.from_string(self.source)
        except TemplateSyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: {error.message}") from None

    def render(self, **variables) -> str:
        """Render; the result has no white space at either end. Raises UserError."""
        from jinja2 import TemplateError
        from jinja2.sandbox import SecurityError

        try:
            return self.template.render(**variables).strip()
        except SecurityError as error:
            raise UserError(f"{self.path}: not allowed in a prompt: {error}") from None
        except (TemplateError, TypeError) as error:
            known = ", ".join(sorted(variables))
            raise UserError(
                f"{self.path}: {error}; a prompt can use: {known} (see docs/prompts.md)"
            ) from None


def messages(text: str) -> list[dict]:
    """Chat messages of a rendered prompt: a first line `# System` and a later line `# User` part them."""
    match = re.match(r"\A# System\n(.*?)^# User\n(.*)\Z", text, flags=re.S | re.M)
    if not match:
        return [{"role": "user", "content": text}]
    system, user = (part.strip() for part in match.groups())
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
