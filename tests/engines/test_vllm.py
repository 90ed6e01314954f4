"""The calls that the vllm engine makes, against a stand-in: requests in a window."""

import sys
import types
from pathlib import Path

import pytest

from stages.engines import with_vllm
from stages.engines.load import open_engine
from stages.engines.protocol import Decoding
from tests.helpers.tiny import tiny_tokenizer


@pytest.fixture
def student(tmp_path, monkeypatch):
    """models/d/hf in the working directory, without weights."""
    monkeypatch.chdir(tmp_path)
    directory = Path("models/d/hf")
    directory.mkdir(parents=True)
    tiny_tokenizer().save_pretrained(directory)
    (directory / "config.json").write_text('{"eos_token_id": 1}')
    return directory


@pytest.fixture
def vllm(monkeypatch):
    """What LLMEngine was made with and asked for; it ends the newest request at each step."""
    seen = types.SimpleNamespace(arguments=[], asked=[], most=0)

    class FakeEngine:
        @classmethod
        def from_engine_args(cls, arguments):
            seen.arguments.append(arguments)
            cls.open = []
            return cls()

        def add_request(self, request_id, prompt, params):
            seen.asked.append((int(request_id), params["seed"]))
            self.open.append((request_id, prompt["prompt_token_ids"]))
            seen.most = max(seen.most, len(self.open))

        def step(self):
            name, ids = self.open.pop()
            done = types.SimpleNamespace(token_ids=ids, logprobs=[{token: logprob} for token in ids])
            return [types.SimpleNamespace(request_id=name, finished=True, outputs=[done])]

    logprob = types.SimpleNamespace(logprob=-1.0)
    module = types.ModuleType("vllm")
    module.EngineArgs = module.SamplingParams = dict
    module.LLMEngine = FakeEngine
    config = types.ModuleType("vllm.config")
    config.StructuredOutputsConfig = dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    return seen


def test_no_more_requests_wait_at_vllm_than_keep_it_busy(student, vllm):
    sampling = Decoding(engine="vllm", precision="bf16", batch_size=2)
    made = list(open_engine(student, sampling).generate(["plot"] * 40, sampling, [*range(100, 140)]))
    assert sorted(answer.index for answer in made) == [*range(40)]
    assert vllm.asked == [(n, 100 + n) for n in range(40)]
    assert vllm.most == with_vllm.WINDOW * 2 and vllm.arguments[0]["enable_prefix_caching"]
