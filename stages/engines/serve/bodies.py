"""What may be asked of the server: OpenAI's request bodies, checked, and what they say about sampling.

A field that would change the answer is honoured or refused, never passed over. The IGNORED ones change none,
and neither does one whose value says nothing: null, false, 0 or empty, or as in NOTHING.
"""

import secrets
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.engines.protocol import Decoding

COLDEST = 1e-6  # least temperature that is not 0: logits divided by less are no finite numbers
NARROWEST = 1e-6  # least top_p: less may be 0 in the engine's floats, and one token is left long before
WIDEST = 2**31 - 1  # top_k, more than any vocabulary: engines have no larger integers
MOST_STOPS = 64
SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "repetition_penalty")
SPEAKERS, UNHEARD = ("user", "assistant"), ("system", "developer")  # roles in a chat; the latter are ignored
IGNORED = {
    *("user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("parallel_tool_calls", "reasoning_effort", "verbosity"),
}
NOTHING = {
    "best_of": 1,
    "response_format": {"type": "text"},
    "modalities": ["text"],
}


class Refused(Exception):
    """A request that is not served; `param` is the field of the body that is to blame."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400
    ):
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def too_long(context: int, prompt: str) -> Refused:
    message = f"this model's context is {context} tokens; the prompt has {prompt}"
    return Refused(message, code="context_length_exceeded")


class Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Message(Lenient):
    role: str
    content: str | list[dict] | None = None

    def text(self) -> str:
        """Raises Refused for content that is no text, or blank."""
        parts = self.content if isinstance(self.content, list) else [{"type": "text", "text": self.content}]
        if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
            raise Refused(f"the content of each {self.role} message must be text", "messages")
        text = "\n".join(part["text"] for part in parts)
        if not text.strip():
            raise Refused(f"a {self.role} message is blank", "messages")
        return text


class Function(Lenient):
    name: str


class Tool(Lenient):
    type: Literal["function"]
    function: Function


class StreamOptions(Lenient):
    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of request have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=NARROWEST, le=1)
    top_k: int | None = Field(None, ge=0, le=WIDEST)
    frequency_penalty: float | None = Field(None, ge=0, le=2)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    n: Literal[1] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    grammar: bool | str | None = None

    def sampling(self, start: Decoding, prompt_tokens: int, context: int) -> Decoding:
        """`start` with what the body says. Raises Refused for an empty prompt, or no room for the answer."""
        if not prompt_tokens:
            raise Refused("the prompt is empty: it has no tokens")
        limit = self.max_completion_tokens or self.max_tokens
        room = context - prompt_tokens
        if room < (limit or 1):
            answer = f" and an answer of up to {limit}" if limit else ", which leaves no room for an answer"
            raise too_long(context, f"{prompt_tokens}{answer}")
        said = {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
        if said.get("temperature", COLDEST) < COLDEST:
            said["temperature"] = 0.0
        return start.model_copy(update={**said, "max_new_tokens": limit or min(start.max_new_tokens, room)})

    def counted(self, usage: dict) -> dict | None:
        """The usage, where a stream is to tell it."""
        return usage if self.stream_options and self.stream_options.include_usage else None

    def drawn_seed(self) -> int:
        """63 bits: the body's seed, or any."""
        return secrets.randbits(63) if self.seed is None else self.seed % 2**63

    def stopped(self, text: str) -> tuple[str, bool]:
        """(the text before the first of the body's stop sequences, whether there was one)."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        ends = [text.index(stop) for stop in stops if stop and stop in text]
        return (text[: min(ends)], True) if ends else (text, False)


class ChatBody(Body):
    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | dict | None = None
    title: str | None = None
    metadata: dict | None = None

    def request(self) -> str:
        """The text of the last user message: a student answers one request, and sees nothing else."""
        said = [message for message in self.messages if message.role == "user"]
        if not said:
            raise Refused("there is no message of the role 'user'", "messages")
        return said[-1].text()

    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of the messages up to the last user's, all of SPEAKERS. Raises Refused for others."""
        last = max((place for place, said in enumerate(self.messages) if said.role == "user"), default=-1)
        told = [said for said in self.messages[: last + 1] if said.role not in UNHEARD]
        if other := next((said.role for said in told if said.role not in SPEAKERS), None):
            raise Refused(f"expected messages of {' and '.join(SPEAKERS)}, found {other!r}", "messages")
        return [(said.role, said.text()) for said in told]

    def callable_tools(self) -> set[str] | None:
        """Names of the functions to call; of an empty set, any. None: the answer is to be text."""
        if self.tool_choice not in (None, "none", "auto", "required"):
            raise Refused("only none, auto and required can be chosen: the student decides", "tool_choice")
        if self.tool_choice == "none" or not (self.tools or self.tool_choice):
            return None
        return {tool.function.name for tool in self.tools or []}


class CompletionBody(Body):
    prompt: str
    logprobs: int | None = None  # accepted, and answered with null: clients of this project send it


AnyBody = TypeVar("AnyBody", bound=BaseModel)


def read_body(kind: type[AnyBody], raw: object) -> AnyBody:
    """The checked body. Raises Refused, which names the first field that cannot be."""
    if not isinstance(raw, dict):
        raise Refused("the body must be a JSON object")
    fields = {
        name: value for name, value in raw.items() if name in kind.model_fields or _matters(name, value)
    }
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise Refused(
                f"'{param}' would change the answer, and is not served here", param, "unsupported_parameter"
            ) from None
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"{where}: {first['msg']}", param) from None


def _matters(name: str, value: object) -> bool:
    """Whether a field that no model has would change the answer."""
    return name not in IGNORED and bool(value) and NOTHING.get(name) != value
