"""The local web page on which people review candidates. Imported lazily: aiohttp takes its time.

Only pages of this server may use it: it listens on 127.0.0.1, answers only to that name (DNS rebinding),
and takes no POST that another site's page sent. The page gets texts as JSON and shows them as text.
"""

import asyncio
import os
import re
import secrets
import socket
from functools import cached_property
from pathlib import Path

from aiohttp import web

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_text
from stages.kinds.skills.parts.files import read_skills
from stages.kinds.skills.parts.review.decisions import (
    Change,
    Conflict,
    Rejected,
    candidates_file,
    decided,
    read_candidates,
    read_decisions,
    save_decisions,
)
from stages.kinds.skills.parts.review.neighbours import Neighbours
from stages.kinds.skills.parts.schema import Skills

PAGE = Path(__file__).with_name("page.html")
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?", re.IGNORECASE)
MAX_BYTES = 64 << 20  # of a POST: all candidates at once
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


class Material:
    """What is reviewed, as it was in the files at one time."""

    def __init__(self, dataset: str):
        self.version = version(*sources(dataset))
        self.skills = read_skills(layout.skills(dataset))
        self.candidates = read_candidates(dataset)
        self.by_id = {row["id"]: row for row in self.candidates}

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.candidates, self.skills)


def sources(dataset: str) -> tuple[Path, Path]:
    return candidates_file(dataset), layout.skills(dataset) / "skills.json"


def version(*paths: Path) -> str:
    """Differs when a file was written, replaced, made or removed."""
    stats = [path.stat() if path.exists() else None for path in paths]
    return " ".join(f"{s.st_mtime_ns}-{s.st_size}-{s.st_ino}" if s else "none" for s in stats)


class Review:
    """The handlers. Files are read again when they have changed; every save goes to the file at once."""

    def __init__(self, dataset: str):
        self.dataset, self.path, self.material = dataset, layout.decisions(dataset), Material(dataset)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BYTES, middlewares=[guard])
        app.add_routes(
            [
                web.get("/", self.page),
                web.get("/api/state", self.state),
                web.get("/api/neighbours/{id}", self.neighbours),
                web.post("/api/decisions", self.decide),
            ]
        )
        return app

    async def page(self, request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        text = read_text(PAGE).replace("{{nonce}}", nonce)
        headers = {"Content-Security-Policy": POLICY.format(nonce)}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def state(self, request: web.Request) -> web.Response:
        seen = (request.query.get(name, "") for name in ("candidates", "decisions"))
        return web.json_response(await asyncio.to_thread(self.news, *seen))

    def news(self, candidates: str, decisions: str) -> dict:
        """What differs from the versions that a page has; `problem` where a file cannot be read just now."""
        told = {"dataset": self.dataset}
        try:
            if self.material.version != version(*sources(self.dataset)):
                self.material = Material(self.dataset)
        except UserError as error:  # they may be in the making: go on with what there was
            told["problem"] = str(error)
        material = self.material
        if material.version != candidates:
            parts = {"examples", "prompt_examples"}
            skills = [skill.model_dump(exclude=parts) for skill in material.skills.skills]
            told["candidates"] = {"version": material.version, "rows": material.candidates, "skills": skills}
        now = version(self.path)
        try:
            if now != decisions:
                rows = {name: plain(row) for name, row in read_decisions(self.path).items()}
                told["decisions"] = {"version": now, "rows": rows}
        except UserError as error:
            told["problem"] = str(error)
        return told

    async def neighbours(self, request: web.Request) -> web.Response:
        material, name = self.material, request.match_info["id"]
        if name not in material.by_id:
            raise web.HTTPNotFound()
        found = await asyncio.to_thread(lambda: material.neighbours.of(name))
        return web.json_response(found)

    async def decide(self, request: web.Request) -> web.Response:
        """200 with the decisions as they are now; 409 with what others decided; 422 with what is wrong."""
        body = await request.json()
        try:
            changes, problems = changes_of(body, self.material.by_id, self.material.skills)
        except (KeyError, TypeError, AttributeError) as error:
            raise web.HTTPBadRequest(text=f"not a list of changes: {error!r}") from None
        if problems:
            return web.json_response({"problems": problems}, status=422)
        try:
            decisions = await asyncio.to_thread(save_decisions, self.path, changes)
        except Conflict as conflict:
            present = {name: plain(row) for name, row in conflict.present.items()}
            return web.json_response({"conflicts": present}, status=409)
        except Rejected as rejected:
            return web.json_response({"problems": rejected.problems}, status=422)
        return web.json_response({"decisions": {c.id: plain(decisions.get(c.id)) for c in changes}})


def plain(row: dict | None) -> dict | None:
    """A decision without what the page knows."""
    return row and {key: row[key] for key in ("decision", "new_user", "new_call") if key in row}


def changes_of(body: dict, by_id: dict, skills: Skills) -> tuple[list[Change], dict[str, str]]:
    """(the changes in {changes: [{id, wanted, seen}]}, what is wrong by id)."""
    changes, problems = [], {}
    for given in body["changes"]:
        candidate, wanted, seen = by_id.get(given["id"]), given["wanted"], given["seen"]
        if candidate is None:
            problems[given["id"]] = "this candidate is no longer there: the candidates were made again"
            continue
        base = {key: candidate[key] for key in ("id", "user", "call")}
        try:
            texts = (wanted.get("new_user", ""), wanted.get("new_call", "")) if wanted else ()
            row = decided(candidate, wanted["decision"], *texts, skills) if wanted else None
        except ValueError as error:
            problems[given["id"]] = str(error)
            continue
        changes.append(Change(candidate["id"], row, seen and {**base, **seen}))
    return changes, problems


@web.middleware
async def guard(request: web.Request, handler) -> web.StreamResponse:
    """Refuse what no page of this server sends; tell the user's errors as JSON."""
    if refusal := refused(request):
        return web.Response(status=403, text=refusal, headers=HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = web.Response(status=error.status, text=error.text)
    except UserError as error:
        response = web.json_response({"problem": str(error)}, status=500)
    except (ValueError, LookupError, RecursionError, web.RequestPayloadError):  # of request.json()
        response = web.Response(status=400, text="not JSON")
    response.headers.update(HEADERS)
    return response


def refused(request: web.Request) -> str | None:
    """Why this request may be the work of another site, or None."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if not HOST.fullmatch(host):
        return "this server answers only to 127.0.0.1 and localhost"
    if origin is not None and origin != f"http://{host}":
        return "a page of another site may not use this server"
    if request.method != "GET" and request.content_type != "application/json":
        return "expected Content-Type: application/json"
    return None


def serve(dataset: str, port: int) -> None:
    """Serve until interrupted; port 0 takes a free one. Raises UserError."""
    app = Review(dataset).app()
    try:
        sock = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = f"{os.strerror(error.errno)}; name another one, or 0 for any that is free"
        raise UserError(f"port {port}: {why}: make review DATASET={dataset} PORT=0") from None
    address = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    print(f"review of {dataset}: {address} (saved after every action; Ctrl-C ends it)", flush=True)
    web.run_app(app, sock=sock, print=None, access_log=None, shutdown_timeout=1)
