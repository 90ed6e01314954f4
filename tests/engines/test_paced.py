"""The openai engine against a server that has no room, fails, recovers, or is gone."""

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stages.core import pacing
from stages.core.errors import UserError
from stages.engines import with_openai
from stages.engines.load import open_engine
from stages.engines.protocol import Decoding
from tests.helpers.tiny import tiny_tokenizer


class Server:
    """Completions that repeat the seed. `faults` are (status, headers) of the next replies, then all is well.

    `bodies` take the place of the next good ones. No more than `room` requests at once are answered; others
    get 429.
    """

    def __init__(self):
        self.faults, self.bodies, self.room, self.delay = [], [], 10**6, 0.0
        self.at_once = self.most = self.refused = 0
        self.times: list[float] = []
        self.lock = threading.Lock()

    def status(self) -> tuple[int, dict]:
        with self.lock:
            self.times.append(time.monotonic())
            self.most = max(self.most, self.at_once)
            if self.faults:
                return self.faults.pop(0)
            if self.at_once > self.room:
                self.refused += 1
                return 429, {}
        return 200, {}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(pacing, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pacing, "FIRST_PROBE_S", 0.005)
    monkeypatch.setattr(pacing, "DECREASE_EVERY_S", 0.02)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.at_once += 1
            status, headers = state.status()
            if status == 200:
                time.sleep(state.delay)
            with state.lock:
                state.at_once -= 1
            choice = {"index": 0, "text": str(body["seed"]), "finish_reason": "stop", "logprobs": None}
            made = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
            content = json.dumps(made if status == 200 else {"error": {"message": "not now"}}).encode()
            if status == 200 and state.bodies:
                content = state.bodies.pop(0)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{running.server_port}/v1"
    yield state
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text('{"eos_token_id": 1}')
    return directory


def ask(model, server, rows: int, at_once: int = 16) -> dict[int, str]:
    sampling = Decoding(engine="openai", base_url=server.url, served_model="m", batch_size=at_once)
    made = open_engine(model, sampling).generate(["plot"] * rows, sampling, [*range(rows)])
    return {answer.index: answer.text for answer in made}


def every(rows: int) -> dict[int, str]:
    return {row: str(row) for row in range(rows)}


def test_a_server_that_fails_and_recovers_costs_no_row(model, server):
    server.faults = [(503, {}), (429, {"retry-after-ms": "20"}), (500, {}), (408, {}), (529, {})] * 3
    assert ask(model, server, 40) == every(40)
    assert len(server.times) == 55 and not server.faults


def test_retry_after_is_honoured(model, server):
    server.faults = [(429, {"retry-after": "1"})]
    assert ask(model, server, 1) == every(1)
    assert server.times[1] - server.times[0] >= 1


def test_calls_at_once_follow_what_the_server_has_room_for(model, server):
    server.room, server.delay = 3, 0.01
    assert ask(model, server, 150, at_once=64) == every(150)
    assert server.refused < 75  # without pacing most of them
    server.room, server.most, server.delay = 10**6, 0, 0.1
    ask(model, server, 60, at_once=12)
    assert 8 < server.most <= 12  # it begins with fewer


def completion(usage: object = None, **changes) -> bytes:
    choice = {"index": 0, "text": "0", "finish_reason": "stop", "logprobs": None} | changes
    return json.dumps({"choices": [choice], "usage": usage}).encode()


NO_COMPLETIONS = {
    "text null": completion(text=None),
    "text a number": completion(text=5),
    "half of a character": completion().replace(b'"0"', b'"\\ud800 hi"'),
    "aborted": completion(finish_reason="abort"),
    "no reason": completion(finish_reason=None),
    "filtered": completion(finish_reason="content_filter"),
    "no choices": b'{"choices": []}',
    "choices null": b'{"choices": null}',
    "error": b'{"error": {"message": "Rate limit exceeded", "code": 429}}',
    "chat": b'{"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}',
    "page": b"<html>gateway</html>",
    "torn": completion()[:40],
    "list": b"[]",
    "deep": b"[" * 5000,
    "nothing": b"",
}


@pytest.mark.parametrize("body", NO_COMPLETIONS.values(), ids=NO_COMPLETIONS.keys())
def test_an_answer_that_is_none_is_a_failure_that_passes(model, server, body):
    server.bodies = [body] * 2
    assert ask(model, server, 1) == every(1)
    assert len(server.times) == 3


def test_a_server_that_gives_no_answers_ends_the_run_with_its_words(model, server):
    server.bodies = [NO_COMPLETIONS["error"]] * 100
    with pytest.raises(UserError, match="keeps failing.*no completion: choices: .*Rate limit exceeded"):
        ask(model, server, 1)
    server.bodies = [b"\x1b[31m<html>"] * 100
    sampling = Decoding(engine="openai", base_url=server.url)
    with pytest.raises(UserError, match="keeps failing") as caught:
        ask(model, server, 1)
    assert "\x1b" not in str(caught.value)
    with pytest.raises(UserError, match="lists no models"):
        open_engine(model, sampling)


@pytest.mark.parametrize("count", [None, -40, "x", 10**400, 2**31, 1.5], ids=lambda count: str(count)[:9])
def test_a_count_that_cannot_be_is_counted_here(model, server, count):
    server.bodies = [completion({"prompt_tokens": 5, "completion_tokens": count})]
    sampling = Decoding(engine="openai", base_url=server.url, served_model="m")
    (answer,) = open_engine(model, sampling).generate(["plot"], sampling, [0])
    assert answer.generated_tokens == 2  # "0" and the end


@pytest.mark.parametrize("values", [[None, -1.0], ["x"], [float("nan")], 5])
def test_log_probabilities_that_are_none_are_unknown(model, server, values):
    logprobs = {"tokens": ["a", "b"], "token_logprobs": values}
    server.bodies = [completion(logprobs=logprobs)]
    sampling = Decoding(engine="openai", base_url=server.url, served_model="m")
    (answer,) = open_engine(model, sampling).generate(["plot"], sampling, [0])
    assert (answer.text, answer.logprob, answer.line_logprobs) == ("0", None, None)


def test_what_is_useless_to_try_again_ends_the_run(model, server, monkeypatch):
    server.faults = [(400, {})]
    with pytest.raises(UserError, match="the server refused: .*not now"):
        ask(model, server, 8)
    server.faults = [(500, {})] * 1000
    with pytest.raises(UserError, match="keeps failing.*finished rows are kept"):
        ask(model, server, 1)
    assert len(server.faults) == 1000 - 1 - with_openai.RETRIES
    monkeypatch.setattr(with_openai, "BREAKER", 4)
    with pytest.raises(UserError, match="keeps failing"):
        ask(model, server, 40)
    server.faults = [(429, {"retry-after": "7200"})]
    with pytest.raises(UserError, match="asks to wait for 7200 s"):
        ask(model, server, 1)
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="no server answers"):
        ask(model, server, 3)


@pytest.mark.parametrize("pack, headers", [(bytes, {}), (gzip.compress, {"Content-Encoding": "gzip"})])
def test_a_body_is_read_up_to_a_limit(model, server, pack, headers, monkeypatch):
    monkeypatch.setattr(with_openai, "MOST_BYTES", 100_000)
    server.faults = [(200, headers)] * 2
    server.bodies = [pack(completion(text="a" * 100_000)), pack(completion())]
    assert ask(model, server, 1) == {0: "0"}
    assert len(server.times) == 2


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_is_not_followed(model, server, status):
    server.faults = [(status, {"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(UserError, match="the server refused"):
        ask(model, server, 1)
    assert len(server.times) == 1
