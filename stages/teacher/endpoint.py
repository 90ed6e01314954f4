"""The server to ask: how it is called, and what each way of failing means."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from stages.core.pacing import retry_after_s
from stages.core.servers import MOST_BYTES, account
from stages.teacher.knobs import CollectKnobs
from stages.teacher.outcomes import sound
from stages.teacher.store.costs import NEVER_SENT

if TYPE_CHECKING:
    import aiohttp

RETRIED = {408, 409, 425, 429}
OVERLOADED = {503, 529}
CONNECT_S = 10
BLOCK = 1 << 20  # bytes of a file in memory
COMPLETIONS = "chat/completions"
# By what an error's code or message says; some servers send it with 400 or 429.
WORDS_OF = {
    402: r"insufficient_\w*(quota|balance|fund|credit)|billing_(hard_limit|not_active)|credit balance is",
    401: r"api.?key (is )?(not valid|invalid|expired)|(invalid|incorrect|expired).api.?key",
}
TOO_LARGE = ("request too large", "must be reduced")  # in a 429 that waiting does not help
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# The status that an error stands for, by what its code or type contains, letters only; the first that fits.
STATUS_OF = {
    **dict.fromkeys(("ratelimit", "toomanyrequests", "throttl", "resourceexhausted", "quota"), 429),
    **dict.fromkeys(("overload", "unavailable", "capacity"), 503),
    **dict.fromkeys(("timeout", "timedout"), 504),
    **dict.fromkeys(("servererror", "internal", "apierror"), 500),
    **dict.fromkeys(("authentication", "unauthorized", "apikey"), 401),
    **dict.fromkeys(("permission", "forbidden"), 403),
    **dict.fromkeys(("notfound", "notexist"), 404),
    **dict.fromkeys(("invalidrequest", "badrequest", "invalidargument"), 400),
}


@dataclass(frozen=True)
class Endpoint:
    """A server and how it is to be asked. `base_url` is its address, also where the knobs say `embedded`."""

    base_url: str
    api_key: str = field(repr=False)
    knobs: CollectKnobs
    key_name: str = "the API key"  # how messages call it; never the key

    @property
    def source(self) -> str:
        """The address, by which the store knows the provider of a batch."""
        return self.base_url.rstrip("/")


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

    The openai client costs twice the processor time for a plain POST. Raises UserError for an account in the
    environment that no header can hold.
    """
    import aiohttp

    key = {"Authorization": f"Bearer {endpoint.api_key}"}
    named = {f"OpenAI-{name.title()}": value for name, value in account().items()}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # pacing bounds what is in flight
        timeout=aiohttp.ClientTimeout(
            total=endpoint.knobs.timeout, connect=min(endpoint.knobs.timeout, CONNECT_S)
        ),
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
    """Send one request. The body of a 200 is written to `file`, if given; else at most MOST_BYTES are read.

    `model` is for messages. Where a completion is an error in spite of its status, the reply has the status
    that the error tells: some gateways say 429 so.
    """
    import aiohttp

    reply, body, url = Reply(), bytearray(), f"{endpoint.source}/{path}"
    try:
        async with session.request(method, url, allow_redirects=False, **request) as response:
            if file and response.status == 200:
                async for block in response.content.iter_chunked(BLOCK):
                    file.write(block)
            else:
                async for block in response.content.iter_chunked(BLOCK):
                    body += block
                    if len(body) > MOST_BYTES:
                        break
        reply.status, reply.headers = response.status, response.headers
        reply.text = body[:MOST_BYTES].decode("utf-8", errors="backslashreplace")
        if reply.status == 200 and path == COMPLETIONS:
            reply.status = error_in(reply.text).status or 200
        if reply.status == 200 and len(body) > MOST_BYTES:
            what = f"an answer of more than {MOST_BYTES >> 20} MiB, which is not read to its end"
            reply.failure = Failure("too large", f"{endpoint.base_url} sent {what}", 200)
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
    error, url, stop = error_in(text), endpoint.base_url, None
    message, code = error.message, error.code
    kind, text = f"{status} {code}".strip(), f"{url} answered {status}: {short(message, endpoint)}"
    # The server's text is not shown here: it may hold a part of the key.
    if status in (401, 403) or (status == 400 and error.status == 401):
        stop = f"{url} answered {status}: it refuses {endpoint.key_name} for model '{model}'; set a valid one"
    elif 402 in (status, error.status):
        why = short(message, endpoint)
        stop = f"{url} answered {kind}: {why}; the account has no funds, nothing more was sent"
    elif status == 404 or 300 <= status < 400:
        stop = f"{text}; check base_url (it usually ends in /v1) and the model name '{model}'"
    too_large = status == 429 and any(words in message.lower() for words in TOO_LARGE)
    retry = stop is None and not too_large and (status in RETRIED or status >= 500)
    return Failure(
        kind=kind,
        message=stop or text,
        status=status,
        retry=retry,
        refused=retry and status == 429,
        retry_after=retry_after_s(headers or {}),
        stop=stop,
    )


@dataclass(frozen=True)
class ErrorBody:
    """What an error says. `code` is a word or ''; `status` that of HTTP for which it stands, if for any."""

    message: str
    code: str = ""
    status: int | None = None


def error_in(text: str) -> ErrorBody:
    """The error in a body, in OpenAI's form or one like it; where there is none, the text is the message."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return ErrorBody(text)
    if isinstance(body, list) and len(body) == 1:  # Google's form
        body = body[0]
    if not isinstance(body, dict) or body.get("choices"):
        return ErrorBody(text)
    error = body.get("error")
    body |= error if isinstance(error, dict) else {"message": error or body.get("message")}
    message = body["message"] if isinstance(body.get("message"), str) else ""
    names = (body.get(name) for name in ("code", "type", "status"))
    told = [sound(name)[:80] for name in names if name and isinstance(name, str | int)]
    code = next((name for name in told if not name.isdecimal()), "")
    said = " ".join((*told, message)).lower()
    status = next((status for status, words in WORDS_OF.items() if re.search(words, said)), None)
    return ErrorBody(sound(message) or text, code, status or _status_of(told or [message]))


def _status_of(names: list[str]) -> int | None:
    """The status that an error is called by: a number, else words."""
    if number := next(filter(re.compile(r"[45]\d\d").fullmatch, names), None):
        return int(number)
    letters = re.sub("[^a-z]", "", "".join(names).lower())
    return next((status for words, status in STATUS_OF.items() if words in letters), None)


def judge_connection(error: Exception, endpoint: Endpoint) -> Failure:
    """What it means that no whole answer came: `error` is aiohttp's, or a TimeoutError."""
    import aiohttp

    url, kind, why = endpoint.base_url, type(error).__name__, short(str(error), endpoint)
    connecting = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
    if isinstance(error, (*connecting, aiohttp.InvalidURL)):
        stop = f"{url} cannot be reached ({why}); check base_url and that the server runs"
        return Failure(NEVER_SENT, stop, retry=True, stop=stop)
    if isinstance(error, TimeoutError):
        return Failure("timeout", f"{url}: no whole answer within {endpoint.knobs.timeout:g} s", retry=True)
    return Failure(kind, f"{url}: {kind} {why}", retry=True)


def unexpected_body(expected: str, raw: str, endpoint: Endpoint) -> Failure:
    """The failure of an attempt whose body, `raw`, came with status 200 and is not what was `expected`."""
    what = f"something that is not {expected}: {short(raw, endpoint)}"
    return Failure(f"not {expected}", f"{endpoint.base_url} answered 200 with {what}", 200, retry=True)


def short(text: str, endpoint: Endpoint) -> str:
    """One line of a server's text, without the key should it hold it."""
    return " ".join(text.replace(endpoint.api_key, "***").split())[:200]
