"""What both web servers refuse, and what keeps one client from shutting out the others."""

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.test_utils import make_mocked_request

from stages.core import web as common

JSON = {"Content-Type": "application/json"}


def bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    return sock


def status_of(address="127.0.0.1", names=(), key="", method="POST", **headers) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request(method, "/", headers={"Host": "localhost", **JSON, **named})
    with bound(address) as sock:
        answers = common.answers_to(sock, *names, key=key)
    try:
        common.check(request, answers, key)
    except web.HTTPException as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        *(
            ("127.0.0.1", host, 200)
            for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:9", "own.name:8000")
        ),
        *(("127.0.0.1", host, 403) for host in ("evil.com", "127.0.0.1.nip.io:80", "localhost.evil.com")),
        *(("127.0.0.1", host, 403) for host in ("", "[", "localhost@evil.com", "10.0.0.5:8000", "[::1]:80")),
        *(("0.0.0.0", host, 200) for host in ("localhost", "10.0.0.5:8000", "[fe80::1]:8000")),
        *(("0.0.0.0", host, 200) for host in (socket.gethostname(), "own.name")),
        *(("0.0.0.0", host, 403) for host in ("evil.com", "10.0.0.5.nip.io", "127.0.0.1.evil.com:8000")),
    ],
)
def test_only_hosts_of_this_server_are_answered_to(address, host, status):
    assert status_of(address, ("own.name",), Host=host) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost"}, 200),
        *(({"Origin": origin}, 403) for origin in ("http://evil.com", "null", "https://localhost", "")),
        ({"Origin": "http://localhost:1"}, 403),
        *(({"Content_Type": kind}, 403) for kind in ("text/plain", "application/x-www-form-urlencoded", "")),
        ({"Content_Type": "text/plain; application/json"}, 403),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
        *(({"Content_Encoding": coding}, 415) for coding in ("gzip", "br", "deflate")),
        *(({"method": method, "Content_Type": "text/plain"}, 403) for method in ("PUT", "OPTIONS", "DELETE")),
        ({"method": "GET", "Content_Type": "text/plain"}, 200),
    ],
)
def test_what_a_page_of_another_site_can_send_is_refused(headers, status):
    assert status_of(**headers) == status


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer sesam2", "sesam", "Bearer ключ"])
def test_a_key_is_asked_for_and_opens_to_any_name(given):
    headers = {} if given is None else {"Authorization": given}
    assert status_of(key="sesam", **headers) == 401
    assert status_of(key="sesam", Authorization="Bearer sesam", Host="student.example") == 200
    assert status_of(key="sesam", Authorization="Bearer sesam", Origin="http://evil.com") == 403


@asynccontextmanager
async def served(largest=10_000):
    """(the port of a server that says a body's length, the release of those that wait for `slow`)."""

    @web.middleware
    async def guard(request, handler):
        return await handler(request)

    async def length(request):
        body = await common.body_of(request)
        if body == b"slow":
            await release.wait()
        return web.Response(text=str(len(body)))

    app, release = common.application(largest, guard), asyncio.Event()
    app.router.add_route("*", "/", length)
    sock = bound("127.0.0.1")
    running = asyncio.create_task(common.serve(app, sock, "ready", 1))
    await asyncio.sleep(0.05)
    yield sock.getsockname()[1], release
    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def post(port: int, body: bytes) -> str:
    async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{port}", data=body) as got:
        return await got.text()


HALF = {
    "nothing": b"",
    "headers": b"POST / HTTP/1.1\r\nHost: x\r\nX: ",
    "body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{",
}


@pytest.mark.parametrize("sent", HALF)
def test_connections_that_wait_for_their_client_give_way_and_others_do_not(monkeypatch, sent):
    async def scenario():
        async with served() as (port, release):
            slow = asyncio.create_task(post(port, b"slow"))
            await asyncio.sleep(0.05)
            held = []
            for _ in range(60):
                held.append(await asyncio.open_connection("127.0.0.1", port))
                held[-1][1].write(HALF[sent])
            assert await asyncio.wait_for(post(port, b"short"), 5) == "5"
            descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
            release.set()
            assert await slow == "4"
            for _, writer in held:
                writer.close()
            return descriptors

    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    monkeypatch.setattr(common, "CONNECTIONS", 16)
    assert asyncio.run(scenario()) < before + 60 + 16 + 20


@pytest.mark.parametrize(("sent", "answer"), [("nothing", b""), ("headers", b""), ("body", b"HTTP/1.1 408")])
def test_what_does_not_come_whole_in_time_is_closed(monkeypatch, sent, answer):
    for name in ("BODY_S", "IDLE_S", "UNREAD_S"):
        monkeypatch.setattr(common, name, 0.1)

    async def scenario():
        async with served() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HALF[sent])
            found = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return found

    assert asyncio.run(scenario())[:12] == answer


def test_the_log_of_a_server_that_fails_is_bounded():
    def logged(error, times):
        kept = 0
        for _ in range(times):
            try:
                raise error
            except Exception:
                given = ("web", logging.ERROR, __file__, 1, "failed on %s", ("this",), sys.exc_info())
                kept += seldom.filter(logging.LogRecord(*given))
        return kept

    seldom = common.Seldom()
    assert logged(RuntimeError("x"), 2000) == common.LOGGED
    assert logged(OSError("another kind"), 5) == 5
    assert logged(HttpProcessingError(message="bad"), 2000) == 0
