"""The server of a student: one renderer, and what the fields of a request do."""

import itertools
from pathlib import Path

import openai
import pytest

from stages.commands import serve
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import write_json, write_manifest
from stages.core.prompts import Template, render
from stages.engines.protocol import Decoding
from stages.engines.serve import start
from tests.helpers.student_server import BERLIN, MODEL, Saying, chat, refusal, student, talk


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- prompts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_template", [True, False])
def test_the_engine_gets_the_ids_of_training(monkeypatch, with_template):
    """The same request through convert's renderer and the tokenize stage, and through the server."""
    import numpy as np

    from stages.engines import load, with_transformers
    from stages.knobs import TokenizeKnobs
    from stages.tokenize import run as tokenize

    served = student()
    if not with_template:
        (MODEL / "chat_template.jinja").unlink()
        write_manifest(MODEL, "test", {})
        served = start.student_of("d", served.sampling, False, serve.served("d"))
    layout.base_model("m").parent.mkdir(parents=True)
    layout.base_model("m").symlink_to(MODEL.resolve())
    texts = ["What is the weather in  New York?", "größer <|end|> \n and {{ text }} ", "lamp"]
    template, rows = Template(layout.prompt("d", "student")), []
    for number, text in enumerate(texts):
        document = {"id": str(number), "title": "", "text": text, "metadata": {"call": "x()"}}
        rows.append({"id": str(number), "instruction": render(template, document), "output": "other()"})
    for split in ("train", "val"):
        write_json(layout.litgpt_data("d") / f"{split}.json", rows)
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    ids, labels, offsets = (
        np.load(layout.tokens("d") / f"train.{name}.npy") for name in ("ids", "labels", "offsets")
    )
    trained = []
    for begin, end in itertools.pairwise(offsets):
        trained.append(ids[begin:end][labels[begin:end] == -100].tolist())

    seen, finished = [], with_transformers.finished
    monkeypatch.setattr(
        with_transformers, "finished", lambda *given: (seen.append(given[2]), finished(*given))[1]
    )
    engine = load.open_engine(MODEL, served.sampling)

    async def ask(client):
        for text in texts:
            messages = [{"role": "user", "content": text}]
            await client.chat.completions.create(model="d", messages=messages, max_tokens=1)

    talk(served, engine, ask)
    assert seen == trained and (served.codec.chat is not None) == with_template


def test_a_request_is_the_last_user_message_and_its_title_and_metadata():
    engine = Saying("lamp")
    served = student("{{ document.title }}|{{ document.metadata.room }}|{{ document.text }}", skills=False)
    parts = [{"type": "text", "text": "to the"}, {"type": "text", "text": "end"}]
    talk_of = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": parts},
    ]
    chat(served, engine, talk_of, extra_body={"title": "T", "metadata": {"room": "R"}})
    assert engine.asked[0][0] == ["T|R|to the\nend"]
    for fields, param, wanted in (
        ({}, "title", 'extra_body={"title": "…"}'),
        ({"title": "T"}, "metadata", 'extra_body={"metadata": {"room": …}}'),
        ({"title": "T", "metadata": {"rooms": "R"}}, "metadata", "document.metadata.room"),
    ):
        error = refusal(served, extra_body=fields).body
        assert error["param"] == param and wanted in error["message"]


def test_a_completion_is_the_prompt_itself_and_the_students_own_words():
    engine = Saying()
    reply = talk(student(), engine, lambda client: client.completions.create(model="d", prompt="lamp on"))
    assert engine.asked[0][0] == ["lamp on"] and reply.object == "text_completion"
    assert reply.choices[0].text == 'weather(location="New York")'


# --- fields -------------------------------------------------------------------------------------------------


def test_fields_reach_the_engine():
    served, engine = student(), Saying()
    chat(
        served,
        engine,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=9,
        seed=-1,
        frequency_penalty=0.5,
        extra_body={"top_k": 3, "repetition_penalty": 1.2},
    )
    ((_, sampling, seeds, grammar),) = engine.asked
    expected = {"temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.5, "top_k": 3, "max_new_tokens": 9}
    expected |= {"repetition_penalty": 1.2}
    assert sampling.model_dump(include=set(expected)) == expected
    assert seeds == [2**63 - 1] and grammar is None
    for fields, longest in (({}, 128), ({"max_tokens": 5}, 5)):
        chat(served, engine, **fields)
        assert engine.asked[-1][1].temperature == 0 and engine.asked[-1][1].max_new_tokens == longest
    chat(served, engine, temperature=1e-38)
    assert engine.asked[-1][1].temperature == 0
    long = [{"role": "user", "content": "x " * 60}]
    chat(served, engine, long)
    assert engine.asked[-1][1].max_new_tokens == 256 - len(
        served.codec.prompts([served.render(long[0]["content"], None, {})])[0]
    )


def test_what_a_request_does_not_say_is_as_evaluated():
    write_json(Path("params.yaml"), {"generate": {"d": {"temperature": 0.5, "frequency_penalty": 0.25}}})
    stages = ("evaluate_calls", "generate")
    generated = serve.usual_decoding("d", stages)
    assert generated == {
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 1.0,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.0,
        "max_new_tokens": 128,
    }
    calls = {"base": "b", "eval_rows": "rows.jsonl", "max_new_tokens": 9}
    blocks = {"generate": {"d": {"top_k": 5}}, "evaluate_calls": {"d": calls}}
    write_json(Path("params.yaml"), blocks)
    assert serve.usual_decoding("d", stages) == {**generated, "temperature": 0, "frequency_penalty": 0} | {
        "max_new_tokens": 9
    }
    assert serve.usual_decoding("e", stages) == {}
    served, engine = student(), Saying()
    held = served._replace(sampling=served.sampling.model_copy(update=generated | {"max_new_tokens": 9}))
    for fields, temperature, longest in (({}, 0.5, 9), ({"temperature": 0, "max_tokens": 20}, 0, 20)):
        chat(held, engine, **fields)
        sampling = engine.asked[-1][1]
        assert (sampling.temperature, sampling.frequency_penalty) == (temperature, 0.25)
        assert sampling.max_new_tokens == longest


def test_stop_cuts_the_text():
    reply = chat(student(skills=False), Saying("one\ntwo\nthree"), stop=["three", "\n"])
    assert reply.choices[0].message.content == "one" and reply.choices[0].finish_reason == "stop"


def test_fields_that_change_nothing_are_passed_over():
    reply = chat(
        student(),
        Saying(),
        n=1,
        user="me",
        store=True,
        logprobs=False,
        presence_penalty=0,
        logit_bias={},
        response_format={"type": "text"},
        parallel_tool_calls=True,
        extra_body={"echo": False, "repetition_penalty": 1.0},
    )
    assert reply.usage.prompt_tokens == 7 and reply.usage.total_tokens == 12


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"n": 2}, "n", "1"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 1e308}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than or equal to"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty", "greater than or equal to 0.1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"logit_bias": {"5": 9}}, "logit_bias", "would change the answer"),
        ({"presence_penalty": 0.5}, "presence_penalty", "would change the answer"),
        ({"logprobs": True}, "logprobs", "would change the answer"),
        ({"response_format": {"type": "json_object"}}, "response_format", "would change the answer"),
        ({"extra_body": {"surprise": "x"}}, "surprise", "would change the answer"),
        ({"tools": [{"type": "code"}]}, "tools", "function"),
        ({"tool_choice": {"type": "function", "function": {"name": "lamp"}}}, "tool_choice", "auto"),
        ({"messages": []}, "messages", "'user'"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "blank"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "must be text"),
        ({"messages": "hello"}, "messages", "list"),
    ],
)
def test_a_bad_request_names_its_field(fields, param, message):
    error = refusal(student(), **fields)
    assert error.body["param"] == param and message in error.body["message"]


def test_a_request_over_the_context_says_so():
    served = student()
    long = [{"role": "user", "content": "array " * 400}]
    error = refusal(served, long)
    assert error.code == "context_length_exceeded" and "context is 256 tokens" in error.body["message"]
    assert refusal(served, max_tokens=250).code == "context_length_exceeded"


def test_other_models_paths_and_bodies():
    import aiohttp

    def said(content, *more):
        message = b'"messages": [{"role": "user", "content": %b}]' % content
        return b"{%b}" % b", ".join([b'"model": "d"', message, *more])

    async def ask(client):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-5", messages=BERLIN)
        assert caught.value.code == "model_not_found" and "'d'" in caught.value.body["message"]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("e")
        assert (await client.models.retrieve("d")).id == "d"
        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as plain:
            url = str(client.base_url)
            for path, sent, status in (
                ("chat/completions", b"{", 400),
                ("chat/completions", b"[]", 400),
                ("chat/completions", b"\xff", 400),
                ("chat/completions", b"[" * 100_000, 400),
                ("chat/completions", b"9" * 5000, 400),
                ("chat/completions", said(b'"\\ud800"'), 400),
                ("completions", b'{"model": "d", "prompt": "\\ud800"}', 400),
                ("chat/completions", said(b'"x"', b'"temperature": Infinity'), 400),
                ("chat/completions", said(b'"x"', b'"temperature": NaN'), 400),
                ("chat/completions", b" " * 2**23, 413),
                ("embeddings", b"{}", 400),
                ("models", b"{}", 405),
            ):
                async with plain.post(url + path, data=sent) as reply:
                    assert reply.status == status
                    assert {"message", "type", "param", "code"} == set((await reply.json())["error"])
            for name, value, status in (
                ("Content-Type", "application/json; charset=foo", 400),
                ("Content-Encoding", "gzip", 415),
            ):
                async with plain.post(f"{url}completions", data=b"{}", headers={name: value}) as reply:
                    assert reply.status == status

    talk(student(), Saying(), ask)


def test_a_student_that_is_not_the_one_that_was_exported_is_not_served():
    """As a pull may bring it: DVC does not look into what it downloads."""
    student()
    weights = MODEL / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="model.safetensors: edited or damaged"):
        start.student_of("d", Decoding(engine="transformers"), False, serve.served("d"))
