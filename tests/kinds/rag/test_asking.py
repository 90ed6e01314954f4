"""Students of rag over HTTP and from the command line: passages, the prompt of training, history, streams."""

import asyncio
import shutil

import aiohttp
import openai
import pytest
from click.testing import CliRunner

from stages.commands import ask as command
from stages.commands import serve
from stages.core import layout
from stages.core.files import write_json
from stages.engines.load import open_engine
from stages.engines.protocol import Decoding, Generation
from stages.engines.serve import start
from stages.kinds.rag.parts.context import prompts_of
from stages.kinds.rag.parts.local_rqa import PairRow, question_in
from stages.kinds.rag.parts.rows import query_of, read_passages
from tests.helpers.rag_student import make_project
from tests.helpers.student_server import talk

MEDIAN = "what does the median of an array return"
DECODING = Decoding(engine="transformers", threads=1, batch_size=2)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Writing:
    """An engine that writes word by word, and fails behind the words "then fail"."""

    def __init__(self, codec, text="a sorted array — größer"):
        self.codec, self.text, self.asked = codec, text, []

    def generate(self, prompts, sampling, seeds, grammar=None, tell=None):
        self.asked += prompts
        ids = [*self.codec.answers([self.text])[0]]
        for index, prompt in enumerate(prompts):
            for end in range(1, len(ids) + 1) if tell else ():
                tell(index, ids[:end])
            if "then fail" in prompt:
                raise RuntimeError("out of luck")
            yield Generation(index, self.text, "stop", 7, len(ids), None, None)


@pytest.fixture
def served():
    make_project()
    return start.student_of("d", DECODING, False, serve.served("d"))


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def chat(served, engine, messages, **fields):
    return talk(
        served, engine, lambda client: client.chat.completions.create(model="d", messages=messages, **fields)
    )


def test_a_question_gets_its_passages_and_the_prompt_of_training(served):
    engine = Writing(served.codec)
    reply = chat(served, engine, [{"role": "system", "content": "be kind"}, user(MEDIAN)])
    assert reply.choices[0].message.content == engine.text
    shown, passages = reply.model_extra["passages"], read_passages("d")
    assert (
        len(shown) == 3 and shown[0]["id"] == "median" and set(shown[0]) == {"id", "title", "text", "score"}
    )
    assert shown[0]["text"] == passages["median"]["text"]
    assert shown == sorted(shown, key=lambda one: -one["score"])
    found = [passages[one["id"]] for one in shown]
    prompts = prompts_of("d", layout.model("d", "hf"))
    assert engine.asked == [prompts.of({"question": MEDIAN}, found).text]
    other = chat(served, engine, [user("and the kernel?")]).model_extra["passages"]
    assert other[0]["id"] == "kernel"


def test_earlier_turns_are_the_history_of_the_prompt(served):
    engine = Writing(served.codec)
    turns = [user(MEDIAN), {"role": "assistant", "content": "an array"}, user("what does it take?")]
    reply = chat(served, engine, turns)
    assert f"user: {MEDIAN}\nassistant: an array\nQuestion: what does it take?" in engine.asked[0]
    shown = reply.model_extra["passages"]
    assert shown[0]["id"] == "median"  # "it" is of the question before
    said = [{"speaker": who, "message": text} for who, text in (("User", MEDIAN), ("AI", "an array"))]
    gold = {"source": "median", "page_content": "x"}
    row = {"question": "what does it take?", "gold_answer": "x", "gold_docs": [gold], "chat_history": said}
    learnt = question_in(PairRow.model_validate(row), "row 1", "", [])
    passages = read_passages("d")
    prompt = served.ask.__self__.prompts.of(learnt, [passages[one["id"]] for one in shown])
    assert prompt.text == engine.asked[0] and query_of(learnt) == f"{MEDIAN}\nwhat does it take?"


def test_a_stream_begins_with_the_passages_and_tells_the_answer_as_it_is_written(served):
    engine = Writing(served.codec)

    async def ask(client):
        return [part async for part in await create(client)]

    def create(client):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return client.chat.completions.create(model="d", messages=[user(MEDIAN)], **options)

    parts = talk(served, engine, ask)
    assert parts[0].model_extra["passages"][0]["id"] == "median" and parts[0].choices[0].delta.role
    assert not any("passages" in part.model_extra for part in parts[1:])
    pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(pieces) == engine.text and "\ufffd" not in "".join(pieces)
    assert parts[-2].choices[0].finish_reason == "stop" and parts[-1].usage.prompt_tokens == 7


@pytest.mark.parametrize("name", ["transformers", "openvino"])
def test_an_engine_tells_of_an_answer_in_the_making(name):
    make_project()
    decoding = DECODING.model_copy(update={"engine": name, "precision": "f32", "max_new_tokens": 5})
    prompts, told = ["the median", "a kernel of signal"], {}
    engine = open_engine(layout.model("d", "hf"), decoding)

    def tell(index, ids):
        told.setdefault(index, []).append(ids.copy())

    answers = {answer.index: answer.text for answer in engine.generate(prompts, decoding, [0, 0], tell=tell)}
    assert answers == {answer.index: answer.text for answer in engine.generate(prompts, decoding, [0, 0])}
    for index, text in answers.items():
        assert len(told[index]) > 1 and engine.codec.decode(told[index][-1]).startswith(text)


def test_what_goes_wrong_is_told_and_breaks_nothing(served):
    engine = Writing(served.codec)

    async def ask(client):
        async def refused(messages, **fields):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(model="d", messages=messages, **fields)
            return caught.value

        nothing, fine = (
            [user("zzzz qqqq")],
            client.chat.completions.create(model="d", messages=[user(MEDIAN)]),
        )
        errors, reply = await asyncio.gather(
            asyncio.gather(
                refused(nothing),
                refused(nothing, stream=True),
                refused([{"role": "narrator", "content": "so"}, user(MEDIAN)]),
                refused([{"role": "assistant", "content": " "}, user(MEDIAN)]),
                refused([user(MEDIAN)], extra_body={"metadata": {"passages": []}}),
                refused([user("median " * 200)]),
            ),
            fine,
        )
        said = ["no passage", "no passage", "'narrator'", "blank", "'metadata'", "without any passage"]
        for error, wanted in zip(errors, said, strict=True):
            assert wanted in error.body["message"] and 400 <= error.status_code < 500
        assert errors[0].status_code == 422 and errors[0].code == "nothing_found"
        assert reply.choices[0].message.content == engine.text
        stream = await client.chat.completions.create(
            model="d", messages=[user(f"{MEDIAN} then fail")], stream=True
        )
        with pytest.raises(openai.APIError, match="the server failed"):
            [part async for part in stream]
        assert await client.chat.completions.create(model="d", messages=[user(MEDIAN)])

    talk(served, engine, ask)


def test_the_page_runs_no_script_but_its_own(served):
    async def ask(client):
        async with aiohttp.ClientSession() as plain:
            url = str(client.base_url).removesuffix("v1/")
            async with plain.get(url) as reply:
                text, policy = await reply.text(), reply.headers["Content-Security-Policy"]
            async with plain.get(url, headers={"Origin": "http://evil.example"}) as other:
                assert other.status == 403
        assert "default-src 'none'" in policy and policy.split("'nonce-")[1].split("'")[0] in text
        assert "{{" not in text and "http" not in text.replace("http-", "") and "innerHTML" not in text

    talk(served, Writing(served.codec), ask, key="secret")


def test_one_question_from_the_command_line():
    make_project()
    write_json(layout.DVC, {"vars": []})
    arguments = ["d", MEDIAN, "--engine", "transformers", "--precision", "f32"]
    done = CliRunner().invoke(command.cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "median\n          compute the median of an array" in done.stdout
    for question, message in (("zzzz", "no passage was found"), (" ", "blank")):
        failed = CliRunner().invoke(command.cli, ["d", question], catch_exceptions=False)
        assert failed.exit_code == 2 and message in failed.stderr and failed.stderr.count("\n") == 1
    shutil.rmtree(layout.model("d", "hf"))
    failed = CliRunner().invoke(command.cli, ["d", MEDIAN])
    assert failed.exit_code == 2 and "make it with `make d`" in failed.stderr
    failed = CliRunner().invoke(command.cli, ["other", MEDIAN])
    assert failed.exit_code == 2 and "answer without passages" in failed.stderr
