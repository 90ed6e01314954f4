"""The local web page on which people review candidates.

Only pages of this server may use it: it listens on 127.0.0.1, and core/web.py refuses what other sites' pages
send. The page gets texts as JSON and shows them as text.
"""

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from stages.core.errors import UserError
from stages.core.text import letters
from stages.core.web import HEADERS, answers_to, application, body_of, check, html_page, parsed
from stages.core.web import serve as serve_app
from stages.kinds.skills import places
from stages.kinds.skills.parts.calls import Value, parse_call, span
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
from stages.kinds.skills.parts.rows import Candidate, Decision
from stages.kinds.skills.parts.schema import Skills
from stages.kinds.skills.parts.text_form import signature

PAGE = Path(__file__).with_name("page.html")
MAX_BYTES = 64 << 20  # of a POST: all candidates at once
GRACE_S = 1  # what requests in flight have to end in
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
NEAR = 0.5  # least Jaccard similarity of the words of neighbours
NEIGHBOURS = 4  # that are shown


class Wording(NamedTuple):
    """A request and its call, as neighbours are looked for."""

    user: str  # letters and digits only, in one case
    words: frozenset[str]  # without those of the call's values
    call: str  # in one case
    kind: tuple  # the name of the call and its values that are no free texts


def wording(user: str, text: str, skills: Skills) -> Wording:
    """The wording of a request `user` with the call `text`."""
    call = parse_call(text)
    skill = skills.by_name.get(call.name)
    kind: list[str | tuple[str, Value]] = [call.name]
    places: list[tuple[int, int]] = []
    for name, value in sorted(call.arguments.items()):
        if not (skill and name in skill.parameters and skill.parameters[name].type == "string"):
            kind.append((name, value))
        elif place := span(value, user):
            places.append(place)
    rest = user
    for start, stop in sorted(places, reverse=True):  # from the end: earlier places stay where they are
        rest = f"{rest[:start]} {rest[stop:]}"
    words = frozenset(word.casefold() for word in WORD.findall(rest))
    return Wording(letters(user), words, text.casefold(), tuple(kind))


class Neighbours:
    """Near neighbours of a candidate with another kind of call: where two people would label differently.

    Every one is compared: 20,000 take some 10 ms.
    """

    def __init__(self, candidates: Iterable[Candidate], skills: Skills):
        self.wordings = {row["id"]: wording(row["user"], row["call"], skills) for row in candidates}

    def of(self, name: str) -> list[str]:
        """The ids of up to NEIGHBOURS others of the candidate with this id, nearest first.

        They are the same request with another call, or have another kind of call and words as near as NEAR.
        """
        mine = self.wordings[name]
        ranked: list[tuple[float, str]] = []
        for other, theirs in self.wordings.items():
            if theirs.user == mine.user and theirs.call != mine.call:
                ranked.append((-1.0, other))
            elif theirs.kind != mine.kind:
                common = len(mine.words & theirs.words)
                similarity = common / (len(mine.words) + len(theirs.words) - common) if common else 0.0
                if similarity >= NEAR:
                    ranked.append((-similarity, other))
        return [other for _, other in sorted(ranked)[:NEIGHBOURS]]


class Material:
    """What is reviewed, as it was in the files at one time. Raises UserError where there is nothing."""

    def __init__(self, dataset: str):
        self.version = version(*sources(dataset))
        self.skills = read_skills(places.skills(dataset))
        self.candidates = read_candidates(dataset)
        self.by_id = {row["id"]: row for row in self.candidates}

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.candidates, self.skills)


def sources(dataset: str) -> tuple[Path, Path]:
    """The files that Material is read from."""
    return candidates_file(dataset), places.skills(dataset) / "skills.json"


def version(*paths: Path) -> str:
    """Differs when a file was written, replaced, made or removed."""
    stats = [path.stat() if path.exists() else None for path in paths]
    return " ".join(f"{s.st_mtime_ns}-{s.st_size}-{s.st_ino}" if s else "none" for s in stats)


class Review:
    """The handlers. Files are read again when they have changed; every save goes to the file at once."""

    def __init__(self, dataset: str):
        self.dataset, self.path, self.material = dataset, places.decisions(dataset), Material(dataset)

    def app(self, guard: Callable) -> web.Application:
        app = application(MAX_BYTES, guard)
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
        return html_page(PAGE)

    async def state(self, request: web.Request) -> web.Response:
        seen = (request.query.get(name, "") for name in ("candidates", "decisions"))
        return web.json_response(await asyncio.to_thread(self.news, *seen))

    def news(self, candidates: str, decisions: str) -> dict:
        """What differs from the versions that a page has; `problem` where a file cannot be read just now."""
        answer: dict[str, object] = {"dataset": self.dataset}
        try:
            if self.material.version != version(*sources(self.dataset)):
                self.material = Material(self.dataset)
        except UserError as error:  # they may be in the making: go on with what there was
            answer["problem"] = str(error)
        material = self.material
        if material.version != candidates:
            skills = {
                skill.name: {"signature": signature(skill), "description": skill.description}
                for skill in material.skills.skills
            }
            answer["candidates"] = {
                "version": material.version,
                "rows": material.candidates,
                "skills": skills,
            }
        now = version(self.path)
        try:
            if now != decisions:
                rows = {name: plain(row) for name, row in read_decisions(self.path).items()}
                answer["decisions"] = {"version": now, "rows": rows}
        except UserError as error:
            answer["problem"] = str(error)
        return answer

    async def neighbours(self, request: web.Request) -> web.Response:
        material, name = self.material, request.match_info["id"]
        if name not in material.by_id:
            raise web.HTTPNotFound()
        return web.json_response(await asyncio.to_thread(lambda: material.neighbours.of(name)))

    async def decide(self, request: web.Request) -> web.Response:
        """200 with the decisions as they are now; 409 with what others decided; 422 with what is wrong."""
        body = parsed(await body_of(request), request.charset)
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
        saved = {change.id: plain(decisions.get(change.id)) for change in changes}
        return web.json_response({"decisions": saved})


def plain(row: Decision | None) -> dict[str, str] | None:
    """A decision without what the page knows."""
    return row and {key: row[key] for key in ("decision", "new_user", "new_call") if key in row}


def changes_of(
    body: dict, candidates: dict[str, Candidate], skills: Skills
) -> tuple[list[Change], dict[str, str]]:
    """(the changes in {changes: [{id, wanted, seen}]}, what is wrong by id).

    Raises KeyError, TypeError or AttributeError for a body of another shape.
    """
    changes: list[Change] = []
    problems: dict[str, str] = {}
    for given in body["changes"]:
        candidate, wanted, seen = candidates.get(given["id"]), given["wanted"], given["seen"]
        if candidate is None:
            problems[given["id"]] = "this candidate is no longer there: the candidates were made again"
            continue
        decision = None
        if wanted:
            user, call = wanted.get("new_user", ""), wanted.get("new_call", "")
            try:
                decision = decided(candidate, wanted["decision"], user, call, skills)
            except ValueError as error:
                problems[given["id"]] = str(error)
                continue
        subject = {key: candidate[key] for key in ("id", "user", "call")}
        changes.append(Change(candidate["id"], decision, seen and {**subject, **seen}))
    return changes, problems


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guarded_for(sock: socket.socket) -> Callable:
    """The middleware of a server at that socket: it refuses what no page of it sends, and tells errors."""
    answers = answers_to(sock)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            check(request, answers)
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        except UserError as error:
            response = web.json_response({"problem": str(error)}, status=500)
        response.headers.update(HEADERS)
        return response

    return guard


def serve(dataset: str, port: int) -> None:
    """Serve until interrupted; port 0 takes a free one. Raises UserError."""
    review = Review(dataset)
    try:
        sock = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        why = f"{os.strerror(error.errno)}; name another one, or 0 for any that is free"
        raise UserError(f"port {port}: {why}: make review DATASET={dataset} PORT=0") from None
    address = f"http://127.0.0.1:{sock.getsockname()[1]}/"
    announcement = f"review of {dataset}: {address} (saved after every action; Ctrl-C ends it)"
    asyncio.run(serve_app(review.app(guarded_for(sock)), sock, announcement, GRACE_S))
