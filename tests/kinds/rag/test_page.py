"""The page of `make ask` in a real headless Chromium, against a real server process."""

import json
import os
import signal
import subprocess
import sys

import pytest

from stages.core import layout
from stages.core.files import write_json
from tests.helpers.browser import CHROMIUM, browser, until  # noqa: F401
from tests.helpers.rag_student import NONE, make_project
from tests.helpers.workspace import ROOT

pytestmark = [
    pytest.mark.slow,  # loads a model
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ANSWERED = "!document.querySelector('[aria-busy=true]') && !document.getElementById('send').disabled"


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_project()
    few = {"base": "b", "beside": NONE, "encoder": NONE, "reranker": NONE, "max_new_tokens": 6}
    write_json(layout.PARAMS, {"answer": {"d": few}})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages", "ask", "d", "--port", "0", "--engine", "transformers"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RETORT_SERVE_KEY": "s3cret"},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield json.loads(process.stdout.readline())["page"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_ask_go_on_and_begin_anew(address, browser):  # noqa: F811
    context = browser.new_context()
    page, errors, asked = context.new_page(), [], []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: "Security Policy" in line.text and errors.append(line.text))
    page.on("request", lambda request: asked.append(request))
    page.goto(address)
    page.wait_for_selector(".problem:has-text('no key')")
    page.fill("#key", "s3cret")

    def ask(question: str) -> None:
        page.fill("#question", question)
        page.keyboard.press("Enter")
        page.wait_for_selector("article:last-child .answer")
        until(page, ANSWERED)

    ask("what does the <b>median</b> of an array return")
    assert page.inner_text("#model") == "d"
    assert page.inner_text("h2") == "what does the <b>median</b> of an array return"
    assert page.locator("details").count() == 3 and page.inner_text("summary").startswith("[1] median")
    assert not page.is_visible("details p")
    page.click("summary")
    assert page.inner_text("details p").startswith("compute the median of an array")
    assert page.inner_text(".answer").strip()
    ask("what does it take?")
    body = json.loads(asked[-1].post_data)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert page.inner_text("article:last-child summary").startswith("[1] median")
    ask("zzzz qqqq")  # goes on from a question, so something is found
    page.click("#anew")
    assert page.locator("article").count() == 0
    ask("zzzz qqqq")
    assert "no passage was found" in page.inner_text(".problem")
    ask("what does the kernel of an array return")
    assert page.inner_text("article:last-child summary").startswith("[1] kernel")
    body = json.loads(asked[-1].post_data)
    assert len(body["messages"]) == 1 and all(request.url.startswith(address) for request in asked)
    context.close()
    assert errors == []
