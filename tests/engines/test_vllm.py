"""The calls that the vllm engine makes, against a stand-in: requests in a window, an adapter unmerged."""

import json
import sys
import types
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.engines import with_vllm
from stages.engines.load import open_engine, resolve
from stages.engines.protocol import Decoding
from tests.helpers.tiny import tiny_tokenizer


@pytest.fixture
def student(tmp_path, monkeypatch):
    """models/d/hf and models/d/peft of a base model models/base/b, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for place in ("d/hf", "base/b"):
        directory = Path("models", place)
        directory.mkdir(parents=True)
        tiny_tokenizer().save_pretrained(directory)
        (directory / "config.json").write_text('{"eos_token_id": 1}')
    Path("models/d/peft").mkdir()
    settings = {"r": 16, "rank_pattern": {"qkv": 48}, "base_model_name_or_path": "models/base/b"}
    Path("models/d/peft/adapter_config.json").write_text(json.dumps(settings))
    return Path("models/d/hf")


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

        def add_request(self, request_id, prompt, params, lora_request=None):
            seen.asked.append((int(request_id), params["seed"], lora_request))
            self.open.append((request_id, prompt["prompt_token_ids"]))
            seen.most = max(seen.most, len(self.open))

        def step(self):
            name, ids = self.open.pop()
            done = types.SimpleNamespace(token_ids=ids, logprobs=[{token: logprob} for token in ids])
            return [types.SimpleNamespace(request_id=name, finished=True, outputs=[done])]

    logprob = types.SimpleNamespace(logprob=-1.0)
    fakes = {
        "vllm": {"EngineArgs": dict, "SamplingParams": dict, "LLMEngine": FakeEngine},
        "vllm.lora.request": {"LoRARequest": lambda *given: given},
    }
    for name, members in fakes.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_no_more_requests_wait_at_vllm_than_keep_it_busy(student, vllm):
    sampling = Decoding(engine="vllm", precision="bf16", batch_size=2)
    made = list(open_engine(student, sampling).generate(["plot"] * 40, sampling, [*range(100, 140)]))
    assert sorted(answer.index for answer in made) == [*range(40)]
    assert [(index, seed) for index, seed, _ in vllm.asked] == [(n, 100 + n) for n in range(40)]
    assert vllm.most == with_vllm.WINDOW * 2 and "enable_lora" not in vllm.arguments[0]


def test_an_adapter_is_served_unmerged(student, vllm):
    sampling = Decoding(engine="vllm", precision="bf16", adapter=True)
    list(open_engine(student, sampling).generate(["plot", "sort"], sampling, [1, 2]))
    (arguments,) = vllm.arguments
    assert arguments["model"] == "models/base/b" and arguments["enable_prefix_caching"]
    assert arguments["enable_lora"] and arguments["max_loras"] == 1
    assert arguments["max_lora_rank"] == 64  # the least of vLLM's that holds 48
    adapter = str(Path("models/d/peft").resolve())
    assert [request for _, _, request in vllm.asked] == [("student", 1, adapter)] * 2


def test_an_adapter_that_cannot_be_served_is_the_users_to_mend(student, vllm):
    sampling = Decoding(engine="vllm", precision="bf16", adapter=True)
    settings = Path("models/d/peft/adapter_config.json")
    good = settings.read_text()
    settings.write_text(good.replace("48", "600"))
    with pytest.raises(UserError, match="rank 600"):
        open_engine(student, sampling)
    settings.write_text(good.replace("base/b", "base/none"))
    with pytest.raises(UserError, match="models/base/none: no config.json"):
        open_engine(student, sampling)
    settings.write_text(good)
    Path("models/base/b/config.json").write_text('{"eos_token_id": 1, "model_type": "gpt_neox"}')
    with pytest.raises(UserError, match="no LoRA for GPT-NeoX"):
        open_engine(student, sampling)
    settings.unlink()
    with pytest.raises(UserError, match="peft: no adapter_config.json"):
        open_engine(student, sampling)
    for engine in ("openvino", "transformers", "openai"):
        with pytest.raises(UserError, match="adapter: true is vllm's"):
            resolve(Decoding(engine=engine, adapter=True))
