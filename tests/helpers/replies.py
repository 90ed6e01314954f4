"""What a test server says, and the ways in which saying it goes wrong."""

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from aiohttp import web

DRIP_BYTES = 8


class Reply(NamedTuple):
    """What a faulty server says instead of an answer."""

    body: str
    status: int = 200
    content_type: str = "application/json"
    headers: dict | None = None

    def response(self) -> web.Response:
        return web.Response(
            text=self.body, status=self.status, content_type=self.content_type, headers=self.headers
        )


def failure(status: int, message="no", code=None, **headers) -> Reply:
    return Reply(json.dumps({"error": {"message": message, "code": code}}), status, headers=headers)


def usage_of(text: str) -> tuple[int, int] | None:
    """Prompt and completion tokens of an answer, if it tells them."""
    try:
        usage = json.loads(text)["usage"]
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (ValueError, TypeError, LookupError):
        return None


async def deliver(request: web.Request, response: web.Response, fault) -> web.StreamResponse:
    """Send an answer, well or as the fault says."""
    match fault:
        case "truncated":
            half = response.text[: len(response.text) // 2]
            response = Reply(half, response.status, response.content_type).response()
            response.force_close()
            return response
        case "reset mid-body" | "close mid-body":
            return await break_off(request, response, reset=fault.startswith("reset"))
        case ("drip", pause):
            return await drip(request, response, pause)
    return response


async def announce(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Send the headers of the whole answer only."""
    stream = web.StreamResponse(status=response.status)
    stream.content_type, stream.content_length = response.content_type, len(response.body)
    await stream.prepare(request)
    return stream


async def break_off(request: web.Request, response: web.Response, reset: bool) -> web.StreamResponse:
    stream = await announce(request, response)
    await stream.write(response.body[: len(response.body) // 2])
    if transport := request.transport:
        if reset:  # without this, the kernel ends an aborted connection as politely as a closed one
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await asyncio.sleep(0.01)  # a reset overtakes what the client has not read yet
            transport.abort()
        else:
            transport.close()
    return stream


async def drip(request: web.Request, response: web.Response, pause: float) -> web.StreamResponse:
    stream = await announce(request, response)
    with suppress(ConnectionError):  # nobody waits so long: the client has gone
        for start in range(0, len(response.body), DRIP_BYTES):
            await stream.write(response.body[start : start + DRIP_BYTES])
            await asyncio.sleep(pause)
    return stream
