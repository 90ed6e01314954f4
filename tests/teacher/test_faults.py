"""The collector against a faulty server: outcomes and policies, storms, rates, caps, other forms."""

import errno
import json
import os
import pty
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from stages.collect import collect, reparse
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_jsonl
from stages.teacher import client
from stages.teacher.identity import key_of, with_limit
from stages.teacher.knobs import CollectKnobs
from stages.teacher.money import Budget
from stages.teacher.store import store
from stages.teacher.store.store import Store, insert_attempts
from tests.helpers.rate_limits import Limits
from tests.helpers.teacher_server import (
    Reply,
    Teacher,
    completion,
    failure,
    make_requests,
    responses,
    word_of,
)
from tests.teacher.test_collect import KEY, start

ROOT = Path(__file__).resolve().parents[2]
PRICES = (
    'prices: {version: "2026-01-01", models: {embedded: {input: 1000, output: 5000, cached_input: 100}}}\n'
)


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)


def run(url: str, dataset="d", **knobs) -> tuple[dict, dict]:
    knobs = {"base_url": url, "api_key_env": "TEACHER_KEY", **knobs}
    return collect(dataset, CollectKnobs(**knobs))


def rewrite(change, dataset="d") -> None:
    """Change the rows of requests.jsonl, keys included."""
    rows = [change(dict(row)) for row in read_jsonl(layout.requests(dataset))]
    write_jsonl(layout.requests(dataset), [{**row, "request_key": key_of(row)} for row in rows])


def priced() -> None:
    Path("params.yaml").write_text(PRICES)


def ledger(columns: str) -> list[tuple]:
    with sqlite3.connect(layout.STORE) as connection:
        return connection.execute(f"SELECT {columns} FROM ledger ORDER BY id").fetchall()


def by_word(dataset="d") -> dict[str, dict]:
    return {f"word{int(row['id'][1:4])}": row for row in responses(dataset)}


# 2. Nothing is lost to a parser, and parsing again is free


def test_a_parser_that_raises_on_every_row_loses_nothing(monkeypatch):
    make_requests("d", 20)

    def broken(raw, request):
        raise RuntimeError("a bug")

    teacher = Teacher()
    with teacher.running() as url:
        with monkeypatch.context() as patch:
            patch.setattr(client, "read_answers", broken)
            with pytest.raises(RuntimeError, match="a bug"):
                run(url, concurrency=8)
        paid = teacher.calls
        assert 0 < paid <= 8 and len(ledger("id")) == paid
        run(url)
    assert teacher.calls == 20 and set(teacher.seen.values()) == {1}


def test_a_disk_that_is_full_for_a_moment_loses_nothing(monkeypatch):
    make_requests("d", 30)
    append, failures = Store.append, iter([OSError(errno.ENOSPC, "disk full")])

    def full_once(self, attempts, requests=()):
        if error := next(failures, None):
            raise error
        append(self, attempts, requests)

    monkeypatch.setattr(Store, "append", full_once)
    teacher = Teacher(delay=0.01)
    with teacher.running() as url:
        with pytest.raises(OSError, match="disk full"):
            run(url)
        assert 0 < teacher.calls < 30 and len(ledger("id")) == teacher.calls
        run(url)
    assert teacher.calls == 30


def slow_insert(writer, attempts, insert=insert_attempts):
    insert(writer, attempts)
    time.sleep(0.3)  # the transaction is open


def test_a_second_ctrl_c_while_answers_are_being_saved_loses_none(monkeypatch):
    make_requests("d", 30)
    teacher = Teacher()
    with teacher.running() as url, monkeypatch.context() as patch:
        patch.setattr(store, "insert_attempts", slow_insert)
        for delay in (0.4, 0.6):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            run(url)
        answered = teacher.calls
    statuses = [status for (status,) in ledger("status")]
    assert len(statuses) == answered and statuses.count(200) >= 8


def test_what_breaks_the_dispatcher_waits_for_what_is_in_flight(monkeypatch):
    make_requests("d", 30)
    priced()
    reserve, calls = Budget.reserve, iter(range(1000))

    def broken(budget, dollars):
        if next(calls) == 6:
            raise OSError(errno.ENOSPC, "disk full")
        return reserve(budget, dollars)

    monkeypatch.setattr(Budget, "reserve", broken)
    teacher = Teacher(delay=0.2)
    with teacher.running() as url, pytest.raises(OSError, match="disk full"):
        run(url)
    assert teacher.calls == 6 and ledger("status") == [(200,)] * 6


def test_reparse_makes_the_outputs_again_without_a_call(monkeypatch, capsys):
    make_requests("d", 20)
    Path("params.yaml").write_text("collect:\n  d: {base_url: 'http://127.0.0.1:9/v1', min_accept: 0.5}\n")
    with Teacher(lambda body, seen: completion("") if word_of(body) == "word3" else None).running() as url:
        run(url)
    before = layout.responses("d").read_bytes()
    layout.responses("d").unlink()
    monkeypatch.delenv("TEACHER_KEY")
    reparse("d", {})
    assert layout.responses("d").read_bytes() == before
    layout.responses("d").unlink()
    reparse(None, {})
    assert layout.responses("d").read_bytes() == before
    assert "blank 1" in capsys.readouterr().err
    layout.responses("d").unlink()
    for dataset in (["d"], []):
        command = [sys.executable, "-m", "stages", "collect", *dataset, "--reparse"]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        assert subprocess.run(command, env=variables, capture_output=True).returncode == 0
        assert layout.responses("d").read_bytes() == before
    assert read_json(layout.figures("d") / "collect.json")["outcomes"] == {"ok": 19, "blank": 1}
    with pytest.raises(UserError, match="there is no dataset 'e'"):
        reparse("e", {})
    with pytest.raises(UserError, match="20 answers accepted, below min_accept 1"):
        reparse("d", {"min_accept": "1"})


# 3. and 4. Only what changed is sent


def test_ten_more_rows_shuffled_and_one_edited():
    rows = make_requests("d", 40)
    write_jsonl(layout.requests("d"), rows[:30])
    teacher = Teacher()
    with teacher.running() as url:
        run(url)
        edited = {**rows[3], "params": {**rows[3]["params"], "temperature": 0.1}}
        mixed = [*rows[:3], {**edited, "request_key": key_of(edited)}, *rows[4:]]
        random.Random(1).shuffle(mixed)
        write_jsonl(layout.requests("d"), mixed)
        run(url)
    assert teacher.calls == 30 + 10 + 1 and set(teacher.seen.values()) == {1}
    assert [row["id"] for row in responses("d")] == [row["id"] for row in rows]


def test_a_larger_limit_is_asked_for_what_was_cut_only():
    make_requests("d", 20)
    rewrite(lambda row: with_limit(row, 8))
    teacher = Teacher(lambda body, seen: None if int(word_of(body)[4:]) < 5 else completion("- short one"))
    with teacher.running() as url:
        metrics, _ = run(url, min_accept=0)
        assert metrics["outcomes"] == {"ok": 15, "length": 5} and teacher.calls == 20
        rewrite(lambda row: with_limit(row, 300))
        metrics, _ = run(url)
        assert metrics["outcomes"] == {"ok": 20} and teacher.calls == 25
        rewrite(
            lambda row: with_limit(row, 11)
        )  # these wrote 12 words: the smaller limit would have cut them
        run(url, min_accept=0)
    assert teacher.calls == 30 and Counter(teacher.seen.values()) == {1: 30}


def test_a_cut_answer_is_retried_with_a_larger_limit_in_the_same_run():
    make_requests("d", 20)
    rewrite(lambda row: with_limit(row, 8))
    teacher = Teacher(lambda body, seen: None if int(word_of(body)[4:]) < 5 else completion("- short one"))
    with teacher.running() as url:
        metrics, figures = run(url, on_length="retry", retry_max_tokens=100)
        assert metrics["outcomes"] == {"ok": 20} and figures["attempts"] == teacher.calls == 25
        assert sorted(Counter(body["max_tokens"] for body in teacher.bodies.values()).items()) == [
            (8, 20),
            (100, 5),
        ]
        before = layout.responses("d").read_bytes()
        run(url, on_length="retry", retry_max_tokens=100)
        assert teacher.calls == 25 and layout.responses("d").read_bytes() == before
        for file in layout.STORE.parent.iterdir():
            file.unlink()
        run(url, on_length="retry", retry_max_tokens=100)  # taken over from the output, which has all
    assert teacher.calls == 25 and layout.responses("d").read_bytes() == before


# 5. Storms and rates


@pytest.mark.slow
def test_a_storm_is_weathered_within_the_limits_of_the_server(monkeypatch):
    monkeypatch.setattr("stages.core.pacing.LONGEST_PAUSE_S", 1)  # some meet one fault after another
    total = 300
    make_requests("d", total)
    chance = random.Random(3)
    faults = [failure(429, code="rate_limit_exceeded", **{"Retry-After": "0.2"})] * 30
    faults += [failure(429, code="rate_limit_exceeded")] * 10
    faults += [failure(500), failure(502), failure(503)] * 2 + [
        "reset",
        "reset mid-body",
        "close mid-body",
    ] * 2
    faults += ["truncated", Reply("<html>busy</html>", content_type="text/html"), 3.0, ("drip", 0.2)]
    faults += [None] * (100 - len(faults))
    limits = Limits(rpm=6000, window=60, burst=50)
    teacher = Teacher(lambda body, seen: chance.choice(faults), delay=0.01, limits=limits)
    with teacher.running() as url:
        metrics, figures = run(url, timeout=0.5, rpm=6000, retries=10)
    assert metrics["outcomes"] == {"ok": total} and teacher.over_limit == 0
    assert figures["refused"] > 50 and teacher.calls == figures["attempts"]
    assert teacher.most_requests(1.0) <= 100 + 50
    with sqlite3.connect(layout.STORE) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone()[0] == teacher.calls


def test_refusals_use_up_no_retries():
    make_requests("d", 10)
    teacher = Teacher(lambda body, seen: failure(429, **{"Retry-After": "0.01"}) if seen < 8 else None)
    with teacher.running() as url:
        metrics, figures = run(url, retries=0)
    assert metrics["outcomes"] == {"ok": 10} and figures["refused"] == 70


@pytest.mark.parametrize(
    "reply, told",
    [
        (failure(429, "slow down", "rate_limit_exceeded"), "answered 429: .*nothing but refusals for"),
        (failure(429, "a day", **{"Retry-After": "86400"}), "it asks to wait for 86400 s"),
        (failure(500, "broken"), r"answered 500: .*\(4 requests failed in a row"),
        (failure(503, "busy"), r"answered 503: .*\(4 requests failed in a row"),
        ("reset", r"\(4 requests failed in a row"),
        (1.0, r"no whole answer within 0\.2 s \(4 requests failed in a row"),
    ],
)
def test_the_breaker_opens(reply, told, monkeypatch):
    monkeypatch.setattr("stages.core.pacing.LONGEST_PROBE_S", 0.05)
    make_requests("d", 200)
    teacher = Teacher(lambda body, seen: reply if teacher.calls > 20 else None)
    with teacher.running() as url, pytest.raises(UserError, match=told):
        run(url, concurrency=4, breaker=4, patience=1, timeout=0.2)
    assert 20 <= len([1 for (status,) in ledger("status") if status == 200]) < 60
    assert not layout.responses("d").exists()


def test_a_few_requests_that_always_fail_do_not_open_the_breaker():
    make_requests("d", 200)
    bad = {f"word{n}" for n in range(0, 200, 20)}
    teacher = Teacher(lambda body, seen: failure(500) if word_of(body) in bad else None)
    with teacher.running() as url:
        metrics, _ = run(url, breaker=4, retries=2)
    assert metrics["outcomes"] == {"ok": 190, "error": 10} and teacher.calls == 190 + 30
    report = read_json(layout.figures("d") / "failures.json")
    assert report["error: 500"]["count"] == 10 and len(report["error: 500"]["examples"]) == 3
    assert report["error: 500"]["examples"][0]["id"].startswith("p") and report["error"]["count"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("told", ["knobs", "headers"])
def test_rates_are_kept(told):
    """1,200 requests a minute: by our own pace, or by what the server says is left."""
    make_requests("d", 60)
    limits = Limits(rpm=1200, burst=20)
    teacher = Teacher(delay=0.01, limits=limits)
    began = time.monotonic()
    with teacher.running() as url:
        _, figures = run(url, rpm=1200 if told == "knobs" else 0)
    assert teacher.over_limit <= (0 if told == "knobs" else 8)
    assert time.monotonic() - began < 8 and figures["attempts"] == 60 + teacher.over_limit


@pytest.mark.slow
def test_tokens_per_minute_are_kept():
    make_requests("d", 40)
    cost = 260  # 256 tokens of answer at most, and the words of the page
    teacher = Teacher(delay=0.01, limits=Limits(tpm=cost * 600, token_burst=cost * 4))
    with teacher.running() as url:
        _, figures = run(url, tpm=cost * 600)
    assert teacher.over_limit == 0 and figures["attempts"] == 40


# 6. Money


def test_the_ledger_has_tokens_and_dollars_of_every_attempt():
    make_requests("d", 10)
    priced()
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 50},
    }
    body = json.loads(completion("a b c").body)
    faults = {
        "word0": Reply(json.dumps({**body, "usage": usage})),
        "word1": failure(500),
        "word2": Reply(json.dumps({**body, "usage": None})),
        "word3": 1.0,
    }
    teacher = Teacher(lambda body, seen: faults.get(word_of(body)) if seen == 1 else None)
    with teacher.running() as url:
        metrics, figures = run(url, timeout=0.4)
    tokens = "prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens"
    rows = ledger(f"status, error, {tokens}, dollars, price_version")
    assert (200, None, 1000, 400, 200, 50, (600 * 1000 + 400 * 100 + 200 * 5000) / 1e6, "2026-01-01") in rows
    assert (500, "500", None, None, None, None, 0.0, "2026-01-01") in rows
    assert (None, "timeout", None, None, None, None, None, "2026-01-01") in rows  # nobody knows
    assert (200, None, None, None, None, None, None, "2026-01-01") in rows
    known = sum(row[6] or 0 for row in rows)
    assert metrics["dollars"] == pytest.approx(known) and metrics["reasoning_tokens"] == 50
    worst = 2 * ((len("Write queries.About word2") + 48) * 1000 + 256 * 5000) / 1e6
    assert figures["dollars"] == pytest.approx(known + worst)  # counted in full where nobody knows
    assert figures["dollars_ever"] == pytest.approx(known)


def test_without_a_price_dollars_are_unknown_and_a_cap_is_refused():
    make_requests("d", 10)
    with Teacher().running() as url:
        metrics, figures = run(url)
        assert metrics["dollars"] is None is figures["dollars_ever"]
        assert {row[0] for row in ledger("dollars")} == {None}
        with pytest.raises(UserError, match=r"max_dollars needs the price of 'embedded'"):
            run(url, max_dollars=1)


def test_a_cap_is_refused_where_any_request_has_no_limit():
    make_requests("d", 10)
    priced()
    unlimited = {"temperature": 0.7}
    rewrite(lambda row: row if word_of(row) != "word7" else {**row, "params": unlimited})
    teacher = Teacher()
    with teacher.running() as url, pytest.raises(UserError, match="requests that limit their tokens"):
        run(url, max_dollars=1)
    assert teacher.calls == 0


@pytest.mark.slow
def test_the_cap_holds_under_concurrency_faults_kills_and_resumes():
    make_requests("d", 400)
    rewrite(lambda row: with_limit(row, 20))
    priced()
    cap, chance = 24.0, random.Random(5)
    faults = [failure(429), failure(500), "reset mid-body", 0.6, *[None] * 12]
    teacher = Teacher(lambda body, seen: chance.choice(faults), delay=0.02)
    flags = ("--max_dollars", str(cap), "--timeout", "0.4", "--concurrency", "16", "--retries", "20")
    with teacher.running() as url:
        for _ in range(4):
            process, calls = start(url, "d", *flags), teacher.calls
            while teacher.calls < calls + 10 and process.poll() is None:
                time.sleep(0.002)
            assert process.poll() is None
            process.kill()
            process.communicate()
            assert teacher.billed_dollars(1000, 5000) <= cap
        with pytest.raises(UserError, match=r"the cap of \$24 leaves no room for another request"):
            run(url, max_dollars=cap, timeout=0.4, concurrency=16, retries=20)
        spent, calls = teacher.billed_dollars(1000, 5000), teacher.calls
        assert 0.2 * cap < spent <= cap
        with pytest.raises(UserError, match="the cap"):
            run(url, max_dollars=cap)
        assert teacher.calls == calls  # not one more
        teacher.fault = None
        metrics, figures = run(url, max_dollars=1000)
    assert metrics["outcomes"] == {"ok": 400} and figures["dollars_ever"] > spent


def test_the_cap_is_spent_nearly_whole_where_nothing_is_lost():
    make_requests("d", 400)
    priced()
    teacher = Teacher()
    with teacher.running() as url, pytest.raises(UserError, match="the cap"):
        run(url, max_dollars=5, concurrency=32)
    worst = (len("Write queries.About word111") + 48) * 1000 / 1e6 + 256 * 5000 / 1e6
    assert 5 - worst <= teacher.billed_dollars(1000, 5000) <= 5


# 7. Outcomes and policies


def test_an_answer_dearer_than_its_worst_case_counts_in_full():
    """A server may bill reasoning that no limit of ours bounds."""
    make_requests("d", 30)
    rewrite(lambda row: with_limit(row, 20))
    priced()
    body = json.loads(completion("a b").body)
    dear = json.dumps({**body, "usage": {"prompt_tokens": 10, "completion_tokens": 200}})  # $1.01 each
    teacher = Teacher(lambda body, seen: Reply(dear))
    with teacher.running() as url:
        for _ in range(2):
            with pytest.raises(UserError, match="the cap"):
                run(url, max_dollars=5, concurrency=1)
    assert teacher.billed_dollars(1000, 5000) <= 5 + 1.01


def test_a_cap_in_params_is_not_lost_by_hand():
    make_requests("d", 10)
    Path("params.yaml").write_text(PRICES + "collect:\n  d: {max_dollars: 3}\n")
    with Teacher().running() as url:
        command = [sys.executable, "-m", "stages", "collect", "d", "--base_url", url, "--api_key_env", ""]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"}
        for more, code in (([], 2), (["--max_dollars", "3"], 0)):
            process = subprocess.run([*command, *more], env=variables, capture_output=True, text=True)
            assert process.returncode == code, process.stderr
            assert code == 0 or "caps d at $3: run `dvc repro collect@d`, or give" in process.stderr


def test_bodies_that_answer_nothing_are_retried_and_given_up():
    make_requests("d", 10)
    html = Reply("<html>", content_type="text/html")
    teacher = Teacher(lambda body, seen: html if word_of(body) == "word1" else None)
    with teacher.running() as url:
        metrics, _ = run(url, retries=2, on_blank="retry", repair=True)
    assert metrics["outcomes"] == {"ok": 9, "error": 1} and teacher.calls == 9 + 3
    assert read_json(layout.figures("d") / "failures.json")["error: not a completion"]["count"] == 1


@pytest.mark.parametrize("field", ["message", "code"])
def test_half_an_emoji_in_an_error_is_survived(field):
    make_requests("d", 10)
    error = {"message": "no", "code": "bad", field: "torn \ud83d"}
    reply = Reply(json.dumps({"error": error}), 400)
    with Teacher(lambda body, seen: reply if word_of(body) == "word1" else None).running() as url:
        metrics, _ = run(url)
    assert metrics["outcomes"] == {"ok": 9, "error": 1}
    assert "torn \\\\ud83d" in (layout.figures("d") / "failures.json").read_text()


def test_a_request_too_large_for_the_rate_fails_alone():
    make_requests("d", 10)
    told = "Request too large for model: Limit 30000, Requested 36278. The input must be reduced."
    refusal = failure(429, told, "rate_limit_exceeded")
    teacher = Teacher(lambda body, seen: refusal if word_of(body) == "word1" else None)
    with teacher.running() as url:
        metrics, _ = run(url, patience=1)
    assert metrics["outcomes"] == {"ok": 9, "error": 1} and teacher.calls == 10


def test_a_wait_without_end_is_refused():
    make_requests("d", 10)
    reply = failure(503, "closed", **{"Retry-After": "1e999"})
    with Teacher(lambda body, seen: reply if word_of(body) == "word1" else None).running() as url:
        with pytest.raises(UserError, match="asks to wait for inf s"):
            run(url)


@pytest.mark.parametrize(
    "reason, outcome", [("abort", "invalid"), ("model_length", "length"), ("eos", "ok"), (None, "ok")]
)
def test_only_known_reasons_to_finish_make_an_answer_ok(reason, outcome):
    make_requests("d", 10)
    with Teacher(lambda body, seen: completion("a b", reason)).running() as url:
        if outcome == "ok":
            run(url)
        else:
            with pytest.raises(UserError, match=f"none of 10 answers accepted.*{outcome} 10"):
                run(url)
    assert responses("d")[0]["response"] == "a b"


def test_policies_keep_drop_and_retry():
    make_requests("d", 20)
    faults = {
        "word0": completion("cut he", "length"),
        "word1": completion(None, refusal="I will not"),
        "word2": completion("a", "content_filter"),
        "word3": completion("  "),
        "word5": failure(400, "The response was filtered", "content_filter"),  # as Azure says it
    }
    teacher = Teacher(lambda body, seen: faults.get(word_of(body)))
    with teacher.running() as url:
        metrics, _ = run(url, on_length="keep", on_refusal="keep", min_accept=0.5)
        rows = by_word()
        assert [rows[f"word{n}"]["accepted"] for n in range(5)] == [True, True, False, False, True]
        assert rows["word5"]["outcome"] == "content_filter" and (400, 0.0) in ledger("status, dollars")
        assert metrics["accepted_share"] == 0.85 and teacher.calls == 20
        run(url, on_content_filter="retry", on_blank="retry", outcome_retries=2, min_accept=0.5)
        assert teacher.calls == 20 + 2 + 2 + 2
        run(url, on_content_filter="retry", on_blank="retry", outcome_retries=2, min_accept=0.5)
        assert teacher.calls == 26
        faults.pop("word3")
        run(url, on_blank="retry", outcome_retries=3, min_accept=0.5)
    assert teacher.calls == 27 and by_word()["word3"]["outcome"] == "ok"
    report, key = read_json(layout.figures("d") / "failures.json"), by_word()["word1"]["question_key"]
    assert report["refusal"] == {
        "count": 1,
        "examples": [{"id": "p001", "question_key": key, "problem": None, "response": "I will not"}],
    }


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "queries",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
            "required": ["queries"],
            "additionalProperties": False,
        },
    },
}


def test_an_answer_that_breaks_its_schema_is_kept_and_repaired_once():
    make_requests("d", 10)
    rewrite(lambda row: {**row, "response_format": SCHEMA})
    good, bad = json.dumps({"queries": ["a b"]}), json.dumps({"queries": ["a", 5]})

    def fault(body, seen):
        if len(body["messages"]) > 2:
            assert body["messages"][2] == {"role": "assistant", "content": bad}
            assert "queries.1: 5 is not of type 'string'" in body["messages"][3]["content"]
            return completion(
                good
                if word_of(body["messages"][:2] and {"messages": body["messages"][:2]}) == "word1"
                else bad
            )
        return completion(bad if word_of(body) in ("word1", "word2") else good)

    teacher = Teacher(fault)
    with teacher.running() as url:
        run(url)
        row = by_word()["word1"]
        assert (row["outcome"], row["response"]) == ("invalid", bad) and teacher.calls == 10
        assert row["problem"] == "queries.1: 5 is not of type 'string'"
        metrics, _ = run(url, repair=True)
        assert teacher.calls == 12 and metrics["outcomes"] == {"ok": 9, "invalid": 1}
        assert by_word()["word1"]["response"] == good and by_word()["word2"]["response"] == bad
        run(url, repair=True)
    assert teacher.calls == 12


def test_an_answer_that_breaks_its_schema_is_kept_and_asked_again_once():
    make_requests("d", 10)
    rewrite(lambda row: {**row, "response_format": SCHEMA})
    good, bad = json.dumps({"queries": ["a b"]}), json.dumps({"queries": ["a", 5]})

    def fault(body, seen):
        always_bad, first_bad = word_of(body) == "word2", word_of(body) == "word1" and seen == 1
        return completion(bad if always_bad or first_bad else good)

    teacher = Teacher(fault)
    with teacher.running() as url:
        run(url)
        row = by_word()["word1"]
        assert (row["outcome"], row["response"]) == ("invalid", bad) and teacher.calls == 10
        assert row["problem"] == "queries.1: 5 is not of type 'string'"
        metrics, _ = run(url, on_invalid="retry")
        assert teacher.calls == 12 and metrics["outcomes"] == {"ok": 9, "invalid": 1}
        assert by_word()["word1"]["response"] == good and by_word()["word2"]["response"] == bad
        run(url, on_invalid="retry")
    assert teacher.calls == 12


def test_choices_and_samples_share_what_they_can():
    rows = make_requests("d", 5)
    split = [
        {
            **row,
            "id": f"{row['id']}#{k}",
            "sample": k // 2,
            "choice": k % 2,
            "params": {**row["params"], "n": 2},
        }
        for row in rows
        for k in range(4)
    ]
    write_jsonl(layout.requests("d"), [{**row, "request_key": key_of(row)} for row in split])

    def fault(body, seen):
        choice = {"message": {"role": "assistant", "content": f"text {seen}"}, "finish_reason": "stop"}
        cut = {**choice, "finish_reason": "length"}
        found = [choice, choice] if body.get("n") == 2 else [choice]
        if word_of(body) == "word3" and body["max_tokens"] == 256:
            found = [choice, cut]
        if word_of(body) == "word4":
            found = found[:1]
        return Reply(json.dumps({"choices": found, "usage": {"prompt_tokens": 5, "completion_tokens": 4}}))

    teacher = Teacher(fault)
    with teacher.running() as url:
        metrics, _ = run(url, on_length="retry", retry_max_tokens=999, min_accept=0.5)
    # two requests a page; each choice of word3 that was cut is asked for alone
    assert teacher.calls == 10 + 2 and metrics["distinct_requests"] == 10
    assert metrics["outcomes"] == {"ok": 18, "invalid": 2} and metrics["prompt_tokens"] == 50
    by_id = {row["id"]: row for row in responses("d")}
    assert by_id["p004#1"]["problem"] == "1 of 2 choices came"


# Providers, provenance


def test_a_proxy_of_the_environment_is_used_and_a_netrc_is_not(monkeypatch):
    make_requests("d", 10)
    teacher = Teacher()
    Path("netrc").write_text("machine teacher.invalid login somebody password else")
    monkeypatch.setenv("NETRC", "netrc")
    with teacher.running() as url:
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        run("http://teacher.invalid/v1")
        assert teacher.calls == 10 and teacher.keys == {f"Bearer {KEY}"}
        monkeypatch.setenv("no_proxy", "teacher.invalid")
        rewrite(lambda row: {**row, "sample": 1})
        with pytest.raises(UserError, match="teacher.invalid/v1 cannot be reached"):
            run("http://teacher.invalid/v1")


def test_provenance_is_recorded():
    make_requests("d", 10)
    with Teacher().running() as url:
        run(url)
    assert {row["system_fingerprint"] for row in responses("d")} == {"rules"}
    assert sorted(name for (name,) in ledger("request_id")) == [f"req_{n:06}" for n in range(1, 11)]


def test_logprobs_become_a_mean():
    make_requests("d", 10)
    choice = json.loads(completion("a b").body)
    choice["choices"][0]["logprobs"] = {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}
    with Teacher(lambda body, seen: Reply(json.dumps(choice))).running() as url:
        run(url)
    assert {row["logprob"] for row in responses("d")} == {-1.0}


def test_thoughts_are_counted_and_left_out_online_again_and_where_they_are_taken_over():
    make_requests("d", 10)
    thinking = completion("<think>\nwhat to write\n</think>\n\na b\nc d")
    with Teacher(lambda body, seen: thinking if word_of(body) < "word5" else None).running() as url:
        metrics, _ = run(url)
    count = sum(row["response"] == "a b\nc d" for row in responses("d"))
    assert metrics["thoughts_removed"] == count > 3
    before = layout.responses("d").read_bytes()
    assert collect("d", CollectKnobs(), asking=False)[0] == metrics
    layout.STORE.unlink()
    assert run("http://127.0.0.1:9/v1")[0] == metrics and layout.responses("d").read_bytes() == before


def test_the_same_bytes_at_concurrency_1_and_64_and_offline_without_a_key(monkeypatch):
    make_requests("d", 100)
    outputs = []
    for concurrency in (1, 64):
        for file in (*layout.STORE.parent.glob("*"), layout.responses("d")):
            file.unlink(missing_ok=True)
        faults = [None] * 8 + [failure(429), failure(500)]
        chance = random.Random(concurrency)
        with Teacher(lambda body, seen: chance.choice(faults)).running() as url:  # noqa: B023
            run(url, concurrency=concurrency)
        outputs.append(layout.responses("d").read_bytes())
    monkeypatch.delenv("TEACHER_KEY")
    layout.responses("d").unlink()
    run("http://127.0.0.1:9/v1")
    assert outputs[0] == outputs[1] == layout.responses("d").read_bytes()


def test_a_terminal_sees_rate_spend_refusals_and_outcomes():
    make_requests("d", 30)
    priced()
    first, second = pty.openpty()
    teacher = Teacher(lambda body, seen: failure(429, **{"Retry-After": "0.05"}) if seen == 1 else None)
    with teacher.running() as url:
        command = [sys.executable, "-m", "stages", "collect", "d", "--base_url", url, "--api_key_env", ""]
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RETORT_TRACKING": "off",
            "COLUMNS": "200",
            "TERM": "xterm",
        }
        process = subprocess.Popen(command, env=variables, stderr=second)
        os.close(second)
        told = b""
        while True:
            try:
                told += os.read(first, 65536)
            except OSError:
                break
        assert process.wait() == 0
    shown = told.decode()
    assert (
        "30/30" in shown and "request/s" in shown and "ok 30" in shown and "429s 30" in shown and "$" in shown
    )
