"""The server of a tiny student in this process, with an engine that says what it is told to."""

import asyncio
import threading

import openai
import pytest
from aiohttp.test_utils import TestServer

from stages.commands import serve
from stages.core import layout
from stages.core.errors import UserError
from stages.engines.protocol import Decoding, Generation
from stages.engines.serve import start
from stages.engines.serve.queue import EngineQueue
from stages.engines.serve.server import Api, Model
from tests.helpers.skills_project import make_project

MODEL = layout.model("d", "hf")
BERLIN = [{"role": "user", "content": "What is the weather in  New York?"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "lamp")]


class Saying:
    """An engine that says one text to all; it remembers what it was asked, and can be held up."""

    def __init__(self, text: str = 'weather(location="New York")'):
        self.text, self.asked, self.gate = text, [], threading.Event()
        self.gate.set()

    def generate(self, prompts, sampling, seeds, grammar=None, tell=None):
        self.asked.append((prompts, sampling, seeds, grammar))
        self.gate.wait(20)
        if "fail" in prompts[0]:
            raise RuntimeError("out of luck")
        if "bad grammar" in prompts[0]:
            raise UserError("grammar: line 1: nonsense")
        for index in reversed(range(len(prompts))):
            yield Generation(index, self.text, "stop", 7, 5, None, None)


def student(prompt=None, skills=True, constrain=False):
    make_project("d", skills=skills, **({"prompt": prompt} if prompt else {}))
    return start.student_of(
        "d", Decoding(engine="transformers", threads=1, batch_size=2), constrain, serve.served("d")
    )


def talk(served, engine, scenario, most=4, load=None, answers=lambda name: True, key=""):
    """Run `scenario(client)` against the application; `load` gives the engine, if that may be another."""

    async def running():
        queue = EngineQueue(load or (lambda: engine), most)
        async with TestServer(Api({"d": Model(served, queue)}, answers, key).app()) as server:
            client = openai.AsyncOpenAI(
                base_url=f"{server.make_url('/v1')}", api_key=key or "none", max_retries=0
            )
            result = await scenario(client)
            await client.close()
        return result

    return asyncio.run(asyncio.wait_for(running(), 40))


def chat(served, engine, messages=BERLIN, **fields):
    return talk(
        served, engine, lambda client: client.chat.completions.create(model="d", messages=messages, **fields)
    )


def refusal(served, messages=BERLIN, **fields):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(served, Saying(), messages, **fields)
    assert caught.value.body["type"] == "invalid_request_error" and caught.value.body["message"]
    return caught.value
