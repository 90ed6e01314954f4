"""`make store`: what the store holds and whether it is sound; how damaged rows are removed."""

import json
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stages.collect import run as run_collect
from stages.commands.store import cli
from stages.core import layout, pacing
from stages.core.errors import UserError
from stages.core.files import read_json, read_jsonl, write_jsonl
from stages.teacher.batch.store import insert_event, insert_row
from stages.teacher.identity import key_of
from stages.teacher.knobs import CollectKnobs
from stages.teacher.money import Budget
from stages.teacher.prices import price_of
from stages.teacher.store.schema import ONE, VERSION
from stages.teacher.store.store import Attempt, Store
from tests.helpers.teacher_server import Teacher, completion, failure, make_requests, word_of

PRICES = {"version": "2024-05", "models": {"embedded": {"input": 1000, "output": 2000}}}
COPY = Path("data/teacher/store.sqlite.damaged")


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    monkeypatch.chdir(tmp_path)


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
    assert "there is nothing to salvage" in refused("--salvage")
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
    assert [told[name] for name in ("schema_version", "requests", "attempts", "answers")] == [
        VERSION,
        30,
        31,
        30,
    ]
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


def test_what_another_store_paid_is_told_apart(collected):
    """Earlier versions could import answers: their cost is no cost of ours."""
    spoil("UPDATE attempts SET foreign_spend = 1 WHERE id <= 4")
    assert [line["attempts"] for line in figures()["spend"]] == [6, 4]
    assert figures()["spent_here"] == {"dollars": 0.0, "unknown_cost": 6}
    assert figures()["spent_elsewhere"] == {"dollars": 0.0, "unknown_cost": 4}
    assert "online, imported" in done() and "spent elsewhere, by those whose answers were imported" in done()


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
    assert "open batch b1 of d: 7 rows, submitted, " in shown and ", since 2" in shown


# Wrong answers


@pytest.mark.parametrize("by", ["question_key", "request_key", "number"])
def test_an_answer_that_is_disowned_is_asked_for_again(collected, by):
    wrong = read_jsonl(layout.responses("d"))[3]
    number = rows_of(f"attempts WHERE request_key = '{wrong['request_key']}'")[0][0]
    spent = figures()["spent_here"]
    assert "answers disowned: 1; what they cost stays spent" in done("--disown", wrong.get(by) or number)
    assert "no answer that counts is of" in refused("--disown", wrong.get(by) or number)
    assert "10 answers, of which 1 are disowned" in done() and figures()["spent_here"] == spent
    teacher = Teacher(answer=lambda messages: "better")
    with teacher.running() as url:
        for _ in range(2):
            assert collect(url)["outcomes"] == {"ok": 10}
    assert teacher.calls == 1  # and responses.jsonl, which has the wrong answer, was not believed
    texts = [row["response"] for row in read_jsonl(layout.responses("d"))]
    assert texts[3] == "better" and texts.count("better") == 1
    assert figures()["attempts"] == 11


def test_an_answer_under_another_limit_is_disowned_by_its_question(collected):
    """The row's own request was never asked."""
    rows = read_jsonl(layout.requests("d"))
    for row in rows:
        row["params"]["max_tokens"] += 1
    write_jsonl(layout.requests("d"), [{**row, "request_key": key_of(row)} for row in rows])
    teacher = Teacher(answer=lambda messages: "better")
    with teacher.running() as url:
        collect(url)
        assert teacher.calls == 0
        wrong = read_jsonl(layout.responses("d"))[3]
        done("--disown", wrong["question_key"])
        collect(url)
    assert teacher.calls == 1 and read_jsonl(layout.responses("d"))[3]["response"] == "better"


def test_an_answer_that_was_taken_over_can_be_disowned(collected):
    layout.STORE.unlink()
    teacher = Teacher(answer=lambda messages: "better")
    with teacher.running() as url:
        collect(url)
        done("--disown", read_jsonl(layout.responses("d"))[3]["question_key"])
        collect(url)
    assert teacher.calls == 1 and read_jsonl(layout.responses("d"))[3]["response"] == "better"


def test_what_was_not_accepted_is_named_by_the_key_that_disowns_it():
    make_requests("d", 10)
    no = completion(None, refusal="I will not")
    with Teacher(lambda body, seen: no if word_of(body) == "word3" else None).running() as url:
        collect(url)
        shown = read_json(layout.figures("d") / "failures.json")["refusal"]["examples"][0]["question_key"]
        done("--disown", shown)
    teacher = Teacher()
    with teacher.running() as url:
        assert collect(url)["outcomes"] == {"ok": 10}
    assert teacher.calls == 1


@pytest.mark.parametrize("name", ["p003", "", "1e1", "0" * 63, "-1", "' OR 1"])
def test_what_is_no_key_disowns_nothing(collected, name):
    assert "expected the question_key of a row of responses.jsonl" in refused("--disown", name)
    assert figures()["disowned"] == 0


def test_an_attempt_that_takes_the_number_of_a_removed_one_is_not_disowned(collected):
    done("--disown", "10")
    with closing(sqlite3.connect(layout.STORE)) as connection:
        connection.execute("DROP TRIGGER no_update")
        connection.execute("UPDATE attempts SET raw = 'x' WHERE id = 10")
        connection.commit()
    done("--salvage")
    with Store(layout.STORE) as store:
        store.append([Attempt("k", "u", raw="{}")])
        assert rows_of("attempts")[-1][0] == 10 and store.knows("k") == 1


# Damage


@pytest.fixture
def collected():
    """A small store that was filled by collect; returns its requests."""
    rows = make_requests("d", 10)
    with Teacher().running() as url:
        collect(url)
    return rows


@pytest.mark.parametrize("value", ["CAST(x'7b80' AS TEXT)", "replace(raw, 'how', 'why')", "NULL", "x'00'"])
def test_a_damaged_attempt_is_named_and_can_be_removed(collected, value):
    spoil(f"UPDATE attempts SET raw = {value} WHERE id = 3")
    key = rows_of("attempts WHERE id = 3")[0][1] if value != "CAST(x'7b80' AS TEXT)" else ""
    message = refused()
    assert f"attempts that fail their checksum (1): 3 (request {key}" in message
    assert "To fix it, put a backup" in message
    assert figures()["damage"]["attempts"][0]["id"] == 3

    assert "removed 1 damaged attempts and 0 damaged requests" in done("--salvage")  # as advised
    with closing(sqlite3.connect(COPY)) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (10,)
    assert "nothing is damaged" in done("--salvage") and "every attempt has its checksum" in done()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), Store(layout.STORE) as store:
        store.writer.execute("DELETE FROM attempts")
    teacher = Teacher()
    layout.responses("d").unlink()
    with teacher.running() as url:
        collect(url)
    assert teacher.calls == 1 and "every attempt has its checksum" in done()


@pytest.mark.parametrize("value", ["replace(raw, 'how', 'why')", "replace(raw, 'stop', 'length')", "x'00'"])
def test_a_damaged_answer_is_not_used(collected, value):
    spoil(f"UPDATE attempts SET raw = {value} WHERE id = 3")
    teacher = Teacher()
    with teacher.running() as url, pytest.raises(UserError, match=r"attempt 3 fails its checksum.*SALVAGE"):
        collect(url)
    assert teacher.calls == 0


def test_a_store_of_no_bytes_is_no_new_one(collected):
    for beside in layout.STORE.parent.glob("store.sqlite-*"):
        beside.unlink()
    layout.STORE.write_bytes(b"")
    assert "is damaged: it has 0 bytes" in refused()
    with Teacher().running() as url, pytest.raises(UserError, match="it has 0 bytes"):
        collect(url)


def test_a_damaged_request_is_named(collected):
    key = collected[4]["request_key"]
    spoil("UPDATE requests SET request = replace(request, 'About', 'aBout') WHERE request_key = ?", key)
    spoil("UPDATE requests SET token_limit = 1 WHERE request_key = ?", collected[5]["request_key"])
    message = refused()
    assert "requests that do not have their key (2): " in message and key in message
    assert sorted(figures()["damage"]["requests"]) == sorted([key, collected[5]["request_key"]])
    COPY.touch()
    assert "store.sqlite.damaged exists: move it away" in refused("--salvage")
    COPY.unlink()
    assert "removed 0 damaged attempts and 2 damaged requests" in done("--salvage")
    assert len(rows_of("requests")) == 8 and len(rows_of("attempts")) == 10
    assert "every request its key" in done()


def test_a_damaged_request_in_an_open_batch_is_kept(collected):
    key = collected[4]["request_key"]
    detail = {"source": "http://h/v1", "dataset": "d", "model": "m", "price": None, "rows": 1}
    with Store(layout.STORE) as store, store.transaction() as writer:
        insert_event(writer, "b1", "intended", detail)
        insert_row(writer, "b1", key)
    spoil("UPDATE requests SET token_limit = 1 WHERE request_key = ?", key)
    assert "a damaged request is in the open batch b1" in refused("--salvage")
    assert len(rows_of("requests")) == 10 and not COPY.exists()


def test_a_file_that_sqlite_cannot_read_is_told(collected):
    content = bytearray(layout.STORE.read_bytes())
    with closing(sqlite3.connect(layout.STORE)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'attempts'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content[(page - 1) * size : page * size] = b"\xff" * size
    layout.STORE.write_bytes(content)
    told = refused()
    assert "sqlite says (" in told and "SALVAGE=1" in told and figures()["damage"]["file"]
    with Teacher().running() as url, pytest.raises(UserError, match=r"is damaged: .*SALVAGE=1"):
        collect(url)
    layout.STORE.write_text("no database at all" * 1000)
    assert "cannot be opened" in refused() and "cannot be opened" in refused("--salvage")


@pytest.fixture
def large():
    """A store of many pages, of answers that fill one or two each; returns its requests."""
    rows = make_requests("d", 200)
    Path("params.yaml").write_text(json.dumps({"prices": PRICES}))
    with Teacher(answer=lambda messages: f"{messages[-1]['content']}\n" + "how-to-" * 150).running() as url:
        collect(url, max_dollars=1000)
    return rows


def overwrite_pages(marker: str, value: int = 0xFF) -> None:
    """What a disk can do to the pages of the store that hold `marker`."""
    content, size = bytearray(layout.STORE.read_bytes()), 4096
    for place in range(size, len(content), size):
        if marker.encode() in content[place : place + size]:
            content[place : place + size] = bytes([value]) * size
    layout.STORE.write_bytes(content)


@pytest.mark.parametrize("damaged", [(1,), (100,), (200,), (1, 100, 200)], ids=str)
@pytest.mark.parametrize("value", [0, 0xFF])
def test_what_can_be_read_of_a_broken_file_is_copied(large, damaged, value):
    before, (cap,) = figures(), figures()["caps"]
    keys = dict(rows_of("(SELECT id, raw FROM attempts)"))
    for number in damaged:
        overwrite_pages(keys[number][:200], value)
    assert "SALVAGE=1" in refused()
    readable = 0
    with closing(sqlite3.connect(layout.STORE)) as connection:
        for number in keys:
            with suppress(sqlite3.DatabaseError):
                readable += len(connection.execute(f"SELECT * FROM attempts WHERE id = {number}").fetchall())

    told = done("--salvage").splitlines()
    assert "store.sqlite.salvaged exists: move it away" in refused("--salvage")
    lost = int(told[1].removeprefix("lost: at least ").removesuffix(" attempts"))
    assert len(damaged) <= lost == 200 - readable
    assert f"200 requests, {200 - lost} attempts, 0 disowned" in told[0]
    assert told[2] == "tables that could not be read in full: attempts"

    subprocess.run(next(line for line in told if line.startswith("  mv ")), shell=True, check=True)
    assert "every attempt has its checksum" in done()
    assert dict(rows_of("(SELECT id, raw FROM attempts)")).items() < keys.items()
    assert figures()["caps"][0]["committed"] == cap["committed"]
    assert figures()["spent_here"]["dollars"] < before["spent_here"]["dollars"]
    teacher = Teacher()
    with teacher.running() as url:
        assert collect(url, max_dollars=1000)["outcomes"] == {"ok": 200}
    assert teacher.calls == 0  # responses.jsonl had the others


def test_a_file_that_was_cut_off_or_is_of_an_earlier_version_is_read_as_far_as_it_goes(large):
    with closing(sqlite3.connect(layout.STORE)) as connection:
        connection.executescript("DROP TABLE disowned; DROP TABLE costs; PRAGMA user_version = 2")
    content = layout.STORE.read_bytes()
    layout.STORE.write_bytes(content[: len(content) // 2 // 4096 * 4096])
    assert "SALVAGE=1" in refused()
    told = done("--salvage").splitlines()
    kept = int(told[0].split(" attempts")[0].split()[-1])
    assert 50 < kept < 200 and told[1] == "lost: at least 0 attempts"
    Path(f"{layout.STORE}.salvaged").replace(layout.STORE)
    assert f"{kept} attempts with {kept} answers" in done()


def test_open_batches_of_which_requests_are_lost_are_named(large):
    detail = {"source": "http://h/v1", "dataset": "d", "model": "m", "price": None, "rows": 1}
    with Store(layout.STORE) as store, store.transaction() as writer:
        insert_event(writer, "b1", "intended", detail)
        insert_row(writer, "b1", large[4]["request_key"])
    (content,) = rows_of(f"(SELECT request FROM requests WHERE request_key = '{large[4]['request_key']}')")[0]
    overwrite_pages(content[:200])
    told = done("--salvage")
    assert "lost: at least 0 attempts\ntables that could not be read in full: requests\n" in told
    assert "open batches of which requests are lost: b1; give them up" in told


def test_a_store_from_before_checksums_can_be_checked():
    layout.STORE.parent.mkdir(parents=True)
    with closing(sqlite3.connect(layout.STORE)) as connection:
        connection.executescript(ONE)
        connection.execute(
            "INSERT INTO attempts (request_key, at, source, raw) VALUES ('k', '2024-05-01', 'u', '{}')"
        )
        connection.commit()
    assert "1 attempts from before checksums have none" in done()
    assert figures()["damage"]["unchecked"] == 1
    spoil("INSERT INTO attempts (request_key, at, source, raw) VALUES ('x', 'x', 'u', CAST(x'80' AS TEXT))")
    assert "attempts that fail their checksum (1): 2 (" in refused()  # text that is none shows all the same
    assert "removed 1 damaged attempts" in done("--salvage") and len(rows_of("attempts")) == 1


def test_what_a_terminal_would_obey_is_shown(collected):
    with Store(layout.STORE) as store:
        store.append([Attempt("k", "u", dataset="a\x1b[2Jb\x9b", mode="x\rspoof")])
    told = run().stdout
    assert "a\\x1b[2Jb\\x9b" in told and "x\\rspoof" in told and not set("\x1b\x9b\r") & set(told)
