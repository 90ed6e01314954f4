"""Engines: one protocol, equal answers; rows of the reference engine do not depend on their neighbours."""

import json
import os
import random
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.load import open_engine, prepare, resolve
from stages.engines.protocol import Decoding, finished
from tests.helpers.tiny import KINDS, WORDS, tiny_model
from tests.helpers.workspace import ROOT

pytestmark = pytest.mark.slow  # loads models

SAMPLING = {"temperature": 1.0, "top_k": 100, "top_p": 0.95, "precision": "f32", "threads": 1}


def some_prompts(count: int) -> list[str]:
    draw, words = random.Random(3), WORDS.split()
    return [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(count)]


def answers(engine, prompts: list[str], sampling: Decoding, seeds: list[int], order: list[int]) -> dict:
    """Generate the rows in `order`; by their original place."""
    found = engine.generate([prompts[i] for i in order], sampling, [seeds[i] for i in order])
    return {order[answer.index]: answer._replace(index=0) for answer in found}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_model(root / kind, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ["pythia", "qwen3"])
def test_a_row_does_not_depend_on_its_neighbours(models, kind):
    sampling = Decoding(engine="transformers", max_new_tokens=12, batch_size=8, **SAMPLING)
    engine = open_engine(models[kind], sampling)
    prompts = some_prompts(20)
    seeds = [7**i for i in range(20)]
    whole = answers(engine, prompts, sampling, seeds, list(range(20)))
    assert len({answer.text for answer in whole.values()}) > 15
    shuffled = random.Random(1).sample(range(20), 20)
    for order in (shuffled, shuffled[:7], shuffled[7:], [3]):
        assert answers(engine, prompts, sampling, seeds, order) == {i: whole[i] for i in order}


def test_logits_of_a_row_are_bit_equal_in_every_place(models, monkeypatch):
    import torch

    from stages.engines import with_transformers

    sampling = Decoding(engine="transformers", max_new_tokens=4, batch_size=8, **SAMPLING)
    engine = open_engine(models["llama"], sampling)
    seen = []
    choose = with_transformers.choose
    monkeypatch.setattr(
        with_transformers, "choose", lambda logits, *rest: (seen.append(logits), choose(logits, *rest))[1]
    )
    mine, others = "sort values along axis", ["fit a curve", "read csv file", "plot a line"]
    list(engine.generate([mine], sampling, [5]))
    alone = torch.stack(seen)[:, 0]
    for place in range(4):
        seen.clear()
        seeds = [*[1] * place, 5, *[2] * (3 - place)]
        list(engine.generate([*others[:place], mine, *others[place:]], sampling, seeds))
        assert torch.equal(torch.stack(seen)[: len(alone), place], alone[: len(seen)])


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_what_transformers_generates(models, kind):
    import torch
    from transformers import AutoModelForCausalLM

    sampling = Decoding(engine="transformers", max_new_tokens=16, precision="f32", threads=1, batch_size=4)
    prompts, codec = some_prompts(5), TextCodec(models[kind])
    ours = answers(open_engine(models[kind], sampling), prompts, sampling, [0] * 5, list(range(5)))
    model = AutoModelForCausalLM.from_pretrained(models[kind], dtype=torch.float32)
    for place, ids in enumerate(codec.prompts(prompts)):
        ids = torch.tensor([ids])
        full = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        ids = ids[0].tolist()
        new = full[0, len(ids) :].tolist()
        stopped = new[-1] == codec.eos_id
        assert ours[place].generated_tokens == len(new)
        assert ours[place].finish_reason == ("stop" if stopped else "length")
        assert ours[place].text == codec.decode(new[:-1] if stopped else new)
        assert ours[place].prompt_tokens == len(ids)


@pytest.mark.parametrize("name", ["transformers", "openvino"])
def test_frequency_penalty_is_taken_off_for_each_time_a_token_was_generated(
    models, name, tmp_path, monkeypatch
):
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    penalty, count = 0.03, 12
    sampling = Decoding(
        engine=name, max_new_tokens=count, precision="f32", threads=1, batch_size=4, frequency_penalty=penalty
    )
    prompts, codec = some_prompts(4), TextCodec(models["llama"])
    prepare(models["llama"], sampling)
    ours = answers(open_engine(models["llama"], sampling), prompts, sampling, [0] * 4, list(range(4)))
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.float32)
    changed = 0
    for place, ids in enumerate(codec.prompts(prompts)):
        texts = []
        for weight in (penalty, 0.0):
            new: list[int] = []
            while len(new) < count and codec.eos_id not in new:
                logits = model(torch.tensor([ids + new])).logits[0, -1]
                for token in new:
                    logits[token] -= weight
                new.append(int(logits.argmax()))
            texts.append(codec.decode([token for token in new if token != codec.eos_id]))
        assert ours[place].text == texts[0]
        changed += texts[0] != texts[1]
    assert changed


@pytest.mark.parametrize("name", ["transformers", "openvino"])
@pytest.mark.parametrize("penalty", [1.15, 3.0, 0.7])
def test_repetition_penalty_is_transformers_own(models, name, penalty, monkeypatch):
    """Of prompts of many lengths in a batch, whose padding was not said."""
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(models["llama"].parent)  # where a conversion stays for the next case
    knobs = {"max_new_tokens": 24, "precision": "f32", "threads": 1, "batch_size": 4}
    sampling = Decoding(engine=name, repetition_penalty=penalty, **knobs)
    prompts, codec = some_prompts(6), TextCodec(models["llama"])
    prepare(models["llama"], sampling)
    engine = open_engine(models["llama"], sampling)
    ours, plain = (
        answers(engine, prompts, chosen, [0] * 6, list(range(6)))
        for chosen in (sampling, sampling.model_copy(update={"repetition_penalty": 1.0}))
    )
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.float32)
    for place, ids in enumerate(codec.prompts(prompts)):
        asked = torch.tensor([ids])
        made = model.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=penalty,
        )
        new = made[0, len(ids) :].tolist()
        assert ours[place].generated_tokens == len(new)
        assert ours[place].text == codec.decode([token for token in new if token != codec.eos_id])
    assert ours != plain


@pytest.mark.parametrize("knobs", [{"frequency_penalty": 0.3}, {"frequency_penalty": 0.1, **SAMPLING}])
def test_both_penalties_are_taken_in_one_order(models, monkeypatch, knobs):
    """Engines draw random numbers of their own: where they sample, it is among one token."""
    monkeypatch.chdir(models["llama"].parent)
    common = {"max_new_tokens": 24, "precision": "f32", "threads": 1, "batch_size": 4, **knobs}
    common = {**common, "repetition_penalty": 1.5} | ({"top_k": 1} if "top_k" in knobs else {})
    found, prompts = [], some_prompts(6)
    for name in ("transformers", "openvino"):
        sampling = Decoding(engine=name, **common)
        prepare(models["llama"], sampling)
        found.append(
            answers(open_engine(models["llama"], sampling), prompts, sampling, [1] * 6, list(range(6)))
        )
    assert {i: own.text for i, own in found[0].items()} == {i: own.text for i, own in found[1].items()}


def test_a_penalty_that_is_off_makes_no_finished_row_stale():
    plain, held = Decoding(), Decoding(repetition_penalty=1.15)
    assert plain.identity().keys() == plain.model_dump().keys() - {"repetition_penalty"}
    assert held.identity() == held.model_dump()


class Pieces:
    """A codec whose tokens are given strings; the EOS is -1."""

    eos_id = -1

    def __init__(self, *pieces: str):
        self.pieces = pieces

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[id] for id in ids)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (
            ["a", "b", "\n", "c"],
            True,
            [-2.0, -4.5],
        ),  # a newline belongs to the line it ends, the EOS to the last
        (["a", "b", "\n", "c"], False, [-2.0, -4.0]),
        (["a", "\n", "\n", "b\n", "c"], False, [-1.5, -3.0, -4.0, -5.0]),
        (["a", "\n\n", "b"], True, [-1.5, None, -3.5]),  # no token of its own: nothing
        (["a", "x\ny", "b"], False, [-1.5, -3.0]),
        (["a", "\n"], False, [-1.5, None]),
        (["a", "\n"], True, [-1.5, -3.0]),
        ([], True, [-1.0]),
    ],
)
def test_each_token_counts_in_one_line(pieces, stops, expected):
    ids = [*range(len(pieces)), *[-1] * stops]
    logprobs = [-1.0 - place for place in range(len(ids))]
    after = [0] * stops  # what an engine may add after the EOS is of no meaning
    made = finished(Pieces(*pieces), 7, [1, 2], [*ids, *after], [*logprobs, *[-99.0] * len(after)])
    assert made.text == "".join(pieces) and made.line_logprobs == expected
    assert len(made.line_logprobs) == len(made.text.split("\n"))
    assert made.logprob == sum(logprobs) / len(logprobs) and made.generated_tokens == len(ids)


def test_lines_of_a_byte_level_tokenizer(models):
    """Against the character offsets that the tokenizer gives; letters of several tokens included."""
    codec = TextCodec(models["qwen2"])
    text = "\nsort 数组 by axis\n\n- naïve 😀😀\n plot a line\n\n"
    encoding = codec.tokenizer.encode(text, add_special_tokens=False)
    assert codec.decode(encoding.ids) == text and len(encoding.ids) > len(set(encoding.offsets))
    values = [round(-0.1 - 0.01 * place, 2) for place in range(len(encoding.ids))]
    own: list[list[float]] = [[] for _ in text.split("\n")]
    for value, (start, _) in zip(values, encoding.offsets, strict=True):
        own[text[:start].count("\n")].append(value)
    made = finished(codec, 0, [], encoding.ids, values)
    assert made.line_logprobs == [round(sum(line) / len(line), 4) if line else None for line in own]


@pytest.mark.parametrize("name", ["transformers", "openvino"])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.5},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
    ],
    ids=str,
)
def test_log_probabilities_are_of_the_raw_logits(models, name, knobs, monkeypatch):
    import importlib

    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(models["llama"].parent)  # where a conversion stays for the next case
    module, seen = importlib.import_module(f"stages.engines.with_{name}"), []
    monkeypatch.setattr(module, "finished", lambda *given: (seen.append(given), finished(*given))[1])
    sampling = Decoding(engine=name, max_new_tokens=20, precision="f32", threads=1, batch_size=4, **knobs)
    prompts = some_prompts(4)
    found = answers(open_engine(models["llama"], sampling), prompts, sampling, [1, 2, 3, 4], list(range(4)))
    model = AutoModelForCausalLM.from_pretrained(models["llama"], dtype=torch.float32)
    for _, place, prompt, ids, logprobs in seen:
        ids = ids[: found[place].generated_tokens]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(ids)), ids].tolist()
        assert logprobs[: len(ids)] == pytest.approx(expected, abs=1e-4)
        assert found[place].logprob == pytest.approx(sum(expected) / len(ids), abs=1e-3)
        assert len(found[place].line_logprobs) == len(found[place].text.split("\n"))


def test_sampling_follows_the_warped_distribution():
    import torch

    from stages.engines.with_transformers import _warpers, choose, uniforms

    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -4.0]]).log_softmax(-1)
    sampling = Decoding(temperature=0.7, top_k=4, top_p=0.99)
    noise = torch.from_numpy(uniforms(11, 20_000))
    drawn = choose(logits.expand(20_000, 5), noise, sampling, _warpers(sampling))
    expected = logits[0] / 0.7
    expected[4] = -torch.inf
    expected = expected.softmax(-1)
    cut = expected.sort(descending=True).values.cumsum(-1)
    expected[int((cut < 0.99).sum()) + 1 :] = 0
    share = torch.bincount(drawn, minlength=5) / 20_000
    assert torch.allclose(share, expected / expected.sum(), atol=0.015)
    assert share[expected == 0].sum() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "tied"), [*((kind, False) for kind in KINDS), ("pythia", True), ("qwen2", True)]
)
def test_openvino_equals_transformers_token_for_token(tmp_path, monkeypatch, kind, tied):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "models" / kind, kind, tied=tied)
    prompts = some_prompts(10)
    found = {}
    for name in ("transformers", "openvino"):
        sampling = Decoding(engine=name, max_new_tokens=24, precision="f32", threads=1, batch_size=8)
        prepare(model, sampling)
        found[name] = answers(open_engine(model, sampling), prompts, sampling, [0] * 10, list(range(10)))
    for place, answer in found["openvino"].items():
        reference = found["transformers"][place]
        assert answer[:5] == reference[:5]
        assert answer.logprob == pytest.approx(reference.logprob, abs=2e-4)
        assert answer.line_logprobs == pytest.approx(reference.line_logprobs, abs=2e-4)
    assert any(answer.finish_reason == "length" for answer in found["openvino"].values())


def test_openvino_stops_at_eos_and_draws_by_the_rows_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "models" / "m", "llama")
    sampling = Decoding(engine="openvino", max_new_tokens=150, batch_size=4, precision="f32", temperature=5.0)
    engine = open_engine(model, sampling)
    prompts, seeds = ["plot a line"] * 12, [*range(100, 111), 100]
    first = answers(engine, prompts, sampling, seeds, list(range(12)))
    assert answers(engine, prompts, sampling, seeds, list(range(11, -1, -1))) == first
    assert first[0] == first[11] and len({answer.text for answer in first.values()}) == 11
    reasons = {answer.finish_reason for answer in first.values()}
    assert reasons == {"stop", "length"}
    for answer in first.values():
        assert (answer.generated_tokens == 150) == (answer.finish_reason == "length")


def test_samples_of_a_prompt_follow_the_first_into_the_cache(models, monkeypatch):
    """On a pipeline of our own: a prompt is computed once, no row is lost, and the window stays full."""
    monkeypatch.chdir(models["llama"].parent)  # where a conversion stays for the next case
    sampling = Decoding(engine="openvino", precision="f32", threads=1, batch_size=2, max_new_tokens=3)
    engine = open_engine(models["llama"], sampling)

    class Handle:
        def __init__(self, prompt):
            self.prompt, self.made = prompt, 0

        def can_read(self):
            return self.made > 0

        def get_status(self):
            return types.SimpleNamespace(name="FINISHED" if self.made == 3 else "RUNNING")

        def read_all(self):
            return [types.SimpleNamespace(generated_ids=[5, 6, 7], generated_log_probs=[-1.0] * 3)]

    class Pipeline:
        cached, computed, open, most = set(), [], [], 0

        def add_request(self, index, prompt, config):
            handle = Handle(tuple(prompt.data[0].tolist()))
            if handle.prompt not in self.cached:
                self.computed.append(handle.prompt)
            self.open.append(handle)
            return handle

        def step(self):
            self.most = max(self.most, len(self.open))
            for handle in self.open:
                handle.made += 1
                self.cached.add(handle.prompt)
            self.open = [handle for handle in self.open if handle.made < 3]

    engine.pipeline = pipeline = Pipeline()
    prompts = [text for text in ["plot a line", "read csv", "sort"] for _ in range(6)]
    found = list(engine.generate(prompts, sampling, [*range(18)]))
    assert sorted(answer.index for answer in found) == [*range(18)]
    assert len(pipeline.computed) == 3 and pipeline.most == engine.in_flight


def test_openvino_keeps_few_kernels_of_the_shapes_that_it_met(models, tmp_path, monkeypatch):
    """Its own limits let memory grow by 90 MiB here, and go on."""
    monkeypatch.chdir(tmp_path)
    sampling = Decoding(engine="openvino", precision="f32", batch_size=8, max_new_tokens=24)
    prepare(models["llama"], sampling)
    engine, draw, prompts = open_engine(models["llama"], sampling), random.Random(1), some_prompts(200)

    def resident_mib_after(batches: int) -> float:
        for _ in range(batches):
            batch = draw.sample(prompts, draw.randint(1, 8))
            list(engine.generate(batch, sampling, [0] * len(batch)))
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib_after(60)
    assert resident_mib_after(150) - before < 30


def test_openvino_reports_to_nobody():
    from openvino.tools.ovc import convert_impl, telemetry_utils

    assert {module.tm.__name__ for module in (convert_impl, telemetry_utils)} == {
        "openvino.tools.ovc.telemetry_stub"
    }


def test_openvino_conversion_is_kept_and_old_ones_go(tmp_path, monkeypatch):
    from stages.engines.openvino_model import converted

    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path / "models" / "d" / "hf", "qwen2")
    first = converted(model)
    written = (first / "openvino_model.bin").stat().st_mtime_ns
    assert converted(model) == first and (first / "openvino_model.bin").stat().st_mtime_ns == written
    (first.parent / "openvino-d-hf-notes").mkdir()
    tiny_model(model, "qwen2", seed=1)
    second = converted(model)
    assert second != first and not first.exists() and (first.parent / "openvino-d-hf-notes").exists()


@pytest.mark.skipif(not version("torch").endswith("+cpu"), reason="only torch itself knows about a GPU")
def test_a_torch_without_cuda_is_not_imported_to_learn_that():
    probe = (
        "import sys; from stages.engines.load import resolve; from stages.engines.protocol import Decoding\n"
        "assert resolve(Decoding(engine='transformers')).precision == 'f32' and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True)


def test_auto_precision_is_decided():
    assert resolve(Decoding(engine="openvino")).precision in ("f32", "bf16")
    assert resolve(Decoding(engine="openvino", precision="f32")).precision == "f32"
    assert resolve(Decoding(engine="openai")).precision == "f32"
    assert resolve(Decoding(engine="openvino", threads=1)).precision == "f32"
    with pytest.raises(UserError, match="two CPU threads"):
        resolve(Decoding(engine="openvino", threads=1, precision="bf16"))


def test_vllm_missing_is_the_users_to_mend(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        prepare(models["llama"], Decoding(engine="vllm"))


def test_vllm_is_asked_with_ids_and_seeds(models, monkeypatch):
    asked, made = [], {}

    class FakeEngine:
        """The calls of vllm.LLMEngine, newest request first."""

        @classmethod
        def from_engine_args(cls, arguments):
            made.update(arguments)
            return cls()

        def add_request(self, request_id: str, prompt: dict, params: dict) -> None:
            assert isinstance(request_id, str)
            asked.append((request_id, prompt["prompt_token_ids"], params))

        def has_unfinished_requests(self) -> bool:
            return bool(asked)

        def step(self) -> list:
            name, ids, params = asked.pop()
            tokens = [*ids[-3:-1], *params["stop_token_ids"]]  # the last ends the line of the chat template
            logprobs = [{token: types.SimpleNamespace(logprob=-0.5 * n)} for n, token in enumerate(tokens)]
            done = types.SimpleNamespace(token_ids=tokens, logprobs=logprobs)
            half = types.SimpleNamespace(request_id=name, finished=False, outputs=[])
            return [half, types.SimpleNamespace(request_id=name, finished=True, outputs=[done])]

    drawn = []
    fake = types.ModuleType("vllm")
    fake.EngineArgs = dict
    fake.SamplingParams = lambda **params: (drawn.append(params), params)[1]
    fake.LLMEngine = FakeEngine
    config = types.ModuleType("vllm.config")
    config.StructuredOutputsConfig = dict
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    sampling = Decoding(engine="vllm", precision="bf16", temperature=0.5, repetition_penalty=1.2)
    engine = open_engine(models["llama"], sampling)
    prompts = ["plot a line", "read csv file"]
    found = {answer.index: answer for answer in engine.generate(prompts, sampling, [2**62, 9])}
    assert made["enable_prefix_caching"] and made["dtype"] == "bfloat16" and not made["trust_remote_code"]
    assert [params["seed"] for params in drawn] == [2**62, 9]
    assert (
        found[1].text.endswith("file") and found[1].generated_tokens == 3 and found[1].finish_reason == "stop"
    )
    assert found[1].logprob == -0.5 and found[1].line_logprobs == [-0.5]
    assert drawn[0]["logprobs"] == 0 and drawn[0]["repetition_penalty"] == 1.2


class Server(BaseHTTPRequestHandler):
    """A completions endpoint: says the last prompt token's number, or refuses a key."""

    asked: list[dict] = []
    key = "Bearer secret"
    gives: dict | None = None  # log-probabilities

    def _reply(self, code: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self._reply(200, {"object": "list", "data": [{"id": "served", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != self.key:
            return self._reply(401, {"error": {"message": "bad key"}})
        self.asked.append(body)
        said = {
            "index": 0,
            "text": f"said {body['prompt'][-1]}",
            "finish_reason": "stop",
            "logprobs": self.gives,
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return self._reply(
            200,
            {
                "id": "x",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": [said],
                "usage": usage,
            },
        )

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    Server.asked.clear()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()


def test_openai_sends_ids_seeds_and_knobs(models, server, monkeypatch):
    monkeypatch.setenv("STUDENT_KEY", "secret")
    sampling = Decoding(
        engine="openai", base_url=server, api_key_env="STUDENT_KEY", temperature=0.5, top_k=7, batch_size=3
    )
    engine = open_engine(models["llama"], sampling)
    prompts = some_prompts(9)
    ids = TextCodec(models["llama"]).prompts(prompts)
    found = {answer.index: answer for answer in engine.generate(prompts, sampling, list(range(9)))}
    assert {i: answer.text for i, answer in found.items()} == {
        i: f"said {own[-1]}" for i, own in enumerate(ids)
    }
    assert all(answer.prompt_tokens == len(ids[answer.index]) for answer in found.values())
    asked = {body["seed"]: body for body in Server.asked}
    assert [asked[i]["prompt"] for i in range(9)] == ids
    assert asked[0]["model"] == "served" and asked[0]["top_k"] == 7 and asked[0]["temperature"] == 0.5
    assert asked[0]["logprobs"] == 1 and found[0].logprob is None and found[0].line_logprobs is None
    assert "repetition_penalty" not in asked[0]  # of a server that does not know it, either
    as_text = sampling.model_copy(update={"prompt_as": "text", "repetition_penalty": 1.2})
    list(engine.generate(prompts[:1], as_text, [99]))
    assert Server.asked[-1]["prompt"] == prompts[0] and Server.asked[-1]["repetition_penalty"] == 1.2


def test_openai_log_probabilities_come_with_strings(models, server, monkeypatch):
    sampling = Decoding(engine="openai", base_url=server, served_model="m")
    monkeypatch.setattr(Server, "key", "Bearer none")

    def means(tokens: list[str], logprobs: list[float]) -> tuple:
        monkeypatch.setattr(Server, "gives", {"tokens": tokens, "token_logprobs": logprobs})
        (answer,) = open_engine(models["llama"], sampling).generate(["plot a line"], sampling, [1])
        assert answer.text.startswith("said ")
        return answer.logprob, answer.line_logprobs

    assert means(["said", " 7", ""], [-1, -2, -3]) == (-2.0, [-2.0])
    assert means(["sa", "id\n", "7"], [-1, -2, -3]) == (-2.0, None)  # not the newlines of the text
    assert means([], []) == (None, None)


def test_openai_problems_are_one_line(models, server, monkeypatch):
    with pytest.raises(UserError, match="base_url"):
        open_engine(models["llama"], Decoding(engine="openai"))
    monkeypatch.delenv("STUDENT_KEY", raising=False)
    with pytest.raises(UserError, match="STUDENT_KEY"):
        open_engine(models["llama"], Decoding(engine="openai", base_url=server, api_key_env="STUDENT_KEY"))
    with pytest.raises(UserError, match="no server answers"):
        open_engine(models["llama"], Decoding(engine="openai", base_url="http://127.0.0.1:9/v1"))
    wrong = Decoding(engine="openai", base_url=server)
    with pytest.raises(UserError, match="refused.*bad key"):
        list(open_engine(models["llama"], wrong).generate(["plot"], wrong, [1]))
