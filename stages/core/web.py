"""What the web servers of this project have in common: who may ask, how much, how long, and how many at once.

Both are for programs and pages of this machine. A web page of anybody can make a browser send requests here,
which is why Host (DNS rebinding), Origin and Content-Type are checked before anything else.
"""

import asyncio
import gc
import hmac
import ipaddress
import json
import logging
import re
import resource
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.http import HttpProcessingError

from stages.core.files import read_text

LOOPBACK = ("localhost", "127.0.0.1")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::\d+)?", re.IGNORECASE)
BODY_S = 20  # for a body to come whole
IDLE_S = 20  # for the headers of a request to come whole; longer than clients keep an idle connection
UNREAD_S = 2  # for the rest of a body that was refused
CONNECTIONS = 512  # at once; where it is full, the oldest that waits for no answer gives way to a new one
OTHER_FILES = 160  # kept free of connections: the server's own, and those that are accepted at one moment
LOGGED = 20  # errors of a kind in a minute that are logged
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
AWAITED = web.AppKey("AWAITED", set)  # connections whose request has come whole and has no answer yet


def answers_to(sock: socket.socket, *names: str, key: str = "") -> Callable[[str], bool]:
    """Whether a server at a bound socket answers requests to a host of that name.

    It does for LOOPBACK and `names`; where the network reaches it, for all addresses and this machine's name,
    too: DNS rebinding takes a name of the attacker's. With a `key`, which no page that rebinds has, any name
    will do.
    """
    public = is_public(sock)
    known = {name.lower() for name in (*LOOPBACK, *names, *((socket.gethostname(),) if public else ()))}
    return lambda name: bool(key) or name in known or (public and is_address(name))


def is_public(sock: socket.socket) -> bool:
    """Whether other machines may reach a bound socket."""
    return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check(request: web.Request, answers: Callable[[str], bool], key: str = "") -> None:
    """Raises HTTPException for what may be the work of another site, a packed body, and without the key."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    match = HOST.fullmatch(host)
    if not match or not answers((match[1] or match[2]).lower()):
        raise web.HTTPForbidden(text="this server does not answer to that Host; ask for it by address")
    if origin is not None and origin != f"http://{host}":
        raise web.HTTPForbidden(text="a page of another site may not use this server")
    if request.method not in ("GET", "HEAD") and request.content_type != "application/json":
        raise web.HTTPForbidden(text="expected Content-Type: application/json")
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(text="the body must not be compressed")
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if key and not hmac.compare_digest(given, f"Bearer {key}".encode()):
        raise web.HTTPUnauthorized(text="no key, or a wrong one", headers={"WWW-Authenticate": "Bearer"})


async def body_of(request: web.Request) -> bytes:
    """The body. Raises HTTPException for one that is too large, comes too slowly or is broken."""
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not come whole within {BODY_S} s") from None
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text=f"the body cannot be read: {error}") from None
    request.app[AWAITED].add(request.protocol)
    return body


def parsed(body: bytes, charset: str | None) -> object:
    """What a JSON body says. Raises HTTPBadRequest."""
    try:
        return json.loads(body.decode(charset or "utf-8"))
    except (ValueError, LookupError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from None


def html_page(file: Path) -> web.Response:
    """A page of this project, whose own script and style alone run: they have the nonce of this response."""
    nonce = secrets.token_urlsafe(16)
    text = read_text(file).replace("{{nonce}}", nonce)
    headers = {**HEADERS, "Content-Security-Policy": POLICY.format(nonce)}
    return web.Response(text=text, content_type="text/html", headers=headers)


@web.middleware
async def _settled(request: web.Request, handler: Callable) -> web.StreamResponse:
    try:
        return await handler(request)
    finally:
        request.app[AWAITED].discard(request.protocol)


def application(largest_body: int, guard: Callable) -> web.Application:
    """An empty application whose requests pass the middleware `guard`, which calls `check`."""
    app = web.Application(middlewares=[_settled, guard], client_max_size=largest_body)
    app[AWAITED] = set()
    return app


async def serve(app: web.Application, sock: socket.socket, announcement: str, grace_s: float) -> None:
    """Listen at a bound socket until SIGTERM or SIGINT; requests in flight have `grace_s` to end in.

    The announcement is printed once requests are answered. Raises OSError where another process listens.
    """
    gc.freeze()  # stages look for garbage seldom; every connection leaves some, and a server runs for long
    gc.set_threshold(700, 10, 10)
    log = logging.StreamHandler()
    log.addFilter(Seldom())
    logging.basicConfig(handlers=[log])
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=grace_s,
        keepalive_timeout=IDLE_S,
        lingering_time=UNREAD_S,
        auto_decompress=False,  # a bomb would be unpacked even after it was refused
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    most = max(16, min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES))

    def accepted() -> asyncio.Protocol:
        # Without room for it asyncio would log an error for every try to accept, some thousands a second.
        transports = {peer: peer.transport for peer in server.connections if peer.transport}
        living = [peer for peer, transport in transports.items() if not transport.is_closing()]
        if len(living) >= most and (idle := [peer for peer in living if peer not in app[AWAITED]]):
            transports[idle[0]].abort()  # its client may not read, so nothing is flushed
        return server()

    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    listening = await loop.create_server(accepted, sock=sock)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    print(announcement, flush=True)
    await ended.wait()
    listening.close()
    await runner.cleanup()


class Seldom(logging.Filter):
    """Bounds the log: LOGGED errors of a kind in a minute, and nothing of HTTP that was malformed."""

    def __init__(self) -> None:
        super().__init__()
        self.minute, self.counts = 0, Counter[type | None]()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind and issubclass(kind, (HttpProcessingError, web.RequestPayloadError)):
            return False
        if (minute := int(time.monotonic() // 60)) != self.minute:
            self.minute, self.counts = minute, Counter()
        self.counts[kind] += 1
        if self.counts[kind] == LOGGED:
            record.msg, record.args = (
                f"{record.getMessage()} (more of the kind are left out for a minute)",
                (),
            )
        return self.counts[kind] <= LOGGED
