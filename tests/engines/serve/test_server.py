"""`python -m stages serve` in a process of its own, asked by the real openai client."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest
from click.testing import CliRunner

from stages.commands import serve
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.engines.serve.start import reserved
from stages.engines.serve.start import serve as listen_at
from stages.kinds.skills.parts.calls import parse_call
from tests.helpers.skills_project import SKILLS, make_project
from tests.helpers.workspace import ROOT

pytestmark = pytest.mark.slow  # loads models

LAMP = [{"role": "user", "content": "Switch the lamp on, please"}]
TOOLS = [{"type": "function", "function": {"name": skill.name}} for skill in SKILLS.skills]
# Something that a student of random weights is at for long.
LONG = {"max_tokens": 200, "temperature": 2.0, "seed": 3}


def start(directory, *options, dataset="otto", port="0"):
    """The server as a process whose address can be read."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "stages",
            "serve",
            dataset,
            "--port",
            port,
            "--precision",
            "f32",
            *options,
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def client_of(process) -> openai.OpenAI:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return openai.OpenAI(base_url=json.loads(line)["base_url"], api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    directory, before = tmp_path_factory.mktemp("serve"), os.getcwd()
    os.chdir(directory)
    make_project("otto")
    make_project("pages", "llama", skills=False)
    os.chdir(before)
    return directory


@pytest.fixture(scope="module")
def client(project):
    process = start(project)
    try:
        yield client_of(process)
    finally:
        process.terminate()
        process.wait(20)


def ask(client, **fields):
    return client.chat.completions.create(**{"model": "otto", "messages": LAMP, "max_tokens": 30} | fields)


def test_it_says_what_it_serves_and_that_it_is_well(client):
    assert [model.id for model in client.models.list()] == ["otto"]
    with urllib.request.urlopen(str(client.base_url).replace("/v1/", "/health")) as reply:
        assert reply.status == 200 and json.load(reply) == {"status": "ok"}


def test_chat_and_completions(client, project):
    said = ask(client)
    again = ask(client)
    assert said.choices[0].message.content == again.choices[0].message.content
    assert said.usage.completion_tokens == 30 and said.choices[0].finish_reason == "length"
    prompt = "Request: Switch the lamp on, please\nCall:"
    raw = client.completions.create(model="otto", prompt=prompt, max_tokens=30)
    assert raw.choices[0].text == said.choices[0].message.content
    assert raw.usage.prompt_tokens == said.usage.prompt_tokens
    drawn = [ask(client, temperature=2.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_streams(client):
    whole = ask(client)
    parts = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "length"
    assert parts[-1].usage == whole.usage
    raw = client.completions.create(model="otto", prompt="lamp", max_tokens=4, stream=True)
    assert "".join(part.choices[0].text for part in raw)


def test_calls_by_the_grammar(client):
    text = ask(client, extra_body={"grammar": True}, temperature=1.0, seed=4).choices[0].message.content
    assert SKILLS.problem_with(parse_call(text)) is None
    own = 'start: "lamp(state=\\"on\\")" | "other()"'
    assert parse_call(ask(client, extra_body={"grammar": own}).choices[0].message.content).name in (
        "lamp",
        "other",
    )
    with pytest.raises(openai.BadRequestError, match="grammar"):
        ask(client, extra_body={"grammar": "start: start start ("})
    forced = {"grammar": 'start: "lamp(state=\\"on\\")"'}
    (call,) = ask(client, tools=TOOLS, extra_body=forced).choices[0].message.tool_calls
    assert call.function.name == "lamp" and json.loads(call.function.arguments) == {"state": "on"}
    deltas = [part.choices[0] for part in ask(client, tools=TOOLS, extra_body=forced, stream=True)]
    assert deltas[0].delta.tool_calls[0].function.model_dump() == call.function.model_dump()
    assert deltas[-1].finish_reason == "tool_calls"


def test_bad_requests_are_refused_and_break_nothing(client):
    for fields, message in (
        ({"temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": "array " * 900}]}, "context is 256 tokens"),
        ({"extra_body": {"beam_size": 4}}, "beam_size"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            ask(client, **fields)
    with pytest.raises(openai.NotFoundError, match="otto"):
        ask(client, model="gpt-5")
    assert ask(client).choices


def test_many_at_once_get_what_each_gets_alone(client):
    def words(number):
        messages = [{"role": "user", "content": f"Switch lamp {number} on"}]
        return ask(client, messages=messages, temperature=1.5, seed=number).choices[0].message.content

    alone = [words(number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(words, range(24))) == alone
    assert len(set(alone)) > 12


def test_a_client_that_goes_away_leaves_the_others_alone(client):
    hasty = client.with_options(timeout=0.05)
    with ThreadPoolExecutor(8) as pool:
        lost = [pool.submit(ask, hasty, **LONG) for _ in range(4)]
        kept = [pool.submit(ask, client, **LONG) for _ in range(2)]
        replies = [future.result().choices[0].message.content for future in kept]
        assert all(isinstance(future.exception(), openai.APITimeoutError) for future in lost)
    assert replies[0] == replies[1]


@pytest.mark.parametrize(
    ("dataset", "number", "options"),
    [("otto", signal.SIGTERM, ["--grammar", "--batch", "2"]), ("pages", signal.SIGINT, [])],
)
def test_it_ends_well_and_answers_first(project, dataset, number, options):
    """Held to the grammar with transformers, and with openvino; what was asked before is still answered."""
    process = start(project, *options, dataset=dataset)
    try:
        client = client_of(process)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, client, model=dataset, **LONG)
            ask(client, model=dataset)  # so that the other one is under way
            process.send_signal(number)
            assert process.wait(20) == 0
            text = answer.result().choices[0].message.content
        assert text and (dataset == "pages" or SKILLS.problem_with(parse_call(text)) is None)
        said = process.stderr.read()
        assert re.fullmatch(
            rf"serve: {dataset}: engine .* at once, .* in progress at most(, .* MiB .*)?\n", said
        )
        assert ("cache of up to" in said) == (dataset == "pages")
    finally:
        process.kill()


def test_of_two_servers_that_start_on_one_port_one_ends_with_a_line():
    from aiohttp.web import Application

    one = reserved("127.0.0.1", 0)
    with one, reserved("127.0.0.1", one.getsockname()[1]) as other:
        one.listen()
        with pytest.raises(UserError, match=f"port {one.getsockname()[1]} of .*choose another with --port"):
            asyncio.run(listen_at(SimpleNamespace(app=Application, page_file=None), other))


def test_what_cannot_be_served_is_one_line(project, client, monkeypatch):
    monkeypatch.chdir(project)
    taken = str(client.base_url.port)

    def refused(*arguments):
        done = CliRunner().invoke(serve.cli, [*arguments])
        *before, error = done.stderr.splitlines()
        assert done.exit_code == 2 and (not before or before[0].startswith("serve: the small server")), before
        return error

    grammar = project / "data/otto/skills/grammar.lark"
    hidden = grammar.rename(project / "hidden")
    assert "grammar.lark" in refused("otto", "--port", "0", "--grammar")
    hidden.rename(grammar)
    assert "pip install vllm" in refused("otto", "--port", "0", "--engine", "vllm")
    error = refused("otto", "--engine", "transformers", "--port", taken)
    assert f"port {taken}" in error and "--port" in error
    assert "make nobody" in refused("nobody")
    assert read_json(project / "models/otto/hf/config.json")["max_position_embeddings"] == 256
