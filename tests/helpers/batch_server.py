"""A teacher for tests that also has OpenAI's Batch API, and everything that can go wrong with it."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from stages.core.hashing import sha256_json
from tests.helpers.batch_job import FINAL, UNDONE, Job, dumped, lines_of, slip
from tests.helpers.rate_limits import Limits
from tests.helpers.replies import Reply, failure, usage_of
from tests.helpers.teacher_server import Teacher, fake_answer

ENDPOINT = "/v1/chat/completions"


@dataclass(eq=False)
class Switches:
    """What the Batch API does wrong. Each may be set anew while the server runs."""

    polls_needed: int = 3  # the GETs of one batch till it is final
    max_rows: int = 50_000
    max_bytes: int = 200 * 2**20
    max_open: int | None = None  # a batch made while so many are open fails with token_limit_exceeded
    fail_code: str | None = None  # every batch fails its validation with this code
    expire_after: float | None = None  # the share of the rows that are answered before the batch expires
    row_error: Callable[[dict], int | str | None] | None = None  # by body: an HTTP status, or a batch's code
    left_out: Callable[[dict], bool] | None = None  # by body: the row is in neither file
    shuffle: bool = False
    duplicated: int = 0  # so many lines of the output come twice
    unknown: int = 0  # so many more lines have a custom_id that nobody sent
    torn: int = 0  # so many lines of the output are cut in half
    hidden_lists: int = 0  # a new batch is missing from so many lists
    no_file: str | None = None  # the id of a file that is not there: OpenAI says null, and has said ""
    # By route: {"POST /batches": ...}. What is said to the first calls instead of doing as they ask, and how
    # many of the first are done but never answered.
    failing: dict[str, list[Reply]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


class BatchTeacher(Teacher, Switches):
    """Its switches are keyword arguments and attributes. `fault` is asked for the rows of batches too, where
    only a Reply and a callable have a meaning.
    """

    def __init__(
        self,
        fault: Callable | None = None,
        delay: float = 0.0,
        limits: Limits | None = None,
        answer: Callable[[list[dict]], str] = fake_answer,
        **switches,
    ):
        Teacher.__init__(self, fault, delay, limits, answer)
        Switches.__init__(self, **switches)
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, tuple[dict, bytes]] = {}
        self.polls: Counter[str] = Counter()  # by batch
        self.lists = 0
        self.submitted: Counter[str] = Counter()  # by custom_id, of every batch that was made
        self.rows_answered: Counter[str] = Counter()  # by custom_id, billed
        self.rows_seen: Counter[str] = Counter()  # by the body's hash
        self.billed_batch_prompt = self.billed_batch_completion = 0

    @property
    def created(self) -> list[dict]:
        """Every batch that was made, oldest first."""
        return [job.shown for job in list(self.jobs.values())]

    def routes(self) -> list[web.RouteDef]:
        return [
            *super().routes(),
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._poll),
            web.post("/v1/batches/{id}/cancel", self._cancel),
        ]

    async def _beside(self, request: web.Request, handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = f"{request.method} {resource.canonical.removeprefix('/v1')}" if resource else ""
        if self.failing.get(route):
            return self.failing[route].pop(0).response()
        response = await handler(request)
        if self.lost.get(route, 0) > 0:
            self.lost[route] -= 1
            request.transport.abort()
        return response

    # Files

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("purpose") != "batch" or not form["file"].filename.endswith(".jsonl"):
            return failure(400, "expected purpose 'batch' and a .jsonl file", "invalid_value").response()
        content = form["file"].file.read()
        if len(content) > self.max_bytes or len(lines_of(content)) > self.max_rows:
            return failure(400, "the file is too large", "file_too_large").response()
        return web.json_response(self._keep(form["file"].filename, "batch", content))

    def _keep(self, name: str, purpose: str, content: bytes) -> dict:
        shown = {
            "id": f"file-{len(self.files) + 1:04}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        self.files[shown["id"]] = shown, content
        return shown

    async def _content(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.files:
            return failure(404, "No such File object").response()
        _, content = self.files[request.match_info["id"]]
        return web.Response(body=content, content_type="application/octet-stream")

    # Batches

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("input_file_id") not in self.files:
            return failure(400, "No such File object").response()
        if (asked.get("endpoint"), asked.get("completion_window")) != (ENDPOINT, "24h"):
            return failure(400, "no such endpoint or completion_window", "invalid_value").response()
        if not fits(asked.get("metadata") or {}):
            return failure(400, "metadata is no text or too large", "invalid_value").response()
        lines = lines_of(self.files[asked["input_file_id"]][1])
        job = Job(len(self.jobs) + 1, asked, lines, self.no_file)
        job.hidden = self.hidden_lists
        self.jobs[job.shown["id"]] = job
        self.submitted.update(str(row.get("custom_id")) for row in job.rows)
        return web.json_response(job.shown)

    async def _list(self, request: web.Request) -> web.Response:
        after, limit = request.query.get("after"), int(request.query.get("limit", 20))
        if not 1 <= limit <= 100:
            return failure(400, "limit must be between 1 and 100", "invalid_value").response()
        newest = [job.shown for job in reversed(self.jobs.values()) if job.hidden <= 0]
        if after is None:
            self.lists += 1
            for job in self.jobs.values():
                job.hidden -= 1
        else:
            ids = [shown["id"] for shown in newest]
            newest = newest[ids.index(after) + 1 :] if after in ids else []
        page = newest[:limit]
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        listed = {"first_id": first, "last_id": last, "has_more": len(newest) > limit}
        return web.json_response({"object": "list", "data": page, **listed})

    async def _poll(self, request: web.Request) -> web.Response:
        if (job := self.jobs.get(request.match_info["id"])) is None:
            return failure(404, "No such batch").response()
        self.polls[job.shown["id"]] += 1
        if job.status == "cancelling":
            self._finish(job, "cancelled")
        elif job.status not in FINAL:
            self._advance(job)
        job.count()
        return web.json_response(job.shown)

    async def _cancel(self, request: web.Request) -> web.Response:
        if (job := self.jobs.get(request.match_info["id"])) is None:
            return failure(404, "No such batch").response()
        if job.status in FINAL:
            return failure(409, f"Cannot cancel a batch with status '{job.status}'.").response()
        job.becomes("cancelling")
        return web.json_response(job.shown)

    def _advance(self, job: Job) -> None:
        polls, needed = self.polls[job.shown["id"]], max(1, self.polls_needed)
        third = 3 * polls // needed
        if third == 0:
            return None
        if job.status == "validating":
            if slips := self._refusals(job):
                return job.fails(slips)
            job.becomes("in_progress")
        will_do = len(job.rows) if self.expire_after is None else int(len(job.rows) * self.expire_after)
        self._answer_rows(job, will_do if third > 1 else will_do * polls // needed)
        if third > 1 and job.status == "in_progress":
            job.becomes("finalizing")
        if third > 2:
            self._finish(job, "completed" if self.expire_after is None else "expired")

    def _refusals(self, job: Job) -> list[dict]:
        if self.fail_code:
            return [slip(self.fail_code)]
        older = [other for other in self.jobs.values() if other.status not in FINAL]
        if self.max_open is not None and older.index(job) >= self.max_open:
            return [slip("token_limit_exceeded")]
        return job.slips()

    def _answer_rows(self, job: Job, upto: int) -> None:
        for row in job.rows[job.done : upto]:
            if not (self.left_out and self.left_out(row["body"])):
                self._answer_row(job, row)
        job.done = max(job.done, upto)

    def _answer_row(self, job: Job, row: dict) -> None:
        refused = self.row_error(row["body"]) if self.row_error else None
        if isinstance(refused, str):
            return job.skip(row, refused, "This request could not be executed.")
        reply, usage = (failure(refused), None) if refused else self._row_reply(row["body"])
        job.add(row, reply, usage)
        if reply.status == 200:
            self.rows_answered[row["custom_id"]] += 1
        if usage:
            self.billed_batch_prompt += usage[0]
            self.billed_batch_completion += usage[1]

    def _row_reply(self, body: dict) -> tuple[Reply, tuple[int, int] | None]:
        key = sha256_json(body)
        self.rows_seen[key] += 1
        fault = self.fault(body, self.seen[key] + self.rows_seen[key]) if self.fault else None
        reply = fault if isinstance(fault, Reply) else self.computed(body)
        usage = usage_of(reply.body)
        if callable(fault) and reply.status == 200:
            reply = Reply(json.dumps(fault(json.loads(reply.body))))
        return reply, usage_of(reply.body) or usage

    def _finish(self, job: Job, status: str) -> None:
        if status in UNDONE:
            for row in job.rows[job.done :]:
                job.skip(row, *UNDONE[status])
        for name, lines in (("output", self._spoilt(job)), ("error", dumped(job.failed))):
            if lines:
                # A lone surrogate has no UTF-8; its escape is the same JSON.
                content = "".join(lines).encode("utf-8", "backslashreplace")
                kept = self._keep(f"{job.shown['id']}_{name}.jsonl", "batch_output", content)
                job.shown[f"{name}_file_id"] = kept["id"]
        job.becomes(status)

    def _spoilt(self, job: Job) -> list[str]:
        lines = job.answered
        again = [{**line, "id": f"{line['id']}_again"} for line in lines[: self.duplicated]]
        strange = [{**line, "custom_id": f"unknown-{i}"} for i, line in enumerate(lines[: self.unknown])]
        texts = dumped([*lines, *again, *strange])
        if self.shuffle:
            random.Random(job.shown["id"]).shuffle(texts)
        middle = len(texts) // 2
        for i, text in enumerate(texts[middle : middle + self.torn], middle):
            texts[i] = text[: len(text) // 2] + "\n"
        return texts


def fits(metadata: dict) -> bool:
    items = metadata.items()
    texts = all(isinstance(value, str) for value in metadata.values())
    return texts and len(items) <= 16 and all(len(key) <= 64 and len(value) <= 512 for key, value in items)
