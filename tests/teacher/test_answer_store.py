"""The store: append-only, shared, durable, and refilled from pulled answers that DVC has deleted."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stages.collect import run as run_collect
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_jsonl
from stages.teacher.identity import key_of
from stages.teacher.knobs import CollectKnobs
from stages.teacher.outcomes import Answer
from stages.teacher.resolve import Policy, follow_up, resolve
from stages.teacher.store import store as store_module
from stages.teacher.store.schema import MIGRATIONS, ONE, VERSION
from stages.teacher.store.store import Attempt, Store
from tests.helpers.teacher_server import Teacher, make_requests, responses

ROOT = Path(__file__).resolve().parents[2]
RAW = '{"choices": [{"message": {"content": "%s"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, \
"completion_tokens": 1}, "model": "m"}'
WRITER = """
import sys
from pathlib import Path
from stages.teacher.store.store import Attempt, Store
with Store(Path("s/store.sqlite")) as store:
    for n in range(100):
        store.append([Attempt(f"{sys.argv[1]}-{n}", "test", status=200, raw=sys.argv[2])])
"""


def request(word: str = "hi") -> dict:
    row = {"model": "m", "messages": [{"role": "user", "content": word}], "params": {"max_tokens": 9}}
    return {**row, "request_key": key_of(row)}


def answer(store: Store, row: dict) -> str | None:
    """The text that counts as the answer, or None."""
    found = resolve(row, store, Policy({})).answer
    return found and found.response


def test_identity_is_everything_that_can_change_an_answer_and_nothing_else():
    messages = [{"role": "user", "content": "hi"}]
    params = {"temperature": 0.5, "max_tokens": 9}
    whole = {"model": "m", "messages": messages, "params": params}
    key = key_of(whole)
    assert key == "4cd5d02af6850196d040de09902641c5ad727571e2577fc780db224e205d54fb"
    same = [{"content": "hi", "role": "user"}]
    assert key == key_of({**whole, "messages": same, "params": {"max_tokens": 9, "temperature": 0.5}})
    others = [
        key_of({**whole, **change})
        for change in (
            {"model": "m2"},
            {"messages": [{"role": "system", "content": "hi"}]},
            {"params": {**params, "temperature": 0.6}},
            {"sample": 1},
            {"tools": [{}]},
            {"response_format": {}},
        )
    ]
    assert len({key, *others}) == 7


@pytest.mark.parametrize(
    "choices, key",
    [
        ({}, "ce33958f96c971ff05e835f031ab9d204254e8adcb76933b9b52c8032323063e"),
        ({"n": 3}, "b8a6e429d092feb1e91a489266c7fc2878d4efdf989be445f4a830992c5d886c"),
    ],
)
def test_a_repair_keeps_its_key(choices, key):
    """Else it would be paid for again."""
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    params = {"temperature": 0.5, "max_tokens": 9, **choices}
    row = {"model": "m", "messages": messages, "params": params, "response_format": {"type": "json_object"}}
    row |= {"sample": 2, "choice": 1 if choices else 0}
    invalid = Answer("invalid", "[5]", problem="0: 5 is not a 'string'")
    assert follow_up(row, invalid, Policy({}, repair=True))["request_key"] == key
    assert follow_up(row, invalid, Policy({})) is None


def test_first_answer_counts_and_what_is_no_answer_does_not(tmp_path):
    row = request()
    key = row["request_key"]
    with Store(tmp_path / "s.sqlite") as store:
        assert answer(store, row) is None
        store.append([Attempt(key, "u", 1.0, 500, "500"), Attempt(key, "u", 1.0, 200, raw="<html>")], [row])
        assert answer(store, row) is None
        for text in ("one", "two"):
            store.append([Attempt(key, "u", 1.0, 200, raw=RAW % text)])
        assert answer(store, row) == "one" and store.bodies(row) == ["<html>", RAW % "one", RAW % "two"]
    with Store(tmp_path / "s.sqlite") as store:  # it outlives its process
        assert answer(store, row) == "one"
        ledger = store.reader.execute("SELECT status, error, prompt_tokens FROM ledger").fetchall()
        assert ledger == [(500, "500", None), (200, None, None), (200, None, 3), (200, None, 3)]
        for change in ("DELETE FROM attempts", "UPDATE attempts SET raw = ''"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                store.writer.execute(change)


@pytest.mark.slow
def test_many_processes_open_and_write_at_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(n), RAW % n], cwd=tmp_path, env=environment)
        for n in range(4)
    ]
    assert [process.wait() for process in running] == [0] * 4
    with Store(tmp_path / "s/store.sqlite") as store:
        bodies = [store.bodies({"request_key": f"{n}-{i}"}) for n in range(4) for i in range(100)]
    assert bodies == [[RAW % n] for n in range(4) for _ in range(100)]


def test_stores_that_cannot_be_used(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("this is no database, but a text file of some length" * 50)
    with pytest.raises(UserError, match=r"s\.sqlite: cannot be opened .*move it away"):
        Store(path)
    path.unlink()
    with Store(path) as store:
        store.writer.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(UserError, match="newer version"):
        Store(path)


def test_disk_full_is_an_oserror_and_earlier_answers_stay(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.append([Attempt("k", "u", raw=RAW % "one")])
        pages = store.writer.execute("PRAGMA page_count").fetchone()[0]
        store.writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="disk full") as caught:
            store.append([Attempt("k2", "u", raw=RAW % ("x" * 100_000))])
        assert caught.value.filename == str(tmp_path / "s.sqlite")
        assert store.bodies({"request_key": "k"}) == [RAW % "one"] and not store.knows("k2")


# Stores of earlier versions

LEDGER_ONE = """
CREATE VIEW ledger AS SELECT id, request_key, at, source, seconds, status, error,
    CASE WHEN json_valid(raw) THEN json_extract(raw, '$.usage.prompt_tokens') END AS prompt_tokens
FROM attempts WHERE source != 'import';
"""
OLD_IMPORT = '{"object": "retort.imported", "outcome": "ok", "response": "kept", "usage": null, "model": "m"}'
DIES = """
import os, sqlite3
from pathlib import Path
from stages.teacher.store import store
from stages.teacher.store.schema import ONE, TWO

class Connection(sqlite3.Connection):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.create_function("die", 0, lambda: os.kill(os.getpid(), 9))

connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)
store.MIGRATIONS = (ONE, TWO.replace("CREATE VIEW batches", "SELECT die(); CREATE VIEW batches"))
store.Store(Path("s.sqlite"))
"""


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A store of version 1, with an answer, a failure and an answer taken over."""
    monkeypatch.chdir(tmp_path)
    keys = [request(word)["request_key"] for word in ("one", "two", "three")]
    with closing(sqlite3.connect("s.sqlite")) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {ONE} {LEDGER_ONE}")
        connection.executemany(
            "INSERT INTO attempts (request_key, at, source, seconds, status, error, raw) "
            "VALUES (?, '2024-05-01T10:00:00.000+00:00', ?, 1.5, ?, ?, ?)",
            [
                (keys[0], "http://u/v1", 200, None, RAW % "eins"),
                (keys[1], "http://u/v1", 500, "500", None),
                (keys[2], "import", None, None, OLD_IMPORT),
            ],
        )
        connection.commit()
    return tmp_path / "s.sqlite"


def test_a_store_of_version_1_keeps_all_its_answers(old):
    for _ in range(2):
        with Store(old) as store:
            assert store.reader.execute("PRAGMA user_version").fetchone() == (VERSION,)
            texts = [answer(store, request(word)) for word in ("one", "two", "three")]
            assert texts == ["eins", None, "kept"]
            query = "SELECT at, status, prompt_tokens, dollars, dataset FROM ledger"
            at = "2024-05-01T10:00:00.000+00:00"
            assert store.reader.execute(query).fetchall() == [
                (at, 200, 3, None, None),
                (at, 500, None, 0.0, None),
            ]
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                store.writer.execute("UPDATE attempts SET dataset = 'd'")


def test_a_migration_that_fails_changes_nothing(old, monkeypatch):
    monkeypatch.setattr(store_module, "MIGRATIONS", (ONE, f"{MIGRATIONS[1]} CREATE TABLE attempts (id);"))
    with pytest.raises(UserError, match="cannot be opened .*already exists"):
        Store(old)
    monkeypatch.undo()
    test_a_store_of_version_1_keeps_all_its_answers(old)


def test_a_store_that_was_killed_while_it_was_made_is_not_there(tmp_path, monkeypatch):
    """An empty file would be one that is damaged."""
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", DIES], env=env)
    assert killed.returncode == -9 and not Path("s.sqlite").exists()
    with Store(Path("s.sqlite")) as store:
        assert not store.knows("0" * 64)
    assert not list(Path().glob(".*.tmp"))


def test_a_migration_that_is_killed_changes_nothing(old):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", DIES], cwd=old.parent, env=environment).returncode == -9
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(connection.execute("SELECT * FROM attempts").fetchall()[0]) == 8  # its columns
    test_a_store_of_version_1_keeps_all_its_answers(old)


# A pulled clone


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": ".dvc/site",
        },
    )


def configure(remote: Path, cache: Path) -> None:
    """What `dvc init`, `dvc remote add` and `dvc cache dir` write."""
    Path(".dvc").mkdir(exist_ok=True)
    Path(".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    text = (
        f"[core]\n    remote = there\n['remote \"there\"']\n    url = {remote}\n[cache]\n    dir = {cache}\n"
    )
    Path(".dvc/config").write_text(text)


def git(*arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True, capture_output=True
    )


def ran(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


@pytest.mark.slow
def test_a_pulled_clone_without_network_or_key_reuses_answers_that_dvc_has_deleted(tmp_path, monkeypatch):
    """The upstream changes: DVC deletes responses.jsonl and only then runs collect, whose store is empty."""
    python = f"{sys.executable} -m stages collect d --api_key_env NO_SUCH_KEY --base_url"
    first = tmp_path / "first"
    first.mkdir()
    monkeypatch.chdir(first)
    rows = make_requests("d", 20)
    requests = layout.requests("d").read_text().splitlines(keepends=True)
    git("init", "-q")
    Path(".gitignore").write_text("data/teacher\ndata/d/corpus\nreports\n/data/d/responses.jsonl\n")
    configure(tmp_path / "remote", tmp_path / "first-cache")
    with Teacher().running() as url:
        Path("dvc.yaml").write_text(
            f"stages:\n  collect:\n    foreach: {{d: {{}}}}\n    do:\n      cmd: {python} {url}\n"
            "      deps:\n        - data/${key}/requests.jsonl\n"
            "      outs:\n        - data/${key}/responses.jsonl\n"
        )
        monkeypatch.setenv("NO_SUCH_KEY", "here-it-is")
        ran(dvc("repro"))
    before = layout.responses("d").read_bytes()
    ran(dvc("push"))
    git("add", "-A")
    git("commit", "-qm", "answers")

    clone = tmp_path / "clone"
    git("clone", "-q", str(first), str(clone))
    monkeypatch.chdir(clone)
    monkeypatch.delenv("NO_SUCH_KEY")
    configure(tmp_path / "remote", tmp_path / "clone-cache")  # a cache elsewhere is found as well
    ran(dvc("pull"))
    shutil.rmtree(tmp_path / "remote")
    assert layout.responses("d").read_bytes() == before and not layout.STORE.exists()
    layout.requests("d").write_text("".join(requests[1:]))  # a page has gone: the dependency changed
    told = ran(dvc("repro"))
    assert "20 answers taken over from" in told and "clone-cache" in told and "0 to ask" in told
    assert responses("d") == [row for row in map(_loads, before.splitlines()) if row["id"] != rows[0]["id"]]
    layout.requests("d").write_text("".join(requests))
    assert "20 answers stored, 0 to ask" in ran(dvc("repro"))
    assert layout.responses("d").read_bytes() == before

    shutil.rmtree(layout.STORE.parent)  # and where nothing was pulled, the way to mend it is told
    shutil.rmtree(tmp_path / "clone-cache")
    layout.responses("d").unlink()
    process = dvc("repro")
    assert (
        process.returncode != 0 and "`dvc pull data/d/responses.jsonl` saves asking again" in process.stderr
    )
    assert "set NO_SUCH_KEY" in process.stderr and "Traceback" not in process.stderr


def _loads(line: bytes) -> dict:
    import json

    return json.loads(line)


def test_a_damaged_responses_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_requests("d", 10)
    layout.responses("d").write_text('{"id": "p001"}\n')
    with pytest.raises(UserError, match=r"responses\.jsonl, row 1: field 'request_key' is missing"):
        run_collect("d", CollectKnobs())


@pytest.mark.parametrize(
    "change",
    [
        {"request_key": ["a"]},
        {"response": {"text": 1}},
        {"token_limit": 10**30},
        {"outcome": "wonderful"},
    ],
)
def test_answers_of_another_machine_are_checked_before_any_is_taken_over(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    make_requests("d", 3)
    with Teacher().running() as url:
        run_collect("d", CollectKnobs(base_url=url, api_key_env=""))
    rows = responses("d")
    layout.STORE.unlink()
    write_jsonl(layout.responses("d"), [*rows[:2], rows[2] | change])
    with Store(layout.STORE) as store:
        with pytest.raises(UserError, match=r"responses\.jsonl, row 3: "):
            store.refill(layout.responses("d"))
        assert store.reader.execute("SELECT count(*) FROM attempts").fetchone() == (0,)


def test_an_answer_of_which_no_limit_is_told_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {**request(), "question_key": "0" * 64, "outcome": "ok", "response": "hi", "usage": None}
    write_jsonl(Path("responses.jsonl"), [row])
    with Store(layout.STORE) as store:
        assert store.refill(Path("responses.jsonl")) == 1 and answer(store, request()) == "hi"
