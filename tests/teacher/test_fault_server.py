"""The server that the collector is proved against: its faults, limits and bills are what they say."""

import asyncio
import json
import time

import aiohttp
import pytest

from tests.helpers.rate_limits import Limits, duration, most_in_window
from tests.helpers.replies import failure
from tests.helpers.teacher_server import Teacher, completion


def body_of(word: str, **params) -> dict:
    return {"model": "embedded", "messages": [{"role": "user", "content": f"about {word}"}], **params}


async def post(url: str, body: dict, **headers) -> tuple[int, dict, bytes]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        return response.status, response.headers, await response.read()


def chat(teacher: Teacher, *bodies: dict) -> list:
    """Asked all at once."""

    async def main(url: str) -> list:
        calls = (post(f"{url}/chat/completions", body) for body in bodies)
        return await asyncio.gather(*calls, return_exceptions=True)

    with teacher.running() as url:
        return asyncio.run(main(url))


@pytest.mark.parametrize("fault", ["reset", "reset mid-body", "close mid-body"])
def test_a_broken_connection_is_an_error_and_a_computed_answer_is_billed(fault):
    teacher = Teacher(lambda body, seen: fault)
    (error,) = chat(teacher, body_of("a"))
    assert isinstance(error, aiohttp.ClientError) and teacher.calls == 1
    assert (teacher.billed_prompt > 0) == (fault != "reset")


def test_a_truncated_answer_is_well_formed_http():
    ((status, headers, content),) = chat(Teacher(lambda body, seen: "truncated"), body_of("a"))
    assert status == 200 and len(content) == int(headers["Content-Length"])
    with pytest.raises(ValueError):
        json.loads(content)


def test_a_drip_outlasts_any_timeout_per_read():
    teacher = Teacher(lambda body, seen: ("drip", 0.004))
    with teacher.running() as url:

        async def main(total: float | None):
            began, timeout = time.monotonic(), aiohttp.ClientTimeout(total=total, sock_read=0.1)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(f"{url}/chat/completions", json=body_of("a")) as response,
            ):
                return await response.json(), time.monotonic() - began

        answer, took = asyncio.run(main(None))
        assert answer["choices"][0]["message"]["content"].endswith("a example") and took > 0.15
        with pytest.raises(TimeoutError):
            asyncio.run(main(0.1))
    assert teacher.billed_prompt == 4


def test_an_answer_changed_on_its_way_out_costs_what_was_computed():
    def without_usage(answer: dict) -> dict:
        answer["choices"] = []
        return {name: value for name, value in answer.items() if name != "usage"}

    teacher = Teacher(lambda body, seen: {1: without_usage, 2: completion("x"), 3: failure(500)}.get(seen))
    sent = [chat(teacher, body_of("a"))[0][2] for _ in range(4)]
    assert json.loads(sent[0])["choices"] == [] and "usage" not in json.loads(sent[0])
    assert list(teacher.billed.values()) == [3]
    assert (teacher.billed_prompt, teacher.billed_completion) == (2 + 3 + 2, 12 + 2 + 12)
    assert teacher.billed_dollars(1e6, 2e6) == 7 + 2 * 26


def test_clients_that_have_gone_are_billed():
    teacher = Teacher(delay=0.3)

    async def main(url: str) -> None:
        async with asyncio.timeout(0.1):
            await post(f"{url}/chat/completions", body_of("a"))

    with teacher.running() as url, pytest.raises(TimeoutError):
        asyncio.run(main(url))
    assert teacher.billed_completion == 12


def test_limits_refuse_what_is_over_and_nothing_else():
    teacher = Teacher(limits=Limits(rpm=50, window=10, burst=5))
    answers = chat(teacher, *[body_of(f"w{i}") for i in range(12)])
    refused = [headers for status, headers, _ in answers if status == 429]
    assert 5 <= len(refused) == teacher.over_limit <= 7 and teacher.calls == 12 - len(refused)
    assert teacher.most_requests(10) == len(teacher.arrivals) == 12
    assert all(0 < int(headers["retry-after-ms"]) <= 200 for headers in refused)
    assert {headers["Retry-After"] for headers in refused} == {"1"}
    assert {headers["x-ratelimit-limit-requests"] for _, headers, _ in answers} == {"50"}
    assert {headers["x-ratelimit-remaining-requests"] for headers in refused} == {"0"}
    resets = {headers["x-ratelimit-reset-requests"] for headers in refused}
    assert resets <= {"1s", *(f"{n}ms" for n in range(800, 1000))}
    ids = sorted(headers["x-request-id"] for _, headers, _ in answers)
    assert ids == [f"req_{n:06}" for n in range(1, 13)]

    async def paced(url: str) -> None:
        for i in range(10):
            began = time.monotonic()
            await post(f"{url}/chat/completions", body_of(f"x{i}"))
            await asyncio.sleep(0.022 - (time.monotonic() - began))

    teacher = Teacher(limits=Limits(rpm=50, window=1.0, burst=2))
    with teacher.running() as url:
        asyncio.run(paced(url))
    assert teacher.over_limit == 0 and teacher.calls == 10


def test_tokens_are_the_words_and_all_that_may_be_answered():
    teacher = Teacher(limits=Limits(tpm=100, window=60, token_burst=50, tell=False))
    wanted = body_of("a", max_tokens=18)
    for params, expected in (({}, 200), ({"temperature": 1}, 200), ({"temperature": 2}, 429)):
        ((status, headers, content),) = chat(teacher, {**wanted, **params})
        assert status == expected
    assert teacher.arrived_tokens == [20, 20, 20] and teacher.most_tokens(60) == 60
    assert json.loads(content)["error"]["code"] == "rate_limit_exceeded"
    assert "Retry-After" not in headers and "retry-after-ms" not in headers
    assert headers["x-ratelimit-limit-tokens"] == "100" and headers["x-ratelimit-remaining-tokens"] == "10"
    assert headers["x-ratelimit-reset-tokens"].startswith(("23.", "24s"))
    debt = Teacher(limits=Limits(tpm=100, window=60, token_burst=10))
    assert [chat(debt, {**wanted, "n": n})[0][0] for n in (9, 1)] == [429, 200]
    assert [chat(debt, wanted)[0][0]] == [429]


def test_durations_and_windows():
    shown = [duration(seconds) for seconds in (0, 0.012, 1.5, 60, 372.25, 3600)]
    assert shown == ["0s", "12ms", "1.5s", "1m0s", "6m12.25s", "1h0m0s"]
    assert most_in_window([0, 1, 2, 2.5, 9], 2) == 3
    assert most_in_window([0, 1, 2, 2.5, 9], 1, [9, 1, 1, 1, 1]) == 9
