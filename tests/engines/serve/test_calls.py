"""The server of a student: how calls are read, how requests queue, and what vLLM would be given."""

import asyncio
import json

import openai
import pytest

from stages.commands import serve
from stages.core.errors import UserError
from stages.core.files import write_manifest
from stages.core.tokenizer import TextCodec
from stages.engines.protocol import Decoding
from stages.engines.serve import start
from stages.kinds.skills import places
from tests.helpers.skills_project import make_project
from tests.helpers.student_server import BERLIN, MODEL, TOOLS, Saying, chat, refusal, student, talk


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- calls --------------------------------------------------------------------------------------------------


def test_a_call_is_text_or_a_tool_call():
    served = student()
    reply = chat(served, Saying()).choices[0]
    assert reply.message.content == 'weather(location="New York")' and reply.finish_reason == "stop"
    for fields in ({"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "required"}, {"tool_choice": "auto"}):
        reply = chat(served, Saying(), **fields).choices[0]
        assert reply.finish_reason == "tool_calls" and reply.message.content is None
        (call,) = reply.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("weather", '{"location": "New York"}')


@pytest.mark.parametrize(
    ("text", "fields", "content"),
    [
        ("other()", {"tools": TOOLS}, "other()"),
        ("other( )", {"tools": TOOLS}, "other()"),
        ("no call (at all", {"tools": TOOLS}, "no call (at all"),
        ('weather(location="a")', {"tools": TOOLS[1:]}, 'weather(location="a")'),  # not among those named
        ('weather(location="a")', {"tools": TOOLS, "tool_choice": "none"}, 'weather(location="a")'),
    ],
)
def test_other_answers_are_text(text, fields, content):
    reply = chat(student(), Saying(text), **fields).choices[0]
    assert reply.message.content == content and not reply.message.tool_calls and reply.finish_reason == "stop"


def test_a_student_without_skills_calls_no_tools():
    served = student(skills=False)
    assert served.read is None and "no skills" in refusal(served, tools=TOOLS).body["message"]
    assert chat(served, Saying("as it is\n")).choices[0].message.content == "as it is\n"


def test_the_grammar_is_the_datasets_or_the_requests():
    own = 'start: "lamp()"'
    served, engine = student(), Saying()
    for given, expected in ((True, served.grammar), (own, f"{own}\n"), (False, None), (None, None)):
        chat(served, engine, extra_body={"grammar": given})
        assert engine.asked[-1][3] == expected
    assert served.grammar.startswith("%llguidance")
    held = served._replace(constrain=True)
    for given, expected in ((None, served.grammar), (False, None), (own, f"{own}\n")):
        chat(held, engine, extra_body={"grammar": given})
        assert engine.asked[-1][3] == expected
    places.skills("d").joinpath("grammar.lark").unlink()
    bare = start.student_of("d", served.sampling, False, serve.served("d"))
    assert "grammar.lark" in refusal(bare, extra_body={"grammar": True}).body["message"]
    with pytest.raises(UserError, match="grammar.lark"):
        start.student_of("d", served.sampling, True, serve.served("d"))
    bad = [{"role": "user", "content": "bad grammar"}]
    assert "nonsense" in refusal(served, bad, extra_body={"grammar": "x"}).body["message"]


# --- the queue ----------------------------------------------------------------------------------------------


async def until(true):
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


def test_requests_that_wait_together_go_together_and_a_lost_client_breaks_none():
    served, engine = student(), Saying()

    async def ask(client):
        def send(text, **fields):
            messages = [{"role": "user", "content": text}]
            return asyncio.create_task(client.chat.completions.create(model="d", messages=messages, **fields))

        engine.gate.clear()
        first = send("zero")
        await until(lambda: len(engine.asked) == 1)
        alike = [send(f"like {number}") for number in range(6)]
        warm = send("warm", temperature=1.0, seed=5)
        lost = send("lost")
        await asyncio.sleep(0.3)
        lost.cancel()
        await asyncio.sleep(0.3)
        engine.gate.set()
        replies = await asyncio.gather(first, *alike, warm)
        assert all(reply.choices[0].message.content for reply in replies)

    talk(served, engine, ask)
    sizes = [(len(prompts), sampling.temperature) for prompts, sampling, _, _ in engine.asked]
    assert sorted(sizes) == [(1, 0.0), (1, 1.0), (2, 0.0), (4, 0.0)]
    assert not any("lost" in prompt for prompts, *_ in engine.asked for prompt in prompts)


def test_an_engine_that_fails_is_a_server_error_for_its_requests_alone(caplog):
    served, engine = student(), Saying()

    async def ask(client):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="d", messages=[{"role": "user", "content": "fail"}])
        assert caught.value.body["type"] == "server_error" and "luck" not in caught.value.body["message"]
        assert (await client.chat.completions.create(model="d", messages=BERLIN)).choices

    talk(served, engine, ask)
    assert "out of luck" in caplog.text


# --- vllm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pythia", "llama"])
@pytest.mark.parametrize("with_template", [True, False])
@pytest.mark.parametrize(
    "prompt",
    ["{{ document.text }}", "  Say:\n{% if document.text %}\n  {{ document.text }}\n{% endif %}\nCall: \n\n"],
)
def test_the_template_for_vllm_gives_the_ids_of_training(kind, with_template, prompt):
    """As transformers renders and encodes it, which is what vLLM does with a chat template."""
    from transformers import AutoTokenizer

    make_project("d", kind, prompt, skills=False)
    if not with_template:
        (MODEL / "chat_template.jinja").unlink()
        write_manifest(MODEL, "test", {})
    served = start.student_of("d", Decoding(engine="vllm"), False, serve.served("d"))
    command = start.vllm_command(served, "127.0.0.1", 8001)
    assert command[:3] == ["vllm", "serve", "models/d/hf"] and command[command.index("--port") + 1] == "8001"
    assert command[command.index("--generation-config") + 1] == "vllm"
    with open(command[command.index("--chat-template") + 1]) as file:
        template = file.read()
    tokenizer = AutoTokenizer.from_pretrained(MODEL.resolve())
    for text in ("plot a line", "two\n\nlines {{ text }}"):
        messages = [{"role": "system", "content": "x"}, {"role": "user", "content": text}]
        found = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)
        assert [found["input_ids"]] == TextCodec(MODEL).prompts([served.render(text, None, {})])


def test_vllm_serves_only_what_it_serves_alike():
    served = student(skills=False)
    warm = served._replace(
        sampling=served.sampling.model_copy(update={"temperature": 0.5, "repetition_penalty": 1.2})
    )
    usual = start.vllm_command(warm, "127.0.0.1", 1)[-1]
    expected = {"temperature": 0.5, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.2}
    assert json.loads(usual) == expected
    less = served.sampling.model_copy(update={"frequency_penalty": 0.5})
    with pytest.raises(UserError, match="frequency_penalty"):
        start.vllm_command(served._replace(sampling=less), "127.0.0.1", 1)
    for prompt in ("{{ document.text | words(3) }}", "{{ document.title }} {{ document.text }}"):
        with pytest.raises(UserError, match="words|title"):
            start.vllm_command(student(prompt, skills=False), "127.0.0.1", 1)
    with pytest.raises(UserError, match="calls"):
        start.vllm_command(student(), "127.0.0.1", 1)
