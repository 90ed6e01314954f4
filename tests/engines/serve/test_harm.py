"""What one client sends fails none of another's requests."""

import asyncio

import aiohttp
import openai
import pytest

from stages.commands import serve
from stages.core.files import write_manifest
from stages.engines.protocol import Decoding
from stages.engines.serve import queue, start
from tests.engines.serve.test_calls import until
from tests.helpers.student_server import BERLIN, MODEL, Saying, chat, refusal, student, talk


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Brittle(Saying):
    """An engine that a prompt with `poison` breaks for good: before any answer, after one, or silently."""

    def __init__(self, way="before"):
        super().__init__()
        self.way, self.broken = way, False

    def generate(self, prompts, sampling, seeds, grammar=None):
        if self.broken:
            raise RuntimeError("broken")
        self.broken = any("poison" in prompt for prompt in prompts)
        answers = super().generate(prompts, sampling, seeds, grammar)
        if not self.broken:
            yield from answers
            return
        if self.way != "before":
            yield from (answer for answer in answers if "poison" not in prompts[answer.index])
        if self.way != "silent":
            raise MemoryError("poisoned")


def asked(client, text, **fields):
    messages = [{"role": "user", "content": text}]
    return asyncio.create_task(client.chat.completions.create(model="d", messages=messages, **fields))


async def health(client) -> int:
    url = str(client.base_url).replace("/v1/", "/health")
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status


@pytest.mark.parametrize("way", ["before", "after", "silent"])
@pytest.mark.parametrize("together", [1, 2, 4])
def test_an_engine_that_breaks_is_loaded_anew_and_the_others_are_answered(way, together, caplog):
    engines = []

    def load():
        engines.append(Brittle(way))
        return engines[-1]

    async def scenario(client):
        engines[0].gate.clear()
        first = asked(client, "first")
        await until(lambda: engines[0].asked)
        honest = [asked(client, f"honest {number}") for number in range(together)]
        poison = asked(client, "poison")
        await asyncio.sleep(0.2)
        engines[0].gate.set()
        for reply in await asyncio.gather(first, *honest):
            assert reply.choices[0].message.content
        with pytest.raises(openai.InternalServerError):
            await poison
        assert (await asked(client, "later")).choices and await health(client) == 200

    talk(student(), None, scenario, most=8, load=load)
    assert (2 <= len(engines) <= 3 and "poisoned" in caplog.text) or way == "silent"


def test_health_says_whether_the_engine_answers(monkeypatch):
    engines, way = [], ["works"]

    def load():
        if way[0] == "gone":
            raise OSError("no model")
        engines.append(Brittle())
        return engines[-1]

    monkeypatch.setattr(queue, "FRESH_S", 0)

    async def scenario(client):
        assert await health(client) == 200 and len(engines[0].asked) == 1  # it was asked
        engines[0].broken = True
        assert await health(client) == 503 or len(engines) == 2
        way[0] = "gone"
        with pytest.raises(openai.InternalServerError):
            await asked(client, "poison")
        assert await health(client) == 503
        with pytest.raises(openai.InternalServerError):
            await asked(client, "honest")
        way[0] = "works"
        assert (await asked(client, "honest")).choices and await health(client) == 200

    talk(student(), None, scenario, load=load)


@pytest.mark.parametrize(
    "prompt", ["{{ document.text | words(0) }}", "{{ '' }}", " {{ document.text[:0] }}\n"]
)
def test_a_prompt_of_no_tokens_is_refused(prompt):
    student(prompt, skills=False)
    (MODEL / "chat_template.jinja").unlink()
    write_manifest(MODEL, "export", {})
    served = start.student_of("d", Decoding(engine="transformers"), False, serve.served("d"))
    engine = Saying()
    assert "no tokens" in refusal(served).body["message"]
    with pytest.raises(openai.BadRequestError, match="no tokens"):
        talk(served, engine, lambda client: client.completions.create(model="d", prompt=""))
    assert not engine.asked


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("top_k", value) for value in (2**31, 2**63, 2**64, 2**70, -1)),
        *(("top_p", value) for value in (1e-300, 5e-324, 1e-40, 1e-7, 0)),
        ("stop", ["x"] * 65),
        ("max_tokens", 10**30),
    ],
)
def test_numbers_that_no_engine_takes_are_refused(field, value):
    assert refusal(student(), extra_body={field: value}).body["message"]


def test_a_prompt_of_more_characters_than_fit_is_refused_before_its_tokens_are_counted(monkeypatch):
    served = student()
    counted = []
    monkeypatch.setattr(served.codec, "prompts", lambda texts: counted.extend(texts) or [[1]])
    for text in ("word " * 50_000, "a" * 250_000, "𝕏" * 60_000):
        error = refusal(served, [{"role": "user", "content": text}])
        assert error.code == "context_length_exceeded" and "characters" in error.body["message"]
    assert not counted
    assert chat(served, Saying(), BERLIN).choices and counted


def test_long_requests_are_read_one_at_a_time_and_short_ones_do_not_wait_for_them(monkeypatch):
    import threading

    served, gate, reading = student(), threading.Event(), []
    count = served.codec.prompts

    def slow(texts):
        if len(texts[0]) > 2000:
            reading.append(texts)
            gate.wait(20)
        return count(texts)

    monkeypatch.setattr(served.codec, "prompts", slow)
    room = {"metadata": {"unused": "x" * 20_000}}

    async def scenario(client):
        long = [asked(client, "word " * 450, extra_body=room) for _ in range(3)]
        await until(lambda: reading)
        assert (await asyncio.wait_for(asked(client, "short"), 5)).choices and len(reading) == 1
        gate.set()
        ends = await asyncio.gather(*long, return_exceptions=True)
        assert all(isinstance(end, openai.BadRequestError) for end in ends) and len(reading) == 3

    talk(served, Saying(), scenario)


def test_a_full_queue_refuses_with_the_time_to_wait(monkeypatch):
    monkeypatch.setattr(queue, "LEAST_PLACES", 6)
    monkeypatch.setattr(queue, "BATCHES", 1)
    served, engine = student(), Saying()

    async def scenario(client):
        engine.gate.clear()
        kept = [asked(client, f"kept {number}") for number in range(6)]
        await until(lambda: engine.asked)
        await asyncio.sleep(0.2)
        for text in ("refused", "word " * 5000):
            with pytest.raises(openai.RateLimitError) as caught:
                await asked(client, text)
            assert caught.value.status_code == 429 and caught.value.code == "rate_limit_exceeded"
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        assert await health(client) == 200
        kept.pop().cancel()
        await asyncio.sleep(0.1)
        kept.append(asked(client, "in its place"))
        await asyncio.sleep(0.1)
        engine.gate.set()
        assert all(reply.choices for reply in await asyncio.gather(*kept))

    talk(served, engine, scenario)


def test_long_prompts_take_turns_with_short_ones_and_have_a_part_of_the_places(monkeypatch):
    monkeypatch.setattr(queue, "LEAST_PLACES", 20)
    monkeypatch.setattr(queue, "BATCHES", 1)
    engine, sizes = Saying(), [8000, 2000, 2000, 2000, 2000, *[100] * 6]

    async def scenario():
        requests = queue.EngineQueue(lambda: engine, 4)
        ask = [requests.answer(f"{size}", size, Decoding(), 0, None) for size in (*sizes, 2000)]
        *kept, refused = map(asyncio.create_task, ask)
        await asyncio.wait([refused])
        assert isinstance(refused.exception(), queue.Full)
        feeding = asyncio.create_task(requests.run())
        await asyncio.gather(*kept)
        feeding.cancel()

    asyncio.run(scenario())
    batches = [prompts for prompts, *_ in engine.asked]
    assert batches == [["8000"], ["100"] * 4, ["2000"] * 2, ["100"] * 2, ["2000"] * 2]


def test_with_a_key_only_who_has_it_is_answered_and_anyone_may_ask_for_health():
    async def scenario(client):
        assert (await asked(client, "lamp")).choices and await health(client) == 200
        stranger = client.with_options(api_key="sesam2")
        for ask in (stranger.models.list(), asked(stranger, "lamp"), stranger.models.retrieve("d")):
            with pytest.raises(openai.AuthenticationError) as caught:
                await ask
            assert "sesam" not in caught.value.body["message"]

    talk(student(), Saying(), scenario, key="sesam")
