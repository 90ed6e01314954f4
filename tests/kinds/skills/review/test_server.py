"""The server of the review page, as a real process."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.core.files import write_jsonl
from stages.kinds.skills.parts.review.decisions import read_decisions, save_decisions
from tests.helpers.workspace import ROOT
from tests.kinds.skills.review.test_decisions import candidates, first, make_project, row_of, run


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


@contextmanager
def serving(root: Path, port: int = 0):
    """A real server process; yields its address and the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "review", "otto", "--port", str(port)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line)[0].rstrip("/"), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(url: str, body=None, **headers: str) -> tuple[int, dict | str, dict]:
    data = None if body is None else json.dumps(body).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **named})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            status, text, found = reply.status, reply.read().decode(), reply.headers
    except urllib.error.HTTPError as error:
        status, text, found = error.code, error.read().decode(), error.headers
    return status, json.loads(text) if text.startswith(("{", "[")) else text, found


def sent(user: str, wanted: dict | None, seen: dict | None = None) -> dict:
    return {"changes": [{"id": row_of(user)["id"], "wanted": wanted, "seen": seen}]}


ACCEPT, REJECT = {"decision": "accept"}, {"decision": "reject"}


def test_the_server_saves_and_tells_what_changed(project):
    path, name = project / "prompts/otto/decisions.jsonl", row_of("weather")["id"]
    with serving(project) as (url, _), serving(project) as (second, _):
        state = ask(f"{url}/api/state")[1]
        assert [row["id"] for row in state["candidates"]["rows"]] == [row["id"] for row in candidates()]
        assert state["decisions"]["rows"] == {} and state["dataset"] == "otto"
        versions = f"candidates={state['candidates']['version']}&decisions={state['decisions']['version']}"
        versions = versions.replace(" ", "%20")
        assert ask(f"{url}/api/state?{versions}")[1] == {"dataset": "otto"}
        assert ask(f"{url}/api/decisions", sent("weather", ACCEPT))[:2] == (
            200,
            {"decisions": {name: ACCEPT}},
        )
        assert read_decisions(path)[name]["decision"] == "accept"
        # Another server on the same file, which saw nothing of it:
        status, body, _ = ask(f"{second}/api/decisions", sent("weather", REJECT))
        assert (status, body) == (409, {"conflicts": {name: ACCEPT}})
        assert ask(f"{second}/api/decisions", sent("weather", REJECT, ACCEPT))[0] == 200
        assert ask(f"{url}/api/state?{versions}")[1]["decisions"]["rows"] == {name: REJECT}
        assert ask(f"{url}/api/decisions", sent("weather", None, REJECT))[1] == {"decisions": {name: None}}
        assert path.read_text() == ""
        # A change by hand, one that breaks the file, and its repair:
        save_decisions(path, [first("42", "accept")])
        whole = path.read_text()
        assert list(ask(f"{url}/api/state")[1]["decisions"]["rows"]) == [row_of("42")["id"]]
        path.write_text(whole[:-5])
        assert "decisions.jsonl, row 1: not valid JSON" in ask(f"{url}/api/state")[1]["problem"]
        status, body, _ = ask(f"{url}/api/decisions", sent("weather", ACCEPT))
        assert status == 500 and "row 1: not valid JSON" in body["problem"] and path.read_text() == whole[:-5]
        path.write_text(whole)
        assert ask(f"{url}/api/decisions", sent("weather", ACCEPT))[0] == 200


def test_the_server_checks_edits_and_candidates(project):
    name = row_of("weather")["id"]
    with serving(project) as (url, _):
        edit = {"decision": "edit", "new_user": "weather", "new_call": "weather(city='x')"}
        problem = "weather has no parameter 'city' (it has location)"
        assert ask(f"{url}/api/decisions", sent("weather", edit))[:2] == (422, {"problems": {name: problem}})
        assert ask(f"{url}/api/decisions", sent("weather", {**edit, "new_user": " "}))[0] == 422
        edit["new_call"] = "weather(location='Rome')"
        stored = {**edit, "new_call": 'weather(location="Rome")'}
        assert ask(f"{url}/api/decisions", sent("weather", edit))[1] == {"decisions": {name: stored}}
        unknown = {"changes": [{"id": "nobody", "wanted": ACCEPT, "seen": None}]}
        assert "no longer there" in ask(f"{url}/api/decisions", unknown)[1]["problems"]["nobody"]
        for body in ({}, [], {"changes": [1]}, {"changes": [{"id": name}]}):
            assert ask(f"{url}/api/decisions", body)[0] == 400
        neighbours = ask(f"{url}/api/neighbours/{row_of('What is the weather in your')['id']}")[1]
        assert row_of("What is the weather in Berlin")["id"] in neighbours
        assert ask(f"{url}/api/neighbours/nobody")[0] == 404
        half = {**edit, "new_user": "\ud800"}
        assert "surrogate" in ask(f"{url}/api/decisions", sent("weather", half))[1]["problems"][name]
        assert ask(f"{url}/api/decisions", sent("Yeah", {"decision": "reject"}))[0] == 200
        edit = {"decision": "edit", "new_user": "Yeah, potentially.", "new_call": "other()"}
        status, body, _ = ask(f"{url}/api/decisions", sent("42", edit))
        assert status == 422 and "was rejected" in body["problems"][row_of("42")["id"]]
        # The candidates are made again, then removed for the next time:
        write_jsonl(project / "data/otto/candidates/candidates.jsonl", candidates()[:3])
        assert len(ask(f"{url}/api/state")[1]["candidates"]["rows"]) == 3
        (project / "data/otto/candidates/candidates.jsonl").unlink()
        state = ask(f"{url}/api/state")[1]
        assert "dvc repro candidates@otto" in state["problem"] and len(state["candidates"]["rows"]) == 3


def test_only_pages_of_this_server_may_use_it(project):
    with serving(project) as (url, _):
        body, port = sent("weather", ACCEPT), url.rpartition(":")[2]
        save = f"{url}/api/decisions"
        assert ask(save, body, Origin="https://example.com")[0] == 403
        assert ask(save, body, Origin="null")[0] == 403
        assert ask(save, body, Origin=f"http://127.0.0.1:{int(port) + 1}")[0] == 403
        assert ask(save, body, Host=f"evil.example:{port}")[0] == 403
        assert ask(f"{url}/api/state", Host=f"127.0.0.1.evil.example:{port}")[0] == 403
        assert ask(save, body, Content_Type="text/plain")[0] == 403
        assert not (project / "prompts").exists()
        assert ask(save, body, Origin=url)[0] == 200
        assert ask(f"{url}/api/state", Host="localhost:9000")[0] == 200  # a tunnel
        _, page, headers = ask(url)
        nonce = re.search(r"script-src 'nonce-([^']+)'", headers["Content-Security-Policy"])[1]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert f'<script nonce="{nonce}">' in page and nonce not in ask(url)[1]
        assert "Access-Control-Allow-Origin" not in headers and headers["Cache-Control"] == "no-store"
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", page)
        assert not re.search(r'(?:src|href)="(?!data:)', page)  # self-contained
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.2:{port}", timeout=2)


def test_what_no_page_sends_is_refused_and_not_failed_on(project):
    with serving(project) as (url, _):
        save = f"{url}/api/decisions"
        assert ask(f"{url}/api/state", Host="[")[0] == 403
        assert ask(f"{url}/api/state?self=1&decisions=1&decisions=2")[0] == 200
        assert ask(save, {}, Content_Type="application/json; charset=foo")[0] == 400
        deep = urllib.request.Request(save, b"[" * 100_000, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(deep, timeout=20)


def test_nothing_to_review_names_the_command(project):
    (project / "data/otto/candidates/candidates.jsonl").write_text("")
    for arguments in (["otto"], ["otto", "--export", "table.csv"]):
        done = run(*arguments, root=project)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "nothing to review yet; make candidates first: `dvc repro candidates@otto`" in done.stderr


def test_a_taken_port_is_one_line(project):
    with serving(project) as (url, _):
        done = run("otto", "--port", url.rpartition(":")[2], root=project)
        assert done.returncode == 2 and "Address already in use; name another one" in done.stderr
        assert done.stderr.count("\n") == 1
