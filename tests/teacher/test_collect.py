"""Collecting from a real HTTP server: nothing lost, nothing paid twice, every failure one clear line."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.collect import run as run_collect
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import write_jsonl
from stages.core.stage import valid
from stages.teacher.identity import key_of
from stages.teacher.knobs import CollectKnobs
from stages.teacher.store.store import Store
from tests.helpers.teacher_server import (
    Reply,
    Teacher,
    completion,
    failure,
    make_requests,
    responses,
    word_of,
)

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-test-0123456789abcdef"
FIELDS = (
    "id document_id sample request_key question_key token_limit accepted outcome response usage model "
    "system_fingerprint prompt_hash"
).split()


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)


def knobs(url: str, **changes) -> CollectKnobs:
    values = {"base_url": url, "api_key_env": "TEACHER_KEY", **changes}
    return valid(CollectKnobs, values, "params.yaml, collect.d")


def collect(url: str, dataset="d", **changes) -> dict:
    return run_collect(dataset, knobs(url, **changes))[0]


def start(url: str, dataset="d", *flags: str, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "stages",
            "collect",
            dataset,
            "--base_url",
            url,
            "--api_key_env",
            "TEACHER_KEY",
            *flags,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def stored_keys() -> set[str]:
    connection = sqlite3.connect(layout.STORE, timeout=10)
    try:
        return {
            key for (key,) in connection.execute("SELECT request_key FROM attempts WHERE raw IS NOT NULL")
        }
    except sqlite3.OperationalError:  # killed before it had made its table
        return set()
    finally:
        connection.close()


def body_key(body: dict) -> str:
    params = {name: value for name, value in body.items() if name not in ("model", "messages")}
    return key_of({"model": body["model"], "messages": body["messages"], "params": params})


def ledger() -> list[tuple]:
    with sqlite3.connect(layout.STORE) as connection:
        return connection.execute("SELECT status, error, prompt_tokens FROM ledger ORDER BY id").fetchall()


def test_collect_and_again_offline_without_a_key(monkeypatch):
    requests = make_requests("d")
    teacher = Teacher()
    with teacher.running() as url:
        metrics = collect(url)
    rows = responses("d")
    assert teacher.calls == len(requests) == 20 and teacher.keys == {f"Bearer {KEY}"}
    assert [row["id"] for row in rows] == [request["id"] for request in requests]
    assert list(rows[3]) == FIELDS
    assert rows[3]["response"] == "- how to use word3\n- what word3 returns\n- word3 example"
    assert rows[3]["usage"] == {"prompt_tokens": 4, "completion_tokens": 12}
    assert metrics["accepted_share"] == 1 and metrics["outcomes"] == {"ok": 20}
    first = layout.responses("d").read_bytes()
    layout.responses("d").unlink()
    monkeypatch.delenv("TEACHER_KEY")
    assert collect(url) == metrics  # the server is gone
    assert layout.responses("d").read_bytes() == first


def test_the_same_bytes_at_any_concurrency():
    make_requests("d", 60)
    outputs = []
    for concurrency in (1, 32):
        teacher = Teacher(lambda body, seen: random.random() * 0.02)
        layout.STORE.unlink(missing_ok=True)
        layout.responses("d").unlink(missing_ok=True)
        with teacher.running() as url:
            collect(url, concurrency=concurrency)
        assert teacher.most_busy <= concurrency and (concurrency == 1 or teacher.most_busy > 8)
        outputs.append(layout.responses("d").read_bytes())
    assert outputs[0] == outputs[1]


def test_identical_requests_are_sent_once_and_only_new_ones_later():
    rows = make_requests("d")
    twins = [{**row, "id": row["id"] + "-twin"} for row in rows[:5]]
    write_jsonl(layout.requests("d"), sorted([*rows[:10], *twins], key=lambda row: row["id"]))
    teacher = Teacher()
    with teacher.running() as url:
        collect(url)
        assert teacher.calls == 10 and len(responses("d")) == 15
        by_id = {row["id"]: row for row in responses("d")}
        assert by_id["p001"]["response"] == by_id["p001-twin"]["response"]
        params = {**rows[0]["params"], "temperature": 0.9}
        changed = {**rows[0], "params": params}
        changed["request_key"] = key_of(changed)
        write_jsonl(layout.requests("d"), [changed, *reversed(rows[1:])])
        collect(url)
    assert teacher.calls == 10 + 10 + 1 and set(teacher.seen.values()) == {1}


@pytest.mark.slow
def test_killed_at_random_points_nothing_is_lost_or_fetched_twice():
    total, concurrency, kills = 500, 8, 4
    make_requests("d", total)
    teacher = Teacher(delay=0.02)
    chance = random.Random(7)
    kept: dict[str, int] = {}  # stored request -> how often it had been served when it was first seen stored

    def served() -> dict[str, int]:
        return {body_key(teacher.bodies[key]): count for key, count in dict(teacher.seen).items()}

    with teacher.running() as url:
        for _ in range(kills):
            calls = teacher.calls
            process = start(url, "d", "--concurrency", str(concurrency))
            while teacher.calls == calls:
                time.sleep(0.002)  # a kill before the first request would prove nothing
            time.sleep(chance.random() * 0.2)
            assert process.poll() is None
            process.kill()
            process.communicate()
            time.sleep(0.1)  # the server finishes with the dead client
            stored, counts = stored_keys(), served()
            assert stored >= kept.keys(), "an answer was lost"
            assert all(counts[key] == count for key, count in kept.items()), (
                "a stored answer was fetched again"
            )
            kept = {key: counts[key] for key in stored}
        assert 0 < len(kept) < total
        collect(url, concurrency=concurrency)
    assert all(served()[key] == count for key, count in kept.items())
    assert stored_keys() == served().keys() and len(responses("d")) == total
    assert all(row["outcome"] == "ok" for row in responses("d"))
    assert teacher.calls - total <= kills * concurrency  # those in flight at a kill, and no other


@pytest.mark.slow
def test_two_datasets_from_two_shells_share_one_store():
    make_requests("a", 150)
    make_requests("b", 200)  # the first 150 pages are the same: so are their requests
    teacher = Teacher(delay=0.005)
    with teacher.running() as url:
        running = [start(url, dataset) for dataset in ("a", "b")]
        assert [(p.communicate()[1], p.returncode)[1] for p in running] == [0, 0]
    assert responses("a") == responses("b")[:150] and len(responses("b")) == 200
    assert 200 <= teacher.calls <= 350


def test_transient_failures_are_retried_and_in_the_ledger():
    make_requests("d", 10)
    faults = {
        "word0": failure(429, code="rate_limit_exceeded", **{"Retry-After": "0.05"}),
        "word1": failure(500),
        "word2": "reset",
        "word3": Reply("<html>busy</html>", content_type="text/html"),
        "word4": 1.0,
        "word5": failure(503),
        "word6": Reply('{"object": "chat.completion", "choi'),
    }
    teacher = Teacher(lambda body, seen: faults.get(word_of(body)) if seen == 1 else None)
    with teacher.running() as url:
        metrics = collect(url, timeout=0.4, concurrency=4)
    assert metrics["outcomes"] == {"ok": 10} and teacher.calls == 17
    attempts = ledger()
    assert len(attempts) == 17 and sum(tokens or 0 for *_, tokens in attempts) == 40
    assert {error for _, error, _ in attempts} >= {None, "429 rate_limit_exceeded", "500", "timeout", "503"}
    assert sorted({status for status, *_ in attempts if status}) == [200, 429, 500, 503]


def test_retry_after_is_a_minimum():
    assert pacing.retry_after_s({"retry-after": "7"}) == 7
    assert pacing.retry_after_s({"retry-after-ms": "250"}) == 0.25
    assert pacing.retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert pacing.retry_after_s({"retry-after": "soon"}) is None is pacing.retry_after_s({})
    assert pacing.pause_s(0, 7) >= 7
    assert max(pacing.pause_s(n, None) for n in range(50)) <= pacing.LONGEST_PAUSE_S


OUTCOMES = {
    "word0": (completion("a b", "length"), "length", "a b"),
    "word1": (completion(None, refusal="I will not"), "refusal", "I will not"),
    "word2": (completion("a", "content_filter"), "content_filter", "a"),
    "word3": (completion("  \n"), "blank", "  \n"),
    "word4": (completion(None), "blank", None),
    "word5": (completion(None, "tool_calls", tool_calls=[{}]), "invalid", None),
    "word6": (completion([{"type": "text", "text": "x"}]), "invalid", None),
    "word7": (Reply('{"choices": []}'), "invalid", None),
    "word8": (completion("broken \ud800 pair"), "invalid", None),
    "word9": (failure(400, "bad request for \nthis one"), "error", None),
}


def test_outcomes_are_typed_kept_and_only_errors_are_asked_again(capsys):
    make_requests("d", 20)
    teacher = Teacher(lambda body, seen: OUTCOMES.get(word_of(body), (None,))[0])
    with teacher.running() as url:
        with pytest.raises(
            UserError, match=r"10 of 20 answers accepted, below min_accept 0\.8 \(ok 10, .*error 1"
        ):
            collect(url)
        assert "1 failed (400), such as" in capsys.readouterr().err
        rows = {f"word{int(row['id'][1:])}": row for row in responses("d")}
        for word, (_, outcome, text) in OUTCOMES.items():
            assert (rows[word]["outcome"], rows[word]["response"]) == (outcome, text), word
        assert rows["word9"]["usage"] is None and rows["word9"]["model"] == "embedded"
        assert teacher.calls == 20
        OUTCOMES_GONE = {**OUTCOMES, "word9": (None,)}
        teacher.fault = lambda body, seen: OUTCOMES_GONE.get(word_of(body), (None,))[0]
        assert collect(url, min_accept=0.5)["outcomes"]["ok"] == 11
    assert teacher.calls == 21


def test_no_accepted_answer_says_so_and_keeps_all():
    make_requests("d", 10)
    with Teacher(lambda body, seen: completion("", "stop")).running() as url:
        with pytest.raises(UserError, match=r"none of 10 answers accepted.*blank 10"):
            collect(url, min_accept=0.0)
    assert len(stored_keys()) == 10


@pytest.mark.parametrize(
    "fault, told",
    [
        (
            failure(401, f"Incorrect API key provided: {KEY}"),
            "answered 401: it refuses the key in TEACHER_KEY",
        ),
        (failure(403, f"Forbidden for {KEY}"), "answered 403"),
        (failure(429, "You exceeded your quota", "insufficient_quota"), "insufficient_quota"),
        (failure(404, f"no such model for {KEY}"), r"answered 404.*check base_url.*'embedded'"),
    ],
)
def test_failures_that_nothing_survives_stop_at_once(fault, told):
    make_requests("d", 60)
    teacher = Teacher(lambda body, seen: fault if teacher.calls > 20 else None)
    with teacher.running() as url, pytest.raises(UserError, match=told) as caught:
        collect(url, concurrency=4)
    assert teacher.calls <= 20 + 4 and len(stored_keys()) == 20
    assert KEY not in str(caught.value) and not layout.responses("d").exists()


def test_wrong_address():
    make_requests("d", 10)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 cannot be reached .*check base_url"):
        collect("http://127.0.0.1:9/v1")
    assert len(ledger()) <= 16
    for url in (
        "localhost:8000/v1",
        "https://user:secret@host/v1",
        "ftp://host",
        "https://host/v1?key=secret",
    ):
        with pytest.raises(UserError, match=r"collect\.d: base_url: expected") as caught:
            collect(url)
        assert "secret" not in str(caught.value)
    with Teacher().running() as url, pytest.raises(UserError, match=r"answered 404.*base_url"):
        collect(url.removesuffix("/v1"))


def test_server_that_dies_in_the_middle_keeps_what_arrived():
    make_requests("d", 60)
    teacher = Teacher(delay=0.01)
    with teacher.running() as url:
        process = start(url, "d", "--concurrency", "2", "--retries", "1")
        while teacher.calls < 12:
            time.sleep(0.005)
    error = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in error and "error: http" in error
    assert 10 <= len(stored_keys()) < 60


def test_missing_key_and_key_from_dotenv(monkeypatch):
    make_requests("d", 10)
    monkeypatch.delenv("TEACHER_KEY")
    teacher = Teacher()
    with teacher.running() as url:
        with pytest.raises(UserError, match=r"set TEACHER_KEY in the environment or in \.env"):
            collect(url)
        with pytest.raises(UserError, match="never a key itself") as caught:
            collect(url, api_key_env=KEY)
        assert KEY not in str(caught.value) and teacher.calls == 0
        Path(".env").write_text(f"TEACHER_KEY={KEY}\n")
        collect(url)
        assert teacher.keys == {f"Bearer {KEY}"}
        layout.STORE.unlink()
        layout.responses("d").unlink()
        run_collect("d", CollectKnobs(base_url=url, api_key_env=""))
    assert teacher.calls == 20


def test_the_key_is_in_no_file_log_or_error():
    make_requests("d", 30)
    faults = [failure(500, f"key {KEY}"), failure(400, f"key {KEY}"), Reply(KEY), None]
    teacher = Teacher(lambda body, seen: faults[int(word_of(body)[4:]) % 4])
    with teacher.running() as url:
        process = start(url, "d", "--retries", "1", "--min_accept", "0.1")
        _, told = process.communicate()
    assert process.returncode == 0, told
    assert "key ***" in told and KEY not in told
    raw_echo = "not a completion"  # a body is kept as it came: the store is as secret as the server makes it
    assert raw_echo in told
    files = [path for path in Path.cwd().rglob("*") if path.is_file() and "store.sqlite" not in path.name]
    assert len(files) > 5 and not [path for path in files if KEY.encode() in path.read_bytes()]
    with sqlite3.connect(layout.STORE) as connection:
        held = connection.execute("SELECT request_key, source, error FROM attempts").fetchall()
    assert KEY not in json.dumps(held)


def test_ctrl_c_keeps_what_arrived():
    make_requests("d", 300)
    teacher = Teacher(delay=0.05)
    with teacher.running() as url:
        process = start(url, "d", "--concurrency", "4")
        while teacher.calls < 12:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
        calls = teacher.calls
    assert process.returncode == 130 and "the same command goes on" in error and "Traceback" not in error
    assert len(stored_keys()) == calls < 60  # all that was sent was waited for


def test_second_ctrl_c_does_not_wait():
    make_requests("d", 10)
    teacher = Teacher(delay=2)
    with teacher.running() as url:
        process = start(url)
        while teacher.calls < 8:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=10)[1]
    assert process.returncode == 130 and "Traceback" not in error


def test_bad_requests_files():
    rows = make_requests("d", 10)
    write_jsonl(layout.requests("d"), [*rows, rows[0]])
    with pytest.raises(UserError, match=r"requests\.jsonl, row 11: id 'p000' was used before"):
        collect("embedded")
    write_jsonl(layout.requests("d"), [{**rows[0], "params": {"temperature": 0.1}}])
    with pytest.raises(UserError, match=r"requests\.jsonl, row 1: request_key does not belong"):
        collect("embedded")
    write_jsonl(layout.requests("d"), [])
    with pytest.raises(UserError, match=r"no requests"):
        collect("embedded")


def test_answers_come_back_from_responses_when_the_store_is_gone(monkeypatch):
    make_requests("d", 20)
    with Teacher(lambda body, seen: OUTCOMES.get(word_of(body), (None,))[0]).running() as url:
        with pytest.raises(UserError):
            collect(url)
    before = layout.responses("d").read_bytes()
    for file in layout.STORE.parent.iterdir():
        file.unlink()
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(UserError, match="TEACHER_KEY"):  # the one row that failed is asked for again
        collect("http://127.0.0.1:9/v1")
    rows = [row for row in (json.loads(line) for line in before.splitlines()) if row["outcome"] != "error"]
    with Store(layout.STORE) as store:
        for row in rows:
            answer = store.answers({**row, "params": {}})[0][0]
            assert [answer.outcome, answer.response, answer.usage] == [
                row["outcome"],
                row["response"],
                row["usage"],
            ]
    assert ledger() == []  # what was imported was not paid for here
