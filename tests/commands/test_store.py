"""`make store`: what the store holds and whether it is sound; answers that go from machine to machine."""

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stages.collect import run as run_collect
from stages.commands.store import cli
from stages.core import layout, pacing
from stages.core.files import write_jsonl
from stages.teacher.audit.packing import pack
from stages.teacher.audit.verify import attempts_in
from stages.teacher.identity import key_of
from stages.teacher.knobs import CollectKnobs
from stages.teacher.money import Budget
from stages.teacher.prices import price_of
from stages.teacher.store.schema import ONE
from stages.teacher.store.store import Attempt, Store, checksum
from tests.helpers.teacher_server import Teacher, completion, failure, make_requests, word_of

ROOT = Path(__file__).resolve().parents[2]
PRICES = {"version": "2024-05", "models": {"embedded": {"input": 1000, "output": 2000}}}
FILE = Path("answers.jsonl.gz")
WRITER = """
import sys
from pathlib import Path
from stages.teacher.store.store import Attempt, Store
with Store(Path("data/teacher/store.sqlite")) as store:
    print("ready", flush=True)
    for n in range(200):
        store.append([Attempt(f"{n}", "test", status=200, raw="{}")])
"""


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to another machine: one that has the requests, but no store."""

    def go(name: str = "elsewhere") -> Path:
        place = tmp_path / name
        place.mkdir()
        for requests in Path("data").glob("*/requests.jsonl"):
            (place / requests).parent.mkdir(parents=True)
            (place / requests).write_bytes(requests.read_bytes())
        monkeypatch.chdir(place)
        return place

    return go


def collect(url: str, dataset: str = "d", **knobs) -> dict:
    return run_collect(dataset, CollectKnobs(base_url=url, api_key_env="", **knobs))[0]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def figures() -> dict:
    return json.loads(run("--json").stdout)


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def rows_of(table: str) -> list[tuple]:
    with closing(sqlite3.connect(layout.STORE)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def spoil(change: str, *values) -> None:
    """What sqlite3 at the command line, or a disk, can do to an append-only store."""
    with closing(sqlite3.connect(layout.STORE)) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (trigger,) in triggers:
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(change, values)
        connection.commit()


# Figures


def test_where_nothing_was_asked_nothing_is_made():
    assert "does not exist: nothing was asked yet" in done()
    assert json.loads(done("--json")) == {"path": str(layout.STORE), "exists": False}
    assert "there is nothing to export" in refused("--export", FILE)
    assert not list(Path.cwd().iterdir())


def test_figures_of_what_was_asked(monkeypatch):
    make_requests("d", 20)
    make_requests("e", 30)
    faults = {("word3", 1): failure(500, "no")}
    with Teacher(lambda body, seen: faults.get((word_of(body), seen))).running() as url:
        Path("params.yaml").write_text(json.dumps({"prices": PRICES}))
        collect(url, max_dollars=1000)
        Path("params.yaml").unlink()
        collect(url, "e")
    told, shown = figures(), done()
    assert [told[name] for name in ("schema_version", "requests", "attempts", "answers")] == [2, 30, 31, 30]
    common = {"mode": "online", "imported": False, "cached_tokens": 0, "reasoning_tokens": 0}
    first = {"attempts": 21, "answers": 20, "failures": 1, "prompt_tokens": 80, "completion_tokens": 240}
    second = {"attempts": 10, "answers": 10, "failures": 0, "prompt_tokens": 40, "completion_tokens": 120}
    assert told["spend"] == [
        {"dataset": "d", **common, **first, "dollars": 0.56, "unknown_cost": 0},
        {"dataset": "e", **common, **second, "dollars": 0.0, "unknown_cost": 10},
    ]
    assert told["spent_here"] == {"dollars": 0.56, "unknown_cost": 10}
    assert told["caps"] == [{"dataset": "d", "committed": 0.56, "in_batches": 0.0, "other": 0.0}]
    assert not any(told["damage"].values()) and told["oldest"] <= told["newest"]
    lines = [line.split() for line in shown.splitlines()]
    assert ["d", "online", "21", "20", "1", "80", "0", "240", "0", "0.5600", "0"] in lines
    assert "spent here: $0.5600, and 10 attempts of unknown cost" in shown
    assert "counted against the cap of d: $0.5600\n" in shown and "open batches: none" in shown
    assert "the file is whole, every attempt has its checksum, every request its key" in shown
    assert "imported" not in shown


def test_money_held_by_a_killed_run_and_open_batches_are_told():
    Path("params.yaml").write_text(json.dumps({"prices": PRICES}))
    detail = {"source": "http://h/v1", "dataset": "d", "model": "m", "price": None, "rows": 7}
    with Store(layout.STORE) as store:
        Budget(store, "d", price_of("embedded"), cap=10).reserve(2.5)  # and nothing comes back
        with store.transaction() as writer:
            for batch, event in (("b1", "intended"), ("b2", "intended"), ("b2", "void"), ("b1", "submitted")):
                writer.execute(
                    "INSERT INTO batch_events (batch, at, event, detail) VALUES (?, ?, ?, ?)",
                    (batch, "2024-05-01T10:00:00+00:00", event, json.dumps(detail)),
                )
            writer.execute("INSERT INTO wallet VALUES (NULL, 'b1', 'd', '2024-05-01', 0.5)")
    told, shown = figures(), done()
    assert told["caps"] == [{"dataset": "d", "committed": 3.0, "in_batches": 0.5, "other": 2.5}]
    (batch,) = told["open_batches"]
    assert [batch[name] for name in ("batch", "dataset", "rows", "state")] == ["b1", "d", 7, "submitted"]
    assert "cap of d: $3.0000; $0.5000 of it is set aside for open batches; $2.5000 of it is no" in shown
    assert "open batch b1 of d: 7 rows, submitted, " in shown and " days old" in shown


# Damage


@pytest.fixture
def collected():
    """A small store that was filled by collect; returns its requests."""
    rows = make_requests("d", 10)
    with Teacher().running() as url:
        collect(url)
    return rows


@pytest.mark.parametrize("value", ["CAST(x'7b80' AS TEXT)", "replace(raw, 'how', 'why')", "NULL", "x'00'"])
def test_a_damaged_attempt_is_named_and_can_be_mended(collected, value):
    spoil(f"UPDATE attempts SET raw = {value} WHERE id = 3")
    key = rows_of("attempts WHERE id = 3")[0][1] if value != "CAST(x'7b80' AS TEXT)" else ""
    message = refused()
    assert (
        f"attempts that fail their checksum (1): 3 (request {key}" in message
        and "Mend: put a backup" in message
    )
    assert figures()["damage"]["attempts"][0]["id"] == 3
    assert "attempt 3 is damaged, nothing was written" in refused("--export", FILE) and not FILE.exists()

    assert "9 attempts; 1 damaged rows were left out" in done("--export", FILE, "--salvage")  # as advised
    for file in layout.STORE.parent.glob("store.sqlite*"):
        file.unlink()
    assert "added 10 requests and 9 attempts" in done("--import", FILE)
    teacher = Teacher()
    layout.responses("d").unlink()
    with teacher.running() as url:
        collect(url)
    assert teacher.calls == 1 and "every attempt has its checksum" in done()


def test_a_damaged_request_is_named(collected):
    key = collected[4]["request_key"]
    spoil("UPDATE requests SET request = replace(request, 'About', 'aBout') WHERE request_key = ?", key)
    spoil("UPDATE requests SET token_limit = 1 WHERE request_key = ?", collected[5]["request_key"])
    message = refused()
    assert "requests that do not have their key (2): " in message and key in message
    assert sorted(figures()["damage"]["requests"]) == sorted([key, collected[5]["request_key"]])
    assert "is damaged, nothing was written" in refused("--export", FILE)
    assert "8 requests and 10 attempts" in done("--export", FILE, "--salvage")


def test_a_file_that_sqlite_cannot_read_is_told(collected):
    content = bytearray(layout.STORE.read_bytes())
    with closing(sqlite3.connect(layout.STORE)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'attempts'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\xff" * size
    layout.STORE.write_bytes(content)
    assert "sqlite says (" in refused() and figures()["damage"]["file"]
    assert "is damaged. sqlite says" in refused("--export", FILE) and not FILE.exists()
    layout.STORE.write_text("no database at all" * 1000)
    assert "cannot be opened" in refused()


# From machine to machine


def test_answers_that_were_imported_are_not_asked_again(collected, elsewhere):
    before, source = layout.responses("d").read_bytes(), Path.cwd()
    assert "10 requests and 10 attempts" in done("--export", FILE)
    assert "added 0 requests and 0 attempts; 10 attempts of" in done("--import", FILE)
    elsewhere()
    assert "added 10 requests and 10 attempts; 0 attempts of" in done("--import", source / FILE)
    assert "added 0 requests and 0 attempts; 10 attempts of" in done("--import", source / FILE)
    collect("http://127.0.0.1:9/v1")
    assert layout.responses("d").read_bytes() == before
    told = figures()
    assert told["spent_here"] == {"dollars": 0.0, "unknown_cost": 0} and told["caps"] == []
    assert told["spent_elsewhere"] == {"dollars": 0.0, "unknown_cost": 10}
    assert "online, imported" in done()
    done("--export", FILE)  # and what was imported can be given on
    assert FILE.read_bytes() == (source / FILE).read_bytes()


def test_what_others_spent_does_not_count_against_a_cap(elsewhere):
    rows = make_requests("d", 20)
    Path("params.yaml").write_text(json.dumps({"prices": PRICES}))
    write_jsonl(layout.requests("d"), rows[:15])
    with Teacher().running() as url:
        collect(url)
        done("--export", FILE)
        write_jsonl(layout.requests("d"), rows)
        place = elsewhere()
        (place / "params.yaml").write_text(json.dumps({"prices": PRICES}))
        done("--import", place.parent / FILE)
        collect(url, max_dollars=5 * 0.6, concurrency=1)
    told = figures()
    assert [line["attempts"] for line in told["spend"]] == [5, 15]
    assert told["spent_here"]["dollars"] == pytest.approx(0.14)
    assert told["spent_elsewhere"]["dollars"] == pytest.approx(0.42)
    assert told["caps"][0]["committed"] == pytest.approx(0.14)


def test_an_export_for_a_dataset_has_what_its_requests_need(elsewhere):
    """Answers under other limits and to repairs too, so that nothing is asked again."""
    make_requests("other", 30)
    rows = make_requests("d", 20)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    for row in rows[:2]:
        row["response_format"] = schema
        row["request_key"] = key_of(row)
    write_jsonl(layout.requests("d"), rows)

    def fault(body: dict, seen: int):
        if "response_format" in body:
            return completion("{}" if len(body["messages"]) > 2 else "no json")
        longer = (body.get("max_tokens") or body.get("max_completion_tokens")) > 256
        return completion("long" if longer else "lo", "stop" if longer else "length") if seen else None

    knobs = {"repair": True, "on_length": "retry", "retry_max_tokens": 1000}
    teacher = Teacher(fault)
    with teacher.running() as url:
        collect(url, **knobs)
        asked = teacher.calls
        collect(url, "other", min_accept=0.0, on_length="keep")
    assert asked == 40
    before, source = layout.responses("d").read_bytes(), Path.cwd()
    assert "40 requests and 40 attempts" in done("--export", FILE, "d")
    elsewhere()
    done("--import", source / FILE)
    collect("http://127.0.0.1:9/v1", **knobs)
    assert layout.responses("d").read_bytes() == before


def test_an_export_is_the_same_bytes_and_whole_or_not_there(collected, monkeypatch):
    done("--export", FILE)
    first = FILE.read_bytes()
    done("--export", FILE)
    assert FILE.read_bytes() == first
    spoil("UPDATE attempts SET raw = '' WHERE id = 9")
    refused("--export", FILE)
    assert FILE.read_bytes() == first and not [p for p in Path.cwd().iterdir() if p.name.endswith(".tmp")]
    header = json.loads(gzip.decompress(first).splitlines()[0])
    assert header == {"format": "retort.store", "version": 1}


def test_no_secret_of_an_address_is_exported(tmp_path):
    sources = ["https://h/v1?sig=SECRET", "https://me:SECRET@h/v1", "https://h/v1#SECRET", "https://h/a@b/v1"]
    with Store(layout.STORE) as store:
        store.append([Attempt("k", source, status=200, raw="{}") for source in sources])
    done("--export", FILE)
    text = gzip.decompress(FILE.read_bytes()).decode()
    assert "SECRET" not in text and text.count('"https://h/v1"') == 3 and "https://h/a@b/v1" in text
    assert "0 attempts; " in done("--import", FILE) and len(rows_of("attempts")) == 4


def test_a_store_from_before_checksums_can_be_shared(elsewhere, tmp_path):
    layout.STORE.parent.mkdir(parents=True)
    with closing(sqlite3.connect(layout.STORE)) as connection:
        connection.executescript(ONE)
        connection.execute(
            "INSERT INTO attempts (request_key, at, source, raw) VALUES ('k', '2024-05-01', 'u', '{}')"
        )
        connection.commit()
    assert "1 attempts from before checksums have none" in done()
    assert figures()["damage"]["unchecked"] == 1
    done("--export", FILE)
    spoil("INSERT INTO attempts (request_key, at, source, raw) VALUES ('x', 'x', 'u', CAST(x'80' AS TEXT))")
    assert "attempts that fail their checksum (1): 2 (" in refused()  # text that is none shows all the same
    assert "added 0 requests and 0 attempts; 1 attempts of" in done("--import", FILE)
    elsewhere()
    with Store(layout.STORE) as store:
        store.append([])
    spoil("INSERT INTO attempts (request_key, at, source, raw) VALUES ('x', 'x', 'u', CAST(x'80' AS TEXT))")
    assert "added 0 requests and 1 attempts" in done("--import", tmp_path / FILE)
    assert figures()["damage"]["unchecked"] == 1


def test_a_request_known_by_its_keys_alone_is_filled_in(collected, elsewhere):
    source = Path.cwd()
    done("--export", FILE)
    elsewhere()
    with Store(layout.STORE) as store:
        store.refill(source / layout.responses("d"))
    assert len(rows_of("requests WHERE request IS NULL")) == 10
    assert "10 of them taken over from responses.jsonl" in done()
    assert "added 10 requests and 10 attempts" in done("--import", source / FILE)
    assert rows_of("requests WHERE request IS NULL") == [] and "every request its key" in done()


def test_importing_while_another_process_writes(collected, elsewhere):
    source = Path.cwd()
    done("--export", FILE)
    elsewhere()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    done("--import", source / FILE)
    assert process.wait() == 0 and len(rows_of("attempts")) == 210
    assert "every attempt has its checksum" in done()


# Imports that are refused


def lines_of(content: bytes) -> list[bytes]:
    return gzip.decompress(content).splitlines(keepends=True)


def packed(lines: list[bytes]) -> bytes:
    return gzip.compress(b"".join(lines))


def changed(content: bytes, number: int, before: bytes, after: bytes) -> bytes:
    lines = lines_of(content)
    assert before in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(before, after)
    return packed(lines)


def unreadable(content: bytes) -> bytes:
    """A whole gzip file whose end does not fit what it holds."""
    return content[:-8] + zlib.crc32(b"").to_bytes(4, "little") + content[-4:]


BROKEN = {
    "torn": (lambda c: c[: len(c) // 2], r"line \d+: torn"),
    "torn between lines": (lambda c: packed(lines_of(c)[:-1]), "line 21: the end is missing"),
    "one line lost": (
        lambda c: packed(lines_of(c)[:12] + lines_of(c)[13:]),
        "line 21: lines before",
    ),
    "one line more": (lambda c: packed([*lines_of(c), lines_of(c)[3]]), "line 23: lines before this one"),
    "checksum of gzip": (unreadable, "line 23: torn"),
    "answer": (lambda c: changed(c, 15, b"how to", b"why to"), "line 15: the attempt was changed"),
    "request": (lambda c: changed(c, 5, b"About", b"aBout"), "line 5: the request was changed"),
    "dataset": (lambda c: changed(c, 15, b'"d"', b'"e"'), "line 15: the attempt was changed"),
    "seconds": (lambda c: changed(c, 15, b'"seconds":', b'"seconds":1'), "line 22: lines before this one"),
    "newer": (lambda c: changed(c, 1, b"1", b"2"), "line 1: the format has version 2"),
    "other": (lambda c: packed([b'{"id": "p001"}\n']), "line 1: not an export of a store"),
    "no object": (lambda c: changed(c, 2, b"{", b"["), "line 2: not a line of an export"),
    "field lost": (lambda c: changed(c, 2, b'"token_limit"', b'"limit"'), "line 2: expected request with"),
    "null": (
        lambda c: changed(c, 15, b'"source":"http', b'"source":null,"x":"'),
        "line 15: expected",
    ),
    "empty": (lambda c: packed([]), "line 0: the end is missing"),
    "text": (lambda c: b"no gzip file", "line 1: torn, or not written by gzip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_adds_nothing(collected, elsewhere, name):
    source = Path.cwd()
    done("--export", FILE)
    spoilt, message = BROKEN[name]
    content = spoilt(FILE.read_bytes())
    elsewhere()
    FILE.write_bytes(content)
    told = refused("--import", FILE)
    assert re.search(f"{FILE}, {message}", told), told
    assert "Nothing was imported" in told
    assert rows_of("attempts") == [] and rows_of("requests") == []
    assert "added 10 requests and 10 attempts" in done("--import", source / FILE)


def test_values_that_no_store_can_hold_are_refused(collected, elsewhere):
    """Checksums are no secret: whoever changes a line can change them too."""
    with Store(layout.STORE) as store:
        (row, *_) = attempts_in(store.reader)
    row = {name: value for name, value in row.items() if name not in ("id", "foreign_spend")}
    elsewhere()
    for change in ({"status": ["no"]}, {"status": 10**30}, {"dataset": {"a": 1}}, {"at": None}):
        bad = {**row, **change}
        pack(FILE, [("attempt", {**bad, "checksum": checksum(bad)})])
        assert "answers.jsonl.gz, line 2: " in refused("--import", FILE)
    assert rows_of("attempts") == []


def test_what_does_not_go_together(collected):
    assert "one at a time" in refused("--import", FILE, "--export", FILE)
    assert "belong to an export" in refused("d")
    assert "data is a folder: name a file" in refused("--export", "data")
    assert "no such file" in refused("--import", FILE)
    assert "requests.jsonl: no such file" in refused("--export", FILE, "nobody") and not FILE.exists()
