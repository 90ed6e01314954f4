"""The embedded teacher speaks the protocol for real, over a socket, to the true client."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from stages.collect import CollectKnobs, command
from stages.support import layout
from stages.teacher.server import complete, embedded
from tests.teacher_server import Teacher, fake_answer, make_requests, responses

ASKED = [{"role": "user", "content": "Title: numpy.sort\n\nReturn a sorted copy of an array."}]


def post(url: str, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_completion_has_the_protocol_shape_and_honours_max_tokens():
    body = {"model": "embedded-teacher", "messages": [{"role": "user", "content": "use sort"}]}
    whole = complete(body, fake_answer)
    assert whole["choices"][0]["message"]["content"] == fake_answer(body["messages"])
    assert whole["choices"][0]["finish_reason"] == "stop" and whole["model"] == "embedded-teacher"
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}
    cut = complete({**body, "max_tokens": 7}, fake_answer)
    assert cut["choices"][0] == {**whole["choices"][0], "finish_reason": "length",
                                 "message": {**whole["choices"][0]["message"],
                                             "content": "- how to use sort\n- what"}}  # fmt: skip


def test_refuses_what_it_cannot_serve():
    with Teacher().running() as url:
        assert post(url, b'{"model": "gpt", "messages": []}')[0] == 404
        assert post(url, b'{"model": "embedded", "messages": []}')[0] == 400
        assert post(url, b'{"model": "embedded", "messages": [{}], "n": 2}')[0] == 400
        assert post(url, b'{"model": "embedded", "messages": [{}], "stream": true}')[0] == 400


def test_its_process_ends_with_its_parent():
    pytest.importorskip("stages.teacher.rules")
    with embedded() as url:
        with urllib.request.urlopen(f"{url}/models", timeout=10) as answer:
            assert json.load(answer)["data"][0]["id"] == "embedded"
        status, body = post(url, json.dumps({"model": "embedded-teacher", "messages": ASKED}).encode())
        assert status == 200 and body["choices"][0]["message"]["content"].strip()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/models", timeout=10)
    script = (
        "import os, signal; from stages.teacher.server import embedded\n"
        "with embedded() as url:\n    print(url, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    url = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip()
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/models", timeout=10)
            time.sleep(0.05)
        except urllib.error.URLError:
            return
    raise AssertionError("the embedded teacher outlived its killed parent")


def test_collect_starts_it_by_itself_and_needs_no_key(tmp_path, monkeypatch):
    pytest.importorskip("stages.teacher.rules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    make_requests("d", 20)
    command.run("d", CollectKnobs(min_accept=0.0))
    assert {row["outcome"] for row in responses("d")} <= {"ok", "blank"} and len(responses("d")) == 20
    assert layout.STORE.is_file()
