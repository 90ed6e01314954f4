"""The Batch API: nothing lost or submitted twice, whenever the program dies and whatever comes back."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from stages.collect import cancel, collect, forget
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_jsonl
from stages.core.progress import Progress
from stages.teacher.batch import lines as batch_lines
from stages.teacher.batch import provider as batch_calls
from stages.teacher.batch import run as batch_run
from stages.teacher.batch import store as batch_store
from stages.teacher.batch.lines import MISSING, read_results
from stages.teacher.batch.run import ask_in_batches
from stages.teacher.batch.store import Batches
from stages.teacher.endpoint import Endpoint
from stages.teacher.identity import key_of
from stages.teacher.knobs import CollectKnobs
from stages.teacher.money import Budget
from stages.teacher.store.store import Store
from stages.teacher.tally import Tally
from tests.helpers.batch_server import BatchTeacher
from tests.helpers.replies import break_off
from tests.helpers.teacher_server import Reply, completion, failure, make_requests, responses, word_of

ROOT = Path(__file__).resolve().parents[3]
PRICES = 'prices: {version: "1", models: {embedded: {input: 1000, output: 5000, batch: 0.5}}}\n'


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(batch_calls, "LOOK_PAUSE_S", 0.01)


class Held(BatchTeacher):
    """Hangs at a route, `before` or `after` it does as asked, and tells when somebody is there."""

    at, when = None, "before"

    def __init__(self, **switches):
        super().__init__(**switches)
        self.reached = threading.Event()

    def hold(self, route: str | None, when: str = "before") -> None:
        self.at, self.when = route, when
        self.reached.clear()

    async def _beside(self, request, handler):
        here = (
            f"{request.method} {request.match_info.route.resource.canonical.removeprefix('/v1')}" == self.at
        )
        if here and self.when == "before":
            await self._hang()
            return failure(503).response()
        response = await super()._beside(request, handler)
        if here and self.when == "after":
            await self._hang()
        return response

    async def _hang(self) -> None:
        self.reached.set()
        while self.at:
            await asyncio.sleep(0.01)


def run(url: str, dataset="d", **knobs) -> tuple[dict, dict]:
    knobs = {"base_url": url, "api_key_env": "", "mode": "batch", "poll": 0.02, **knobs}
    return collect(dataset, CollectKnobs(**knobs))


def start(url: str, *flags: str, dataset="d") -> subprocess.Popen:
    command = [sys.executable, "-m", "stages", "collect", dataset, "--base_url", url, "--api_key_env", ""]
    return subprocess.Popen(
        [*command, "--mode", "batch", "--poll", "0.05", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RETORT_TRACKING": "off"},
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at(teacher: Held, url: str, route: str, when="before", *flags: str, dataset="d") -> None:
    """Start a collector and kill it while it waits for this answer."""
    teacher.hold(route, when)
    process = start(url, *flags, dataset=dataset)
    assert teacher.reached.wait(20), process.poll()
    process.kill()
    process.communicate()
    teacher.hold(None)


def rows_of(query: str) -> list[tuple]:
    with sqlite3.connect(layout.STORE, timeout=10) as connection:
        return connection.execute(query).fetchall()


def states() -> list[str]:
    return [state for (state,) in rows_of("SELECT state FROM batches ORDER BY intended_at")]


def keys_of(dataset="d") -> set[str]:
    return {row["request_key"] for row in read_jsonl(layout.requests(dataset))}


def assert_once(teacher: BatchTeacher, dataset="d") -> None:
    """Each request was submitted once, and its answer is here."""
    assert teacher.submitted == Counter(keys_of(dataset)) and teacher.calls == 0
    assert {row["outcome"] for row in responses(dataset)} == {"ok"}
    assert set(states()) <= {"collected", "void"}
    assert not list((layout.STORE.parent / "batches").iterdir())


def spent() -> float:
    return rows_of("SELECT coalesce(sum(dollars), 0) FROM wallet")[0][0]


def test_as_online_to_the_byte_in_several_batches():
    make_requests("d", 25)
    teacher = BatchTeacher(shuffle=True)
    with teacher.running() as url:
        metrics, figures = run(url, batch_requests=10)
        output = layout.responses("d").read_bytes()
        assert_once(teacher)
        assert [len(job.rows) for job in teacher.jobs.values()] == [10, 10, 5]
        assert figures["attempts"] == 25
        assert run(url, mode="online")[0] == run(url)[0] == metrics and teacher.calls == 0  # one store
        kept = dict(rows_of("SELECT request_key, raw FROM attempts"))
        ids = rows_of("SELECT DISTINCT mode, status, request_id LIKE 'req_batch_req_%' FROM attempts")
        assert ids == [("batch", 200, 1)]
        for path in layout.STORE.parent.glob("store.sqlite*"):
            path.unlink()
        layout.responses("d").unlink()
        assert run(url, mode="online")[0] == metrics and teacher.calls == 25
        online = dict(rows_of("SELECT request_key, raw FROM attempts"))
    assert layout.responses("d").read_bytes() == output
    assert {key: json.loads(raw) for key, raw in kept.items()} == {
        key: json.loads(raw) for key, raw in online.items()
    }


def test_a_limit_in_bytes_splits_batches_and_a_request_larger_than_it_fails():
    rows = make_requests("d", 12)
    large = {**rows[5], "messages": [{"role": "user", "content": "x" * 3000}]}
    rows[5] = {**large, "request_key": key_of(large)}
    write_jsonl(layout.requests("d"), rows)
    teacher = BatchTeacher()
    with teacher.running() as url:
        run(url, batch_bytes=1500, min_accept=0.5)
    sizes = [len(content) for shown, content in teacher.files.values() if shown["purpose"] == "batch"]
    assert len(sizes) > 2 and max(sizes) <= 1500 and len(teacher.submitted) == 11
    assert set(teacher.submitted.values()) == {1}
    failed = read_json(layout.figures("d") / "failures.json")["error: too large for a batch"]
    assert failed["count"] == 1 and failed["examples"][0]["id"] == "p005"
    assert "batch_bytes (1,500)" in failed["examples"][0]["message"]


POINTS = [
    ("POST /files", "before"),
    ("POST /files", "after"),
    ("POST /batches", "before"),
    ("POST /batches", "after"),
    ("GET /batches/{id}", "before"),
    ("GET /files/{id}/content", "before"),
    ("GET /files/{id}/content", "after"),
]


@pytest.mark.slow
@pytest.mark.parametrize("route, when", POINTS)
def test_killed_at_any_point_nothing_is_submitted_twice(route, when):
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    teacher = Held(hidden_lists=2)
    with teacher.running() as url:
        killed_at(teacher, url, route, when, "--batch_requests", "5")
        before = spent()
        assert states()[0] == {"POST /files": "intended", "POST /batches": "uploaded"}.get(route, "submitted")
        assert before > 0  # the worst case, which nobody gives back
        run(url, batch_requests=5)
    assert_once(teacher)
    billed = (teacher.billed_batch_prompt * 1000 + teacher.billed_batch_completion * 5000) / 1e6 * 0.5
    assert spent() == pytest.approx(billed) and before > billed / 2


@pytest.mark.slow
def test_killed_again_and_again():
    make_requests("d", 10)
    teacher = Held()
    with teacher.running() as url:
        for route, when in (POINTS[1], POINTS[3], ("GET /batches", "before")):
            killed_at(teacher, url, route, when, "--batch_requests", "5")
        run(url, batch_requests=5)
    assert_once(teacher)


def test_a_process_that_lives_is_not_taken_for_a_dead_one():
    make_requests("d", 10)
    teacher = Held()
    with teacher.running() as url:
        teacher.hold("POST /batches", "after")
        process = start(url)
        assert teacher.reached.wait(20)
        threading.Timer(0.5, teacher.hold, [None]).start()
        run(url)  # looks many times, and keeps its hands off
        assert process.communicate(timeout=20) and process.returncode == 0
    assert_once(teacher)
    assert states() == ["collected"] and rows_of("SELECT count(*) FROM attempts") == [(10,)]


def test_results_are_stored_before_they_are_read(monkeypatch):
    make_requests("d", 10)

    def broken(raw, request):
        raise RuntimeError("a bug")

    teacher = BatchTeacher()
    with teacher.running() as url:
        with monkeypatch.context() as patch:
            patch.setattr(batch_run, "read_answers", broken)
            with pytest.raises(RuntimeError, match="a bug"):
                run(url)
        assert states() == ["collected"] and len(teacher.created) == 1
        make_requests("d", 11)
        run(url)
    assert_once(teacher)


def test_a_crash_while_results_are_stored_stores_none_and_repeats_it(monkeypatch):
    make_requests("d", 10)
    insert, calls = batch_store.insert_attempts, []

    def broken(writer, attempts):
        insert(writer, attempts)
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the end")

    teacher = BatchTeacher()
    with teacher.running() as url:
        with monkeypatch.context() as patch:
            patch.setattr(batch_store, "AT_ONCE", 3)
            patch.setattr(batch_store, "insert_attempts", broken)
            with pytest.raises(RuntimeError, match="the end"):
                run(url)
        assert rows_of("SELECT count(*) FROM attempts") == [(0,)] and states() == ["submitted"]
        run(url)
    assert_once(teacher)
    assert rows_of("SELECT count(*) FROM attempts") == [(10,)]


def test_two_processes_at_once_share_the_batches():
    make_requests("d", 40)
    teacher = BatchTeacher(polls_needed=4)
    with teacher.running() as url:
        running = [start(url, "--batch_requests", "4") for _ in range(2)]
        told = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert_once(teacher)
    assert rows_of("SELECT count(*) FROM attempts") == [(40,)]


def test_rows_in_a_batch_of_another_dataset_are_waited_for():
    make_requests("a", 10)
    make_requests("b", 15)  # the first ten pages are the same
    teacher = Held()
    with teacher.running() as url:
        killed_at(teacher, url, "GET /batches/{id}", dataset="a")
        figures = run(url, "b")[1]
        run(url, "a")
    assert_once(teacher, "b")
    assert figures["attempts"] == 5 and responses("a") == responses("b")[:10]
    assert sorted(rows_of("SELECT dataset, count(*) FROM attempts GROUP BY 1")) == [("a", 10), ("b", 5)]


@pytest.mark.parametrize("hidden", [0, 2])
def test_a_lost_answer_is_looked_for_before_a_batch_is_made_again(hidden):
    make_requests("d", 10)
    teacher = BatchTeacher(hidden_lists=hidden, lost={"POST /batches": 2, "GET /batches/{id}": 2})
    with teacher.running() as url:
        run(url, batch_requests=5)
    assert_once(teacher)
    assert len(teacher.created) == 2


def test_a_refusal_that_may_have_been_none_is_looked_up_and_then_made_again():
    make_requests("d", 10)
    page = Reply("<html>busy</html>", content_type="text/html")
    replies = [failure(500), failure(429, **{"Retry-After": "0.01"}), page]
    failing = {
        "POST /batches": replies,
        "POST /files": [failure(502), page],
        "GET /batches": [failure(500), page],
    }
    failing |= {"GET /batches/{id}": [failure(503), page], "GET /files/{id}/content": [failure(500)]}
    teacher = BatchTeacher(failing=failing)
    with teacher.running() as url:
        run(url)
    assert not any(failing.values())
    assert_once(teacher)


def test_an_answer_that_stays_lost_stops_the_run_and_the_next_one_finds_the_batch():
    make_requests("d", 10)
    teacher = BatchTeacher(lost={"POST /batches": 1}, failing={"GET /batches": [failure(500)] * 4})
    with teacher.running() as url:
        with pytest.raises(UserError, match=r"answered 500: .* \(4 calls failed in a row\)"):
            run(url, breaker=4)
        assert states() == ["uploaded"] and len(teacher.created) == 1
        teacher.failing = {}
        run(url)
    assert_once(teacher)


class Forgetful(BatchTeacher):
    """Makes a batch and does not say so, then refuses to make another."""

    calls_to_create = 0

    async def _create(self, request):
        self.calls_to_create += 1
        response = await super()._create(request) if self.calls_to_create == 1 else None
        return (response and failure(500).response()) or failure(400).response()


def test_a_refusal_after_a_lost_answer_proves_nothing():
    make_requests("d", 10)
    teacher = Forgetful(hidden_lists=batch_calls.LOOKS)
    with teacher.running() as url:
        with pytest.raises(UserError, match="answered 400"):
            run(url)
        assert states() == ["uploaded"] and teacher.calls_to_create == 2
        run(url)
    assert_once(teacher)


def test_what_was_answered_meanwhile_is_not_submitted():
    rows = make_requests("d", 10)
    make_requests("e", 10)
    write_jsonl(layout.requests("e"), rows[5:])
    teacher = Held()
    with teacher.running() as url:
        teacher.hold("POST /files", "after")
        process = start(url, "--batch_requests", "5")
        assert teacher.reached.wait(20)
        run(url, "e", mode="online")
        teacher.hold(None)
        assert process.communicate(timeout=20) and process.returncode == 0
    assert len(teacher.submitted) == 5 and teacher.calls == 5 and len(responses("d")) == 10
    with Store(layout.STORE) as store, Budget(store, "d", None) as budget, Progress(10, "d") as shown:
        chosen = iter([(row, 0) for row in rows])  # when nothing was stored
        tally = Tally()
        ask_in_batches(chosen, Endpoint(url, "k", CollectKnobs()), store, budget, shown, tally)
    assert tally.attempts == 0 and shown.done == 10 and len(teacher.submitted) == 5


def test_a_batch_on_a_later_page_of_the_list_is_found():
    make_requests("d", 10)
    teacher = BatchTeacher(lost={"POST /batches": 1}, failing={"GET /batches": [failure(401)]})
    with teacher.running() as url:
        with pytest.raises(UserError, match="it refuses"):
            run(url)
        make_requests("e", 112)
        rows = read_jsonl(layout.requests("e"))[10:]
        write_jsonl(layout.requests("e"), rows)
        run(url, "e", batch_requests=1)  # 102 batches that are newer
        created = len(teacher.created)
        run(url)
    assert created == len(teacher.created) == 103 and set(teacher.submitted.values()) == {1}
    assert {row["outcome"] for row in responses("d")} == {"ok"}


@pytest.mark.parametrize(
    "page",
    [
        {"data": [{"id": "b"}], "has_more": True},
        {"data": [{"id": "b", "metadata": [1], "created_at": "now"}, 7], "has_more": True},
        {"data": [{"id": 1, "created_at": 10**400}], "has_more": 1},
    ],
)
def test_a_list_without_end_is_given_up(page):
    make_requests("d", 3)
    teacher = BatchTeacher(
        lost={"POST /batches": 1}, failing={"GET /batches": [Reply(json.dumps(page))] * 500}
    )
    with teacher.running() as url, pytest.raises(UserError, match="does not end"):
        run(url)
    assert 100 <= 500 - len(teacher.failing["GET /batches"]) < 120


@pytest.mark.parametrize(
    "status, told", [(401, "it refuses"), (400, "answered 400: "), (404, "check base_url")]
)
@pytest.mark.parametrize("route", ["POST /files", "POST /batches"])
def test_a_definite_refusal_frees_the_requests_and_their_money(route, status, told):
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    teacher = BatchTeacher(failing={route: [failure(status)]})
    with teacher.running() as url:
        with pytest.raises(UserError, match=told) as raised:
            run(url)
        assert "go on" not in str(raised.value)
        assert states() == ["void"] and spent() == 0 and not teacher.submitted
        run(url)
    assert_once(teacher)


def test_polls_may_fail_for_a_while_but_not_for_ever():
    make_requests("d", 10)
    teacher = BatchTeacher(failing={"GET /batches/{id}": [failure(500)] * 7})
    with teacher.running() as url:
        with pytest.raises(UserError, match="5 calls failed in a row") as raised:
            run(url, breaker=5)
        assert "Batches that go on at" in str(raised.value) and "The same command" in str(raised.value)
        run(url, breaker=5)
    assert_once(teacher)


def test_no_server_and_no_batch_api_are_clear_errors():
    make_requests("d", 3)
    with pytest.raises(UserError, match="cannot be reached"):
        run("http://127.0.0.1:9/v1")
    assert states() == ["void"]
    with pytest.raises(UserError, match="mode: batch needs a base_url with OpenAI's Batch API"):
        run("embedded")


def test_the_time_that_a_batch_may_take_is_asked_for():
    make_requests("d", 3)
    teacher = BatchTeacher()
    with teacher.running() as url:
        with pytest.raises(UserError, match="no such endpoint or completion_window"):
            run(url, batch_window="1h")
        run(url)
    assert [batch["completion_window"] for batch in teacher.created] == ["24h"]
    assert_once(teacher)


class Broken(BatchTeacher):
    """Ends the first downloads in the middle."""

    breaks = 4

    async def _content(self, request):
        response = await super()._content(request)
        if self.breaks:
            self.breaks -= 1
            return await break_off(request, response, reset=self.breaks % 2 == 0)
        return response


def test_a_download_that_breaks_off_is_begun_again():
    make_requests("d", 20)
    teacher = Broken()
    with teacher.running() as url:
        run(url)
    assert teacher.breaks == 0
    assert_once(teacher)


# What comes back


def test_lines_are_known_by_their_custom_id_alone(capsys):
    make_requests("d", 20)
    odd = {"shuffle": True, "duplicated": 3, "unknown": 2, "torn": 1, "no_file": ""}
    teacher = BatchTeacher(**odd)
    with teacher.running() as url:
        run(url, retries=0, min_accept=0.5)
        told = capsys.readouterr().err
        assert "2 unknown" in told and "1 torn" in told and "repeated" in told
        rows = {row["id"]: row for row in responses("d")}
        for row in rows.values():
            word = f"word{int(row['id'][1:])}"
            assert row["outcome"] == "error" or row["response"].startswith(f"- how to use {word}\n")
        assert rows_of("SELECT count(*) FROM attempts")[0][0] == 20
        assert not [key for (key,) in rows_of("SELECT request_key FROM attempts") if key not in keys_of()]
        teacher.torn = 0
        run(url)
    assert {row["outcome"] for row in responses("d")} == {"ok"}


def test_lines_that_are_no_results_are_counted(tmp_path):
    good = '{"custom_id": "a", "response": {"status_code": 200, "body": {"x": 1}, "request_id": 7}}'
    bare = '{"custom_id": "b", "response": {"status_code": "no"}, "error": "no"}'
    path, odd = tmp_path / "lines", Counter()
    lines = ["[]", '{"custom_id": 3}', "\xff", "", good, good, bare, '{"custom_id": "z"}', good[:30]]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    found = {result.key: result for result in read_results([path], "abc", odd)}
    assert odd == {"torn": 4, "repeated": 1, "unknown": 1, "missing": 1}
    assert (found["a"].raw, found["a"].request_id, found["b"].status) == ('{"x":1}', None, None)
    assert found["c"].error["code"] == MISSING != found["b"].error.get("code")


def test_a_line_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_lines, "MOST_BYTES", 100)
    path, odd = tmp_path / "lines", Counter()
    lines = [
        {"custom_id": key, "response": {"status_code": 200, "body": {"x": x}}}
        for key, x in (("a", "y" * 99), ("b", 1))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {result.key: result.raw for result in read_results([path], "ab", odd)}
    assert found == {"a": None, "b": '{"x":1}'} and odd == {"torn": 2, "missing": 1}


def test_missing_expired_and_refused_rows_are_asked_again_and_bad_ones_are_not():
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 30)
    seen: Counter[str] = Counter()
    left_out = iter([True])
    first = {"word1": 500, "word2": 429, "word3": "batch_expired", "word4": 503}

    def row_error(body):
        word = word_of(body)
        seen[word] += 1
        return 400 if word == "word5" else first.get(word) if seen[word] == 1 else None

    teacher = BatchTeacher(
        lambda body, times: Reply('{"a": 1}') if word_of(body) == "word7" and times == 1 else None,
        row_error=row_error,
        left_out=lambda body: word_of(body) == "word6" and next(left_out, False),
    )
    with teacher.running() as url:
        figures = run(url)[1]
    again = {int(row["id"][1:]) for row in responses("d") if teacher.submitted[row["request_key"]] == 2}
    assert again == {1, 2, 3, 4, 6, 7} and set(teacher.submitted.values()) == {1, 2}
    assert {row["id"]: row["outcome"] for row in responses("d") if row["outcome"] != "ok"} == {
        "p005": "error"
    }
    failed = read_json(layout.figures("d") / "failures.json")["error: 400"]
    assert failed["count"] == 1 and failed["examples"][0]["id"] == "p005"
    assert figures["attempts"] == 36 and figures["retried"] == 6 and figures["refused"] == 1
    errors = Counter(error for (error,) in rows_of("SELECT error FROM attempts WHERE raw IS NULL"))
    assert errors == {"500": 1, "429": 1, "batch_expired": 1, "503": 1, "400": 1, "missing from batch": 1}
    failed = "FROM ledger WHERE error IS NOT NULL AND error != 'missing from batch'"
    assert set(rows_of(f"SELECT dollars {failed}")) == {(0.0,)}
    assert rows_of("SELECT dollars FROM ledger WHERE error = 'missing from batch'") == [(None,)]
    known = rows_of("SELECT sum(dollars) FROM ledger")[0][0]
    billed = (teacher.billed_batch_prompt * 1000 + teacher.billed_batch_completion * 5000) / 1e6 * 0.5
    assert known == pytest.approx(billed) and spent() > billed  # the missing row may have been billed


def test_rows_that_keep_failing_are_given_up():
    make_requests("d", 10)
    teacher = BatchTeacher(row_error=lambda body: 500 if word_of(body) == "word1" else None)
    with teacher.running() as url:
        run(url, retries=2)
    assert sorted(teacher.submitted.values())[-2:] == [1, 3] and len(teacher.created) == 3
    assert read_json(layout.figures("d") / "failures.json")["error: 500"]["count"] == 1


def test_an_expired_batch_is_completed_by_another():
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    teacher = BatchTeacher(expire_after=0.4)
    with teacher.running() as url:

        def heal():
            while not any(job.status == "expired" for job in list(teacher.jobs.values())):
                time.sleep(0.002)
            teacher.expire_after = None

        healer = threading.Thread(target=heal)
        healer.start()
        run(url)
        healer.join()
    assert {row["outcome"] for row in responses("d")} == {"ok"}
    assert sorted(teacher.submitted.values()) == [1] * 4 + [2] * 6
    assert set(teacher.rows_answered.values()) == {1}
    assert spent() == pytest.approx(rows_of("SELECT sum(dollars) FROM ledger")[0][0])


def test_no_funds_in_a_row_stops_the_run_and_keeps_what_came():
    make_requests("d", 10)
    out = failure(429, "You exceeded your current quota", "insufficient_quota")
    teacher = BatchTeacher(lambda body, times: out if word_of(body) == "word3" else None)
    with teacher.running() as url:
        with pytest.raises(UserError, match="no funds"):
            run(url)
        assert rows_of("SELECT count(*) FROM attempts WHERE raw IS NOT NULL") == [(9,)]
        teacher.fault = None
        run(url)
    assert sorted(teacher.submitted.values()) == [1] * 9 + [2]


@pytest.mark.parametrize(
    "error, told",
    [
        ("invalid_api_key", "answered 401: it refuses"),
        ("model_not_found", "answered 404: .*check base_url .* and the model name 'embedded'"),
        ("insufficient_quota", "the account has no funds"),
        ("billing_hard_limit_reached", "the account has no funds"),
        (403, "answered 403: it refuses"),
        (400, r"answered 400: .*\(20 requests got this answer and none another; raise `breaker`"),
    ],
)
def test_what_concerns_every_request_stops_the_run(error, told):
    """Not asked again in batch after batch, nor failed row by row, whether a status tells it or a code."""
    make_requests("d", 30)
    teacher = BatchTeacher(row_error=lambda body: error)
    with teacher.running() as url:
        with pytest.raises(UserError, match=told):
            run(url, breaker=20)
        assert len(teacher.created) == 1
        teacher.row_error = None
        run(url)
    assert {row["outcome"] for row in responses("d")} == {"ok"}


def test_a_bad_row_among_good_ones_stops_nothing():
    make_requests("d", 30)
    teacher = BatchTeacher(row_error=lambda body: 400 if word_of(body) > "word1" else None)
    with teacher.running() as url:
        run(url, breaker=2, min_accept=0.01)
    assert len(teacher.created) == 1


def test_a_strange_answer_is_kept_and_a_lone_surrogate_is_text():
    make_requests("d", 3)
    broken = completion("\ud83d half")
    teacher = BatchTeacher(lambda body, times: broken if word_of(body) == "word1" else None)
    with teacher.running() as url:
        run(url, min_accept=0.5)
    assert [row["outcome"] for row in responses("d")] == ["ok", "invalid", "ok"]
    assert set(teacher.submitted.values()) == {1}


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 100, "completion_tokens": -40},
        {"prompt_tokens": 100, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 50_000}},
        {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 5130},
        {"prompt_tokens": 10**400, "completion_tokens": 30.5},
    ],
    ids=str,
)
def test_no_count_of_tokens_gives_money_back(usage):
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    with BatchTeacher(lambda body, times: lambda answer: {**answer, "usage": usage}).running() as url:
        run(url)
    assert spent() > 10 * 0.5 and rows_of("SELECT min(dollars) FROM ledger")[0][0] in (None, spent() / 10)


@pytest.mark.parametrize(
    "error", [{"error": {"code": 429, "message": "slow"}}, {"error": "overloaded"}], ids=str
)
def test_an_error_in_a_200_of_a_row_is_one(error):
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 10)
    first = Reply(json.dumps(error))
    teacher = BatchTeacher(lambda body, times: first if word_of(body) == "word1" and times == 1 else None)
    with teacher.running() as url:
        run(url)
    assert rows_of("SELECT count(*), sum(dollars) FROM ledger WHERE status != 200") == [(1, 0.0)]
    assert {row["outcome"] for row in responses("d")} == {"ok"}


def test_a_batch_that_fails_its_validation_says_why(monkeypatch):
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 3)
    teacher = BatchTeacher(fail_code="mismatched_model")
    with teacher.running() as url:
        with pytest.raises(UserError, match="was refused: mismatched_model: mismatched_model. Its lines"):
            run(url)
        assert states() == ["void"] and spent() == 0
        assert len(list((layout.STORE.parent / "batches").iterdir())) == 1
        teacher.fail_code = None
        run(url)
    assert {row["outcome"] for row in responses("d")} == {"ok"}


def test_batches_beyond_the_enqueued_tokens_wait_for_the_others():
    make_requests("d", 12)
    teacher = BatchTeacher(max_open=2)
    with teacher.running() as url:
        run(url, batch_requests=3)
        assert set(teacher.rows_answered.values()) == {1} and len(teacher.created) == 6
        assert {row["outcome"] for row in responses("d")} == {"ok"}
        make_requests("e", 14)
        teacher.max_open = 0
        with pytest.raises(UserError, match="token_limit_exceeded: Enqueued.* Lower batch_requests"):
            run(url, "e")


# Money


def test_a_cap_that_holds_no_whole_batch_makes_smaller_ones_until_nothing_fits():
    Path("params.yaml").write_text(PRICES)
    make_requests("d", 40)
    with BatchTeacher().running() as url:
        run(url, "d")
        whole = spent()
    layout.STORE.unlink()
    layout.responses("d").unlink()
    teacher, cap = BatchTeacher(), whole * 0.6
    with teacher.running() as url:
        with pytest.raises(UserError, match=r"the cap of \$.* leaves no room for another request"):
            run(url, max_dollars=cap)
        billed = (teacher.billed_batch_prompt * 1000 + teacher.billed_batch_completion * 5000) / 1e6 * 0.5
        assert 0 < spent() <= cap and spent() == pytest.approx(billed)
        assert len(teacher.created) > 1 and set(teacher.submitted.values()) == {1}
        run(url, max_dollars=whole * 10)
    assert_once(teacher)
    assert spent() == pytest.approx(whole)


# Ctrl-C, cancelling, forgetting, and the other mode


def params(url: str) -> None:
    block = f"{{base_url: '{url}', api_key_env: '', mode: batch, poll: 0.02}}"
    Path("params.yaml").write_text(f"{PRICES}collect:\n  d: {block}\n  e: {block}\n")


def test_ctrl_c_leaves_batches_to_go_on():
    make_requests("d", 10)
    teacher = BatchTeacher(polls_needed=10**9)
    with teacher.running() as url:
        process = start(url, "--batch_requests", "5")
        while len(teacher.polls) < 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=20)[1]
        assert process.returncode == 130
        assert "Batches that go on at" in told and "The same command fetches their answers" in told
        teacher.polls_needed = 3
        run(url)
    assert_once(teacher)


def test_online_does_not_ask_what_is_in_an_open_batch():
    make_requests("d", 10)
    teacher = Held()
    with teacher.running() as url:
        killed_at(teacher, url, "GET /batches/{id}")
        with pytest.raises(UserError, match="in open batches .*mode: batch.*collect d --cancel"):
            run(url, mode="online")
        assert teacher.calls == 0
        with BatchTeacher().running() as other, pytest.raises(UserError, match=f"base_url: {url}"):
            run(other)
        run(url)
        run(url, mode="online")
    assert_once(teacher)


def test_cancelling_keeps_and_pays_what_was_done(capsys):
    make_requests("d", 10)
    teacher = Held(polls_needed=8)
    with teacher.running() as url:
        params(url)
        killed_at(teacher, url, "GET /batches/{id}")
        for _ in range(4):
            teacher.polls[teacher.created[0]["id"]] += 1
        cancel(None, {})
        assert "collect d: stopped batches: 1" in capsys.readouterr().err
        done = rows_of("SELECT count(*) FROM attempts WHERE raw IS NOT NULL")[0][0]
        assert 0 < done < 10 and states() == ["collected"]
        assert spent() == pytest.approx(rows_of("SELECT sum(dollars) FROM ledger")[0][0])
        cancel("d", {})
        run(url, mode="online")
    assert teacher.calls == 10 - done and {row["outcome"] for row in responses("d")} == {"ok"}


def test_a_run_does_not_begin_anew_what_was_cancelled_elsewhere():
    make_requests("d", 10)
    teacher = BatchTeacher(polls_needed=1000)
    with teacher.running() as url:
        params(url)
        process = start(url)
        while not teacher.polls:
            time.sleep(0.02)
        cancel("d", {})
        told = process.communicate(timeout=20)[1]
        assert process.returncode == 2 and "was cancelled" in told and len(teacher.created) == 1
        teacher.polls_needed = 3
        run(url)
    assert {row["outcome"] for row in responses("d")} == {"ok"}


def test_a_batch_that_its_provider_lost_can_be_forgotten():
    make_requests("d", 10)
    teacher = Held()
    with teacher.running() as url:
        params(url)
        killed_at(teacher, url, "GET /batches/{id}")
        jobs, teacher.jobs = teacher.jobs, {}
        for attempt in (run, lambda url: cancel("d", {})):
            with pytest.raises(UserError, match="No such batch.*--forget"):
                attempt(url)
        forget("d", {})
        worst = spent()
        assert states() == ["void"] and worst > 0  # it may have been billed
        teacher.jobs = jobs
        run(url)
    assert spent() > worst and {row["outcome"] for row in responses("d")} == {"ok"}


def test_answers_nobody_wants_now_are_stored_all_the_same():
    rows = make_requests("d", 10)
    teacher = Held(polls_needed=1)
    with teacher.running() as url:
        killed_at(teacher, url, "GET /batches/{id}")
        changed = [{**row, "params": {**row["params"], "temperature": 0.3}} for row in rows]
        write_jsonl(layout.requests("d"), [{**row, "request_key": key_of(row)} for row in changed])
        run(url)
        write_jsonl(layout.requests("d"), rows)
        run(url)
    assert set(teacher.submitted.values()) == {1} and len(teacher.submitted) == 20


def test_intents_are_exclusive_and_events_are_kept():
    make_requests("d", 4)
    teacher = BatchTeacher()
    with teacher.running() as url:
        run(url)
    with Store(layout.STORE) as store:
        batches = Batches(store)
        assert batches.open() == [] and batches.holding(keys_of()) == []
        events = [event for (event,) in rows_of("SELECT event FROM batch_events")]
        assert events == ["intended", "uploaded", "submitted", "collected"]
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.writer.execute("DELETE FROM batch_events")
        metadata = teacher.created[0]["metadata"]
        assert metadata["retort_batch"] == rows_of("SELECT name FROM batches")[0][0]
