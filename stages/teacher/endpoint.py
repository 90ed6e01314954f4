"""The server to ask: its client, and what each way of failing means."""

import json
import os
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from stages.core.pacing import retry_after_s
from stages.teacher.outcomes import sound

RETRIED = {408, 409, 425, 429}
OVERLOADED = {503, 529}
CONNECT_S = 10
TOO_LARGE = ("request too large", "must be reduced")  # a 429 that no waiting mends
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Endpoint:
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


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `refused`: only because it came too soon, so that it costs no retry.

    `stop` is the message of a failure that no further request would survive.
    """

    kind: str
    message: str
    status: int | None = None
    retry: bool = False
    refused: bool = False
    retry_after: float | None = None
    stop: str | None = None
    sent_at: float = 0.0
    headers: dict = field(default_factory=dict)


def open_client(end: Endpoint):
    """The openai client, for the Batch API, for use in `async with`; its own retries are off."""
    from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient, Timeout

    common = {
        "api_key": end.api_key,
        "max_retries": 0,
        "timeout": Timeout(end.timeout + 5, connect=min(end.timeout, CONNECT_S)),
        "http_client": DefaultAioHttpClient(),
    }
    if end.api_version:
        return AsyncAzureOpenAI(azure_endpoint=end.base_url, api_version=end.api_version, **common)
    return AsyncOpenAI(base_url=end.base_url, **common)


def open_session(end: Endpoint):
    """An aiohttp session for chat completions, for use in `async with`.

    The openai client, which the Batch API is spoken with, costs twice the processor time for a plain POST.
    """
    import aiohttp

    key = {"api-key": end.api_key} if end.api_version else {"Authorization": f"Bearer {end.api_key}"}
    account = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    named = {header: os.environ[name] for header, name in account.items() if os.environ.get(name)}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # pacing bounds what is in flight
        timeout=aiohttp.ClientTimeout(total=end.timeout, connect=min(end.timeout, CONNECT_S)),
        headers={**key, **named, "User-Agent": "retort"},
        proxy=_proxy(end.base_url),
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for `url`. aiohttp's own look-up is made anew each time."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if parts.hostname in LOOPBACK:
        return None
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def completions_url(end: Endpoint, model: str) -> str:
    """Where to POST a chat completion. Azure has the model, which it calls deployment, in the path."""
    base = end.base_url.rstrip("/")
    if not end.api_version:
        return f"{base}/chat/completions"
    return f"{base}/openai/deployments/{quote(model, safe='')}/chat/completions?api-version={end.api_version}"


def judge_reply(status: int, text: str, headers, end: Endpoint, model: str, sent_at: float = 0.0) -> Failure:
    """What an HTTP status other than 200 means for its request and for the run; `text` is the body."""
    message, code = _error_in(text)
    return _judge_status(status, message, code, headers, end, model, sent_at)


def judge(error: Exception, end: Endpoint, model: str, sent_at: float = 0.0) -> Failure:
    """The same for an error of aiohttp or of the openai client."""
    from openai import APIStatusError

    if isinstance(error, APIStatusError):
        code = error.code or error.type or ""
        headers = error.response.headers
        return _judge_status(error.status_code, error.message, code, headers, end, model, sent_at)
    return judge_connection(error, end, sent_at)


def _error_in(text: str) -> tuple[str, str]:
    """(message, code) of an error's body: as OpenAI writes it, else the text itself."""
    try:
        error = json.loads(text)["error"]
        return sound(error["message"]), sound(error.get("code") or error.get("type") or "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return text, ""


def _judge_status(
    status: int, message: str, code: str, headers, end: Endpoint, model: str, sent_at: float
) -> Failure:
    url, stop, text = end.base_url, None, f"{end.base_url} answered {status}: {short(message, end)}"
    if status in (401, 403):  # the server's text is not shown: it may hold a part of the key
        stop = f"{url} answered {status}: it refuses {end.key_name} for model '{model}'; set a valid one"
    elif "insufficient_quota" in code or status == 402:
        stop = (
            f"{url} answered {status} (insufficient_quota): the account has no funds; nothing more was sent"
        )
    elif status == 404 or 300 <= status < 400:
        stop = f"{text}; check base_url (it usually ends in /v1) and the model name '{model}'"
    too_large = status == 429 and any(told in message.lower() for told in TOO_LARGE)
    retry = stop is None and not too_large and (status in RETRIED or status >= 500)
    return Failure(
        f"{status} {code}".strip(),
        stop or text,
        status,
        retry,
        retry and status == 429,
        retry_after_s(headers),
        stop,
        sent_at,
        headers,
    )


def judge_connection(error: Exception, end: Endpoint, sent_at: float = 0.0) -> Failure:
    """What it means that no whole answer came."""
    import aiohttp

    url, stop, chain = end.base_url, None, [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    cause = next((c for c in chain if isinstance(c, aiohttp.ClientError)), chain[-1])
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        why = short(str(cause), end)
        stop = f"{url} cannot be reached ({why}); check base_url and that the server runs"
    elif any(isinstance(c, TimeoutError) for c in chain):
        told = f"{url}: no whole answer within {end.timeout:g} s"
        return Failure("timeout", told, retry=True, sent_at=sent_at)
    kind = type(cause).__name__
    told = stop or f"{url}: {kind} {short(str(cause), end)}"
    return Failure(kind, told, retry=True, stop=stop, sent_at=sent_at)


def not_a_completion(raw: str, end: Endpoint, sent_at: float) -> Failure:
    told = f"{end.base_url} answered 200 with something that is not a chat completion: {short(raw, end)}"
    return Failure("not a completion", told, 200, retry=True, sent_at=sent_at)


def short(text: str, end: Endpoint) -> str:
    """One line of a server's text, without the key should it hold it."""
    return " ".join(text.replace(end.api_key, "***").split())[:200]
