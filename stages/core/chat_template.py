"""The chat template of a model: what stands around a user's message.

Templates are Jinja, in the environment that Hugging Face documents ("Chat templates" in the documentation of
transformers) and rendered as `apply_chat_template` of transformers does, without importing it.
"""

import json
import os
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.core.errors import UserError
from stages.core.files import read_object, read_text

FAILURES = (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)  # of expressions
# The tag that transformers puts around what an assistant said: a scope of its own, as `with` is.
GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
FIX = "fix it, or import the base with `chat: false`"
LIMIT_S, LIMIT_BYTES = 3, 1 << 30  # for what takes milliseconds and 30 MiB


class ChatTemplate:
    """A user's message up to the cue for the answer; `tokens` are what templates name, as `bos_token`.

    Raises UserError for a template that cannot be read.
    """

    def __init__(self, source: str, where: str, tokens: dict[str, str]):
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        # Jinja's own writes for HTML.
        environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _no_date}
        self.source, self.where, self.tokens = source, where, tokens
        try:
            self.template = environment.from_string(GENERATION.sub(r"\1\2with\3", source))
        except TemplateSyntaxError as error:
            raise UserError(f"{where}, chat template, line {error.lineno}: {error.message}; {FIX}") from None

    def render(self, message: str) -> str:
        """The whole prompt for a message. Raises UserError where the template refuses or fails."""
        try:
            return self.template.render(
                messages=[{"role": "user", "content": message}],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self.tokens,
            )
        except (*FAILURES, TemplateError) as error:
            raise UserError(f"{self.where}: the chat template fails: {error}; {FIX}") from None


def read_chat_template(directory: Path) -> ChatTemplate | None:
    """The template of a model directory, or None: chat_template.jinja, else that of tokenizer_config.json.

    Of a list of named templates it is the one called `default`, as in transformers.
    """
    file, settings = Path(directory) / "chat_template.jinja", Path(directory) / "tokenizer_config.json"
    config = read_object(settings) if settings.is_file() else {}
    contents = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
    tokens = {key: text for key, text in contents.items() if isinstance(text, str)}
    if file.is_file():
        return ChatTemplate(read_text(file), str(file), tokens)
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if not isinstance(source, str | None):
        raise UserError(f"{settings}: chat_template is no text; {FIX}")
    return ChatTemplate(source, str(settings), tokens) if source else None


def check_chat_template(directory: Path) -> None:
    """Render a message once in a process with limits of its own: a program that is a template may never end.

    Raises UserError where it does not end within LIMIT_S and LIMIT_BYTES. That it is wrong otherwise is left
    to `read_chat_template` to say.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "stages.core.chat_template", str(directory)]
    if subprocess.run(command, env=environment, capture_output=True).returncode:
        raise UserError(
            f"{directory}: the chat template takes more than {LIMIT_S} s or {LIMIT_BYTES >> 20} MiB; {FIX}"
        )


def _content(token: object) -> object:
    """A special token's text: it is written as such, or as an object with settings."""
    return token.get("content") if isinstance(token, dict) else token


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _no_date(form: str) -> None:
    _refuse("it asks for today's date (strftime_now), and what is trained must not depend on that")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    try:
        if template := read_chat_template(Path(sys.argv[1])):
            template.render("a message")
    except UserError:
        pass
