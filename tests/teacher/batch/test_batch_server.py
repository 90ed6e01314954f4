"""The Batch API that the collector is proved against, driven by the real client."""

import asyncio
import json
from contextlib import asynccontextmanager

import openai
import pytest

from tests.helpers.batch_job import FINAL
from tests.helpers.batch_server import ENDPOINT, BatchTeacher
from tests.helpers.replies import failure
from tests.teacher.test_fault_server import body_of, chat


@asynccontextmanager
async def client_of(url: str):
    http_client = openai.DefaultAioHttpClient()
    async with openai.AsyncOpenAI(
        base_url=url, api_key="k", max_retries=0, http_client=http_client
    ) as client:
        yield client


def rows_of(count: int) -> list[dict]:
    return [
        {"custom_id": f"r{i}", "method": "POST", "url": ENDPOINT, "body": body_of(f"w{i}")}
        for i in range(count)
    ]


async def submit(client, rows: list[dict], **metadata):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = await client.files.create(file=("rows.jsonl", content), purpose="batch")
    assert file.purpose == "batch" and file.bytes == len(content)
    return await client.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
    )


async def lines_in(client, file_id: str | None) -> list[str]:
    return (await client.files.content(file_id)).text.splitlines() if file_id else []


async def finished(client, batch):
    """The final batch, and the statuses on the way."""
    statuses = [batch.status]
    while batch.status not in FINAL:
        batch = await client.batches.retrieve(batch.id)
        statuses.append(batch.status)
    return batch, statuses


def run(teacher: BatchTeacher, talk):
    """`talk(client)`, with the real client."""

    async def main(url: str):
        async with client_of(url) as client:
            return await talk(client)

    with teacher.running() as url:
        return asyncio.run(main(url))


def batch_of(teacher: BatchTeacher, rows: list[dict]):
    """One batch from beginning to end: it, its statuses, its output lines and its error rows."""

    async def talk(client):
        batch, statuses = await finished(client, await submit(client, rows))
        errors = [json.loads(line) for line in await lines_in(client, batch.error_file_id)]
        return batch, statuses, await lines_in(client, batch.output_file_id), errors

    return run(teacher, talk)


def test_a_batch_from_beginning_to_end():
    teacher = BatchTeacher()
    batch, statuses, lines, errors = batch_of(teacher, rows_of(5))
    assert statuses == ["validating", "in_progress", "finalizing", "completed"] and errors == []
    assert batch.error_file_id is None and batch.request_counts.completed == batch.request_counts.total == 5
    outputs = [json.loads(line) for line in lines]
    assert [line["custom_id"] for line in outputs] == [f"r{i}" for i in range(5)]
    online = json.loads(chat(teacher, body_of("w3"))[0][2])
    assert outputs[3]["response"]["body"] == online and outputs[3]["response"]["status_code"] == 200
    assert (teacher.billed_batch_prompt, teacher.billed_batch_completion) == (10, 60)
    assert batch.usage.total_tokens == 70 and teacher.billed_completion == 12
    assert set(teacher.submitted.values()) == set(teacher.rows_answered.values()) == {1}


def test_a_list_in_pages_and_a_new_batch_that_it_does_not_show_yet():
    teacher = BatchTeacher()

    async def talk(client):
        for i in range(5):
            await submit(client, rows_of(1), number=str(i))
        page = await client.batches.list(limit=2)
        seen = [batch.metadata["number"] async for batch in page]
        teacher.hidden_lists = 1
        await submit(client, rows_of(1), number="late")
        lists = [(await client.batches.list(limit=1)).data[0].metadata["number"] for _ in range(2)]
        return page.has_more, page.data[-1].id, seen, lists

    has_more, last, seen, lists = run(teacher, talk)
    assert has_more and last == teacher.created[3]["id"]
    assert seen == ["4", "3", "2", "1", "0"] and lists == ["4", "late"]
    assert teacher.submitted == {"r0": 6} and len(teacher.created) == 6


def test_cancelling_keeps_what_was_done():
    teacher = BatchTeacher(polls_needed=4)

    async def talk(client):
        batch = await submit(client, rows_of(8))
        for _ in range(2):
            await client.batches.retrieve(batch.id)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        batch, _ = await finished(client, batch)
        with pytest.raises(openai.ConflictError):
            await client.batches.cancel(batch.id)
        return (
            batch,
            await lines_in(client, batch.output_file_id),
            await lines_in(client, batch.error_file_id),
        )

    batch, lines, errors = run(teacher, talk)
    assert batch.status == "cancelled" and len(lines) == len(teacher.rows_answered) == 4
    assert {json.loads(line)["error"]["code"] for line in errors} == {"batch_cancelled"}


def test_output_that_cannot_be_trusted():
    teacher = BatchTeacher(shuffle=True, duplicated=2, unknown=1, torn=1)
    teacher.left_out = lambda body: body["messages"][0]["content"] == "about w7"
    _, _, lines, errors = batch_of(teacher, rows_of(9))
    assert len(lines) == 8 + 2 + 1 and errors == []
    whole = [json.loads(line)["custom_id"] for line in lines if line.endswith("}")]
    assert len(whole) == 10 and "r7" not in whole and whole != sorted(whole)
    assert len(teacher.rows_answered) == 8 and set(teacher.rows_answered.values()) == {1}


def test_rows_that_fail_and_rows_that_expire():
    words = {"about w0": 429, "about w1": 500, "about w2": "request_timeout"}
    faults = {
        "about w3": failure(400, code="invalid_prompt"),
        "about w4": lambda answer: answer | {"choices": []},
    }
    teacher = BatchTeacher(lambda body, seen: faults.get(body["messages"][0]["content"]), expire_after=0.8)
    teacher.row_error = lambda body: words.get(body["messages"][0]["content"])
    batch, statuses, lines, errors = batch_of(teacher, rows_of(10))
    assert statuses[-1] == "expired" and len(lines) == 4
    assert json.loads(lines[0])["response"]["body"]["choices"] == []
    told = [(e["response"] or {}).get("status_code") or e["error"]["code"] for e in errors]
    assert told == [429, 500, "request_timeout", 400, "batch_expired", "batch_expired"]
    assert errors[3]["response"]["body"]["error"]["code"] == "invalid_prompt" and errors[3]["error"] is None
    assert teacher.billed_batch_completion == 4 * 12 and batch.request_counts.failed == 6


@pytest.mark.parametrize(
    "spoil, code",
    [
        (lambda rows: rows[1].update(custom_id="r0"), "duplicate_custom_id"),
        (lambda rows: rows[1]["body"].update(model="embedded-2"), "mismatched_model"),
        (lambda rows: rows[1].update(url="/v1/embeddings"), "invalid_url"),
        (lambda rows: rows[1].update(body=None), "invalid_json_line"),
        (lambda rows: rows.clear(), "empty_file"),
    ],
)
def test_validation_is_as_strict_as_the_real_one(spoil, code):
    rows = rows_of(3)
    spoil(rows)
    batch, statuses, *_ = batch_of(BatchTeacher(), rows)
    assert statuses == ["validating", "failed"] and [error.code for error in batch.errors.data] == [code]


def test_refusals_and_lost_answers():
    teacher = BatchTeacher(max_rows=3, max_open=1)
    teacher.failing = {"POST /files": [failure(500)], "POST /batches": [failure(500), failure(429)]}

    async def talk(client):
        for error in (openai.InternalServerError, openai.InternalServerError, openai.RateLimitError):
            with pytest.raises(error):
                await submit(client, rows_of(1))
        with pytest.raises(openai.BadRequestError):
            await submit(client, rows_of(4))
        with pytest.raises(openai.BadRequestError):
            await submit(client, rows_of(1), job="x" * 513)
        teacher.lost = {"POST /batches": 1}
        with pytest.raises(openai.APIConnectionError):
            await submit(client, rows_of(1), job="1")
        (first,) = (await client.batches.list()).data
        crowded, _ = await finished(client, await submit(client, rows_of(2)))
        first, _ = await finished(client, first)
        after, _ = await finished(client, await submit(client, rows_of(2)))
        teacher.fail_code = "billing_hard_limit_reached"
        refused, _ = await finished(client, await submit(client, rows_of(2)))
        return first, crowded, after, refused

    first, crowded, after, refused = run(teacher, talk)
    assert first.metadata == {"job": "1"} and [first.status, after.status] == ["completed"] * 2
    assert [batch.errors.data[0].code for batch in (crowded, refused)] == [
        "token_limit_exceeded",
        "billing_hard_limit_reached",
    ]
    assert teacher.submitted == {"r0": 4, "r1": 3} and teacher.rows_answered == {"r0": 2, "r1": 1}
