"""What a server's reply means: errors in a 200, refusals of every request, no reply, endless bodies."""

import gzip
import json
import socket
from pathlib import Path

import pytest
from aiohttp import web

from stages.collect import collect
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.teacher import endpoint
from stages.teacher.endpoint import error_in
from stages.teacher.knobs import CollectKnobs
from stages.teacher.store.store import Store
from tests.helpers.teacher_server import Reply, Teacher, completion, failure, make_requests, word_of

PRICES = 'prices: {version: "1", models: {embedded: {input: 1000, output: 4000}}}\n'


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    Path("params.yaml").write_text(PRICES)


def run(url: str, **knobs) -> tuple[dict, dict]:
    return collect("d", CollectKnobs(base_url=url, api_key_env="", **knobs))


def ledger(columns: str) -> set[tuple]:
    with Store(layout.STORE) as store:
        return set(store.reader.execute(f"SELECT {columns} FROM ledger"))


# Errors in a 200

ERRORS = [
    ({"error": {"message": "Rate limit exceeded", "code": 429}}, 429),
    ({"error": {"message": "slow down", "code": "429"}}, 429),
    ({"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}, 429),
    ({"error": {"message": "quota", "status": "RESOURCE_EXHAUSTED"}}, 429),
    ([{"error": {"code": 429, "message": "slow down"}}], 429),
    ({"error": "Too many requests", "choices": []}, 429),
    ({"object": "error", "message": "slow down", "type": "RateLimitError", "code": None}, 429),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 503),
    ({"error": {"message": "The engine is currently overloaded"}, "choices": None}, 503),
    ({"error": {"message": "no", "code": 502}}, 502),
    ({"error": {"message": "no", "type": "server_error"}}, 500),
    ({"error": {"message": "no", "type": "invalid_request_error"}}, 400),
    ({"error": {"message": "no", "code": "invalid_api_key"}}, 401),
]
NO_ERRORS = [
    json.loads(completion("the rate limit").body),
    {**json.loads(completion("a b").body), "error": {"code": 429}},
    {"error": None},
    {"error": {"code": 200}},
    {"error": {"code": True, "type": {}, "status": [5], "message": [[429]]}},
    [],
    "overloaded",
]


@pytest.mark.parametrize("body, status", [*ERRORS, *((body, None) for body in NO_ERRORS)], ids=str)
def test_an_error_tells_its_status(body, status):
    assert error_in(json.dumps(body)).status == status


@pytest.mark.parametrize("body", [body for body, status in ERRORS if status == 429], ids=str)
def test_a_429_inside_a_200_is_one(body):
    make_requests("d", 20)
    teacher = Teacher(lambda sent, seen: Reply(json.dumps(body)) if seen < 3 else None)
    with teacher.running() as url:
        metrics, figures = run(url, retries=0, max_dollars=30)
    assert metrics["outcomes"] == {"ok": 20} and figures["refused"] == 40
    assert ledger("status, dollars > 0") == {(429, 0), (200, 1)}


@pytest.mark.parametrize("body", [body for body, status in ERRORS if status in (500, 502, 503)], ids=str)
def test_a_5xx_inside_a_200_is_free_and_uses_a_retry(body):
    make_requests("d", 10)
    teacher = Teacher(lambda sent, seen: Reply(json.dumps(body)) if word_of(sent) == "word1" else None)
    with teacher.running() as url:
        metrics, _ = run(url, retries=1)
    assert metrics["outcomes"] == {"ok": 9, "error": 1} and teacher.calls == 9 + 2
    assert {dollars for status, dollars in ledger("status, dollars") if status != 200} == {0.0}


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize(
    "named",
    [
        {"code": "insufficient_quota"},
        {"code": 429, "type": "insufficient_quota"},
        {"code": "billing_hard_limit_reached"},
        {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."},
        {"code": "insufficient_user_quota"},
    ],
    ids=str,
)
def test_no_funds_are_no_want_of_capacity(status, named):
    make_requests("d", 20)
    teacher = Teacher(lambda sent, seen: Reply(json.dumps({"error": {"message": "no", **named}}), status))
    with teacher.running() as url, pytest.raises(UserError, match="no funds"):
        run(url)
    assert teacher.calls < 20


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "error",
    [
        {
            "code": 400,
            "message": "API key not valid. Please pass a valid API key.",
            "status": "INVALID_ARGUMENT",
        },
        {"code": 400, "message": "API key expired. Please renew the API key.", "status": "INVALID_ARGUMENT"},
        {"code": "invalid_api_key", "message": "no"},
    ],
    ids=str,
)
def test_a_key_that_is_refused_with_400_stops_a_run_that_was_answered(status, error):
    make_requests("d", 60)
    refused = Reply(json.dumps({"error": error}), status)
    teacher = Teacher(lambda sent, seen: refused if teacher.calls > 20 else None)
    with teacher.running() as url, pytest.raises(UserError, match="it refuses"):
        run(url, concurrency=4)
    assert teacher.calls < 30


def test_a_rate_limit_that_speaks_of_billing_is_one():
    words = "Rate limit reached. Add a payment method at https://platform.openai.com/account/billing."
    make_requests("d", 10)
    no = failure(429, words, "rate_limit_exceeded")
    with Teacher(lambda sent, seen: no if seen < 2 else None).running() as url:
        assert run(url)[0]["outcomes"] == {"ok": 10}


# The same refusal for all


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(
    "words",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model",
        'Request req_{n:08x} refused: "{word}" has {n} tokens',
        "no (trace 5f3a{n}-beef-4c{n:02}, id={n})",
    ],
)
def test_what_is_wrong_with_every_request_stops_the_run(status, words):
    make_requests("d", 100)

    def refuse(body, seen):
        word = word_of(body)
        return failure(status, words.format(word=word, n=int(word[4:])), "bad")

    teacher = Teacher(refuse)
    reason = words.partition(" ")[0]
    with teacher.running() as url, pytest.raises(UserError, match=f"answered {status}: {reason}"):
        run(url, breaker=5)
    assert teacher.calls < 20


@pytest.mark.parametrize("answered", ["before", "in this run"])
def test_what_is_wrong_with_some_requests_stops_nothing(answered):
    make_requests("d", 30)
    late = {f"word{n}" for n in range(5, 30)}
    teacher = Teacher(lambda body, seen: failure(400, "too long") if word_of(body) in late else None)
    with teacher.running() as url:
        for _ in range(2 if answered == "before" else 1):
            metrics, _ = run(url, breaker=5, min_accept=0, concurrency=1)
    assert metrics["outcomes"] == {"ok": 5, "error": 25}


def test_different_refusals_stop_nothing():
    make_requests("d", 30)
    tones = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    teacher = Teacher(lambda body, seen: failure(400, tones[int(word_of(body)[4:]) % 10]))
    with teacher.running() as url, pytest.raises(UserError, match="none of 30 answers accepted"):
        run(url, breaker=5)
    assert teacher.calls == 30


# A server that is down


def test_requests_that_were_never_sent_cost_nothing(monkeypatch):
    monkeypatch.setattr(pacing, "LONGEST_PROBE_S", 0.01)
    make_requests("d", 60)
    teacher, bill = Teacher(), "status, error, dollars"
    with teacher.running() as url:
        teacher.fault = lambda body, seen: teacher.stop.set() if teacher.calls > 10 else None
        with pytest.raises(UserError, match=r"cannot be reached .*\(3 requests failed in a row"):
            run(url, breaker=6, max_dollars=100, rpm=3000, concurrency=8)
    refused = [row for row in ledger(f"id, {bill}") if row[2] == "no connection"]
    assert 3 <= len(refused) < 15 and {row[3] for row in refused} == {0.0}


def test_the_message_of_a_cap_tells_attempts_of_unknown_cost():
    make_requests("d", 30)
    teacher = Teacher(lambda body, seen: "reset mid-body" if seen == 1 else None)
    told = r"\$0 is spent, \$4\.\d+ held for 4 attempts of unknown cost and runs that go on or were killed"
    with teacher.running() as url, pytest.raises(UserError, match=told):
        run(url, max_dollars=5, concurrency=4)


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"])
def test_an_address_that_cannot_be_reached_stops_at_once_and_costs_nothing(address):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        make_requests("d", 30)
        with pytest.raises(UserError, match="cannot be reached"):
            run(address.format(port=free.getsockname()[1]), max_dollars=100)
    assert ledger("status, error, dollars") == {(None, "no connection", 0.0)}


# Bodies


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("status", [200, 500])
def test_a_body_is_read_up_to_a_limit(status, compressed, monkeypatch):
    monkeypatch.setattr(endpoint, "MOST_BYTES", 100_000)
    make_requests("d", 10)
    body = completion("a" * 200_000).body.encode()
    headers = {"Content-Encoding": "gzip"} if compressed else {}
    long = Raw(gzip.compress(body) if compressed else body, status, headers=headers)
    teacher = Teacher(lambda sent, seen: long if word_of(sent) == "word1" else None)
    with teacher.running() as url:
        metrics, _ = run(url, retries=1)
    assert metrics["outcomes"] == {"ok": 9, "error": 1}
    kind = "error: too large" if status == 200 else "error: 500"
    assert read_json(layout.figures("d") / "failures.json")[kind]["count"] == 1
    with Store(layout.STORE) as store:
        longest = store.reader.execute("SELECT max(length(raw)) FROM attempts").fetchone()[0]
    assert longest < 1000


class Raw(Reply):
    """A reply whose body is bytes."""

    def response(self):
        return web.Response(body=self.body, status=self.status, headers=self.headers)
