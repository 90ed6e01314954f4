"""The server to ask: its client, and what each way of failing means."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from stages.core.pacing import retry_after_s
from stages.teacher.outcomes import sound

if TYPE_CHECKING:
    import aiohttp
    from openai import AsyncOpenAI

RETRIED = {408, 409, 425, 429}
OVERLOADED = {503, 529}
CONNECT_S = 10
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


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    `kind` is the class it is counted under. `retry`: the same request may succeed later. `refused`: it came
    too soon (429), so it uses up none of its retries. `retry_after` (seconds) is what the server asks for.
    `stop` is the message that ends the run, of a failure that every further request would meet. `sent_at` is
    of `time.monotonic`.
    """

    kind: str
    message: str
    status: int | None = None
    retry: bool = False
    refused: bool = False
    retry_after: float | None = None
    stop: str | None = None
    sent_at: float = 0.0


def open_client(endpoint: Endpoint) -> "AsyncOpenAI":
    """The openai client, for the Batch API, for use in `async with`; its own retries are off."""
    from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient, Timeout

    timeout = Timeout(endpoint.timeout + 5, connect=min(endpoint.timeout, CONNECT_S))
    transport = DefaultAioHttpClient()
    if endpoint.api_version:
        return AsyncAzureOpenAI(
            azure_endpoint=endpoint.base_url,
            api_version=endpoint.api_version,
            api_key=endpoint.api_key,
            max_retries=0,
            timeout=timeout,
            http_client=transport,
        )
    return AsyncOpenAI(
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        max_retries=0,
        timeout=timeout,
        http_client=transport,
    )


def open_session(endpoint: Endpoint) -> "aiohttp.ClientSession":
    """An aiohttp session for chat completions, for use in `async with`.

    The openai client, which the Batch API is spoken with, costs twice the processor time for a plain POST.
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
    if parts.hostname in LOOPBACK:
        return None
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def completions_url(endpoint: Endpoint, model: str) -> str:
    """Where to POST a chat completion. Azure has the model, which it calls deployment, in the path."""
    base = endpoint.base_url.rstrip("/")
    if not endpoint.api_version:
        return f"{base}/chat/completions"
    version = endpoint.api_version
    return f"{base}/openai/deployments/{quote(model, safe='')}/chat/completions?api-version={version}"


def judge_reply(
    endpoint: Endpoint,
    model: str,
    *,
    status: int,
    text: str,
    headers: Mapping[str, str],
    sent_at: float = 0.0,
) -> Failure:
    """What an HTTP status other than 200 means for its request and for the run; `text` is the body."""
    message, code = _error_in(text)
    return _judge_status(
        endpoint, model, status=status, message=message, code=code, headers=headers, sent_at=sent_at
    )


def judge(error: Exception, endpoint: Endpoint, model: str) -> Failure:
    """The same for an error of the openai client."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return judge_connection(error, endpoint)
    return _judge_status(
        endpoint,
        model,
        status=error.status_code,
        message=error.message,
        code=error.code or error.type or "",
        headers=error.response.headers,
    )


def _error_in(text: str) -> tuple[str, str]:
    """(message, code) of an error's body: as OpenAI writes it, else the text itself."""
    try:
        error = json.loads(text)["error"]
        return sound(error["message"]), sound(error.get("code") or error.get("type") or "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return text, ""


def _judge_status(
    endpoint: Endpoint,
    model: str,
    *,
    status: int,
    message: str,
    code: str,
    headers: Mapping[str, str],
    sent_at: float = 0.0,
) -> Failure:
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
        retry_after=retry_after_s(headers),
        stop=stop,
        sent_at=sent_at,
    )


def judge_connection(error: Exception, endpoint: Endpoint, sent_at: float = 0.0) -> Failure:
    """What it means that no whole answer came."""
    import aiohttp

    url, stop = endpoint.base_url, None
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    first = next((each for each in chain if isinstance(each, aiohttp.ClientError)), chain[-1])
    why = short(str(first), endpoint)
    if isinstance(first, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        stop = f"{url} cannot be reached ({why}); check base_url and that the server runs"
    elif any(isinstance(each, TimeoutError) for each in chain):
        message = f"{url}: no whole answer within {endpoint.timeout:g} s"
        return Failure("timeout", message, retry=True, sent_at=sent_at)
    kind = type(first).__name__
    return Failure(kind, stop or f"{url}: {kind} {why}", retry=True, stop=stop, sent_at=sent_at)


def not_a_completion(raw: str, endpoint: Endpoint, sent_at: float = 0.0) -> Failure:
    """The failure of an attempt whose body, `raw`, came with status 200."""
    what = f"something that is not a chat completion: {short(raw, endpoint)}"
    message = f"{endpoint.base_url} answered 200 with {what}"
    return Failure("not a completion", message, 200, retry=True, sent_at=sent_at)


def short(text: str, endpoint: Endpoint) -> str:
    """One line of a server's text, without the key should it hold it."""
    return " ".join(text.replace(endpoint.api_key, "***").split())[:200]
