"""The server to ask: how it is called, and what each way of failing means."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from stages.core.pacing import retry_after_s
from stages.teacher.outcomes import sound

if TYPE_CHECKING:
    import aiohttp

RETRIED = {408, 409, 425, 429}
OVERLOADED = {503, 529}
CONNECT_S = 10
BLOCK = 1 << 20  # bytes of a file in memory
TOO_LARGE = ("request too large", "must be reduced")  # in a 429 that waiting does not help
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
    """A server and how it is to be asked; the fields are those of `knobs.CollectKnobs`."""

    base_url: str
    api_key: str = field(repr=False)
    key_name: str = "the API key"  # how messages call it; never the key
    api_version: str = ""  # of Azure OpenAI; '' = any other server
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    rpm: float = 0
    tpm: float = 0
    breaker: int = 20
    patience: float = 600.0
    batch_requests: int = 50_000
    batch_bytes: int = 190_000_000
    batch_window: str = "24h"
    poll: float = 30.0

    @property
    def source(self) -> str:
        """The address, by which the store knows the provider of a batch."""
        return self.base_url.rstrip("/")

    def url(self, path: str, model: str) -> str:
        """The address of a call. Azure has the model, which it calls deployment, in that of a completion."""
        if not self.api_version:
            return f"{self.source}/{path}"
        deployment = f"deployments/{quote(model, safe='')}/" if path == "chat/completions" else ""
        return f"{self.source}/openai/{deployment}{path}?api-version={self.api_version}"


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    `kind` is the class it is counted under. `retry`: the same request may succeed later. `refused`: it came
    too soon (429), so it uses up none of its retries. `retry_after` (seconds) is what the server asks for.
    `stop` is the message that ends the run, of a failure that every further request would meet.
    """

    kind: str
    message: str
    status: int | None = None
    retry: bool = False
    refused: bool = False
    retry_after: float | None = None
    stop: str | None = None


@dataclass
class Reply:
    """What came of one call: the status and headers of HTTP, the body as text, the failure if it is one."""

    status: int | None = None
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: Failure | None = None


def open_session(endpoint: Endpoint) -> "aiohttp.ClientSession":
    """An aiohttp session, for use in `async with`.

    The openai client costs twice the processor time for a plain POST.
    """
    import aiohttp

    key = {"Authorization": f"Bearer {endpoint.api_key}"}
    if endpoint.api_version:
        key = {"api-key": endpoint.api_key}
    account = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    named = {header: os.environ[name] for header, name in account.items() if os.environ.get(name)}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # pacing bounds what is in flight
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout, connect=min(endpoint.timeout, CONNECT_S)),
        headers={**key, **named, "User-Agent": "retort"},
        proxy=_proxy(endpoint.base_url),
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`. aiohttp would look it up for every request."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if parts.hostname in LOOPBACK or proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


async def call(
    session: "aiohttp.ClientSession",
    endpoint: Endpoint,
    model: str,
    method: str,
    path: str,
    file: BinaryIO | None = None,
    **request: Any,
) -> Reply:
    """Send one request. The body of a 200 is written to `file`, if given.

    `model` is for messages, and for the address where the server is Azure.
    """
    import aiohttp

    reply, url = Reply(), endpoint.url(path, model)
    try:
        async with session.request(method, url, allow_redirects=False, **request) as response:
            if file and response.status == 200:
                async for block in response.content.iter_chunked(BLOCK):
                    file.write(block)
            else:
                reply.text = (await response.read()).decode("utf-8", errors="backslashreplace")
        reply.status, reply.headers = response.status, response.headers
        if reply.status != 200:
            reply.failure = judge_reply(
                endpoint, model, status=reply.status, text=reply.text, headers=reply.headers
            )
    except (aiohttp.ClientError, TimeoutError) as error:
        reply.failure = judge_connection(error, endpoint)
    return reply


def judge_reply(
    endpoint: Endpoint, model: str, *, status: int, text: str, headers: Mapping[str, str] | None = None
) -> Failure:
    """What an HTTP status other than 200 means for its request and for the run; `text` is the body."""
    message, code = _error_in(text)
    url, stop = endpoint.base_url, None
    text = f"{url} answered {status}: {short(message, endpoint)}"
    if status in (401, 403):  # the server's text is not shown: it may hold a part of the key
        stop = f"{url} answered {status}: it refuses {endpoint.key_name} for model '{model}'; set a valid one"
    elif "insufficient_quota" in code or status == 402:
        stop = (
            f"{url} answered {status} (insufficient_quota): the account has no funds; nothing more was sent"
        )
    elif status == 404 or 300 <= status < 400:
        stop = f"{text}; check base_url (it usually ends in /v1) and the model name '{model}'"
    too_large = status == 429 and any(words in message.lower() for words in TOO_LARGE)
    retry = stop is None and not too_large and (status in RETRIED or status >= 500)
    return Failure(
        kind=f"{status} {code}".strip(),
        message=stop or text,
        status=status,
        retry=retry,
        refused=retry and status == 429,
        retry_after=retry_after_s(headers or {}),
        stop=stop,
    )


def _error_in(text: str) -> tuple[str, str]:
    """(message, code) of an error's body: as OpenAI writes it, else the text itself."""
    try:
        error = json.loads(text)["error"]
        return sound(error["message"]), sound(error.get("code") or error.get("type") or "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return text, ""


def judge_connection(error: Exception, endpoint: Endpoint) -> Failure:
    """What it means that no whole answer came: `error` is aiohttp's, or a TimeoutError."""
    import aiohttp

    url, kind, why = endpoint.base_url, type(error).__name__, short(str(error), endpoint)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        stop = f"{url} cannot be reached ({why}); check base_url and that the server runs"
        return Failure(kind, stop, retry=True, stop=stop)
    if isinstance(error, TimeoutError):
        return Failure("timeout", f"{url}: no whole answer within {endpoint.timeout:g} s", retry=True)
    return Failure(kind, f"{url}: {kind} {why}", retry=True)


def unexpected_body(expected: str, raw: str, endpoint: Endpoint) -> Failure:
    """The failure of an attempt whose body, `raw`, came with status 200 and is not what was `expected`."""
    what = f"something that is not {expected}: {short(raw, endpoint)}"
    return Failure(f"not {expected}", f"{endpoint.base_url} answered 200 with {what}", 200, retry=True)


def short(text: str, endpoint: Endpoint) -> str:
    """One line of a server's text, without the key should it hold it."""
    return " ".join(text.replace(endpoint.api_key, "***").split())[:200]
