"""Eight-bit weights: what is rounded, how the change is measured, when it is refused."""

import json

import numpy as np
import pytest

from stages.core import layout
from stages.core.errors import UserError
from stages.engines import openvino_int8
from stages.engines.load import open_engine, resolve
from stages.engines.openvino_int8 import compress, drift, rounded
from stages.engines.openvino_model import convert, converted
from stages.engines.protocol import Decoding
from tests.helpers.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "d" / "hf", "llama")


def test_rounding_is_to_the_nearest_step_of_a_row():
    weights = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32) * np.arange(40)[:, None]
    steps, scale = rounded(weights)
    assert steps.dtype == np.int8 and scale.shape == (40, 1)
    assert (np.abs(steps[1:].astype(int)).max(1) == 127).all() and not steps[0].any()
    assert (np.abs(steps * scale - weights) <= scale / 2 + 1e-5).all()


def test_the_compressed_model_is_the_one_with_rounded_weights(model):
    import openvino
    import torch
    from transformers import AutoModelForCausalLM

    graph = convert(model)
    compress(graph)
    kinds = [
        node.get_element_type().get_type_name()
        for node in graph.get_ops()
        if node.get_type_name() == "Constant"
    ]
    assert kinds.count("i8") == 15  # seven of each layer, and the head
    hints = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = openvino.Core().compile_model(graph, "CPU", hints).create_infer_request()
    ids = np.array([[3, 50, 7, 120, 9, 300]])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(6)[None]}
    logits = request.infer({**inputs, "beam_idx": np.zeros(1, np.int32)})[0]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        exact = reference(torch.tensor(ids)).logits
        for module in reference.modules():
            if isinstance(module, torch.nn.Linear):
                scale = module.weight.abs().amax(1, keepdim=True) / 127
                module.weight.copy_((module.weight / scale).round() * scale)
        expected = reference(torch.tensor(ids)).logits
    assert np.allclose(logits, expected, atol=2e-3)
    assert not np.allclose(exact, expected, atol=2e-2)


class Fixed:
    """A compiled model with the same logits (vocabulary) whatever it reads."""

    def __init__(self, logits):
        self.logits, self.seen = np.array(logits, np.float32), []

    def create_infer_request(self):
        return self

    def infer(self, inputs):
        self.seen.append(inputs["input_ids"].copy())
        return [np.broadcast_to(self.logits, (*inputs["input_ids"].shape, len(self.logits)))]


def test_drift_is_the_divergence_over_texts_that_the_exact_model_draws():
    import torch

    exact, other = Fixed([1.0, 0.0, -9.0, 0.5]), Fixed([0.2, 0.1, 0.0, 0.7])
    found = drift(exact, other, 2)
    p, q = (torch.tensor(one.logits).log_softmax(-1) for one in (exact, other))
    assert found.kl == pytest.approx(
        torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item(), abs=1e-4
    )
    assert found.agreement == 0.0 and drift(exact, exact, 2) == (0.0, 1.0)
    assert (exact.seen[0] == 2).all()
    shares = np.bincount(np.concatenate(exact.seen[1 : openvino_int8.LENGTH]).ravel(), minlength=4)
    assert np.allclose(shares / shares.sum(), p.exp(), atol=0.06)
    assert all((a == b).all() for a, b in zip(other.seen, exact.seen, strict=False))


@pytest.mark.slow
def test_int8_is_kept_beside_the_exact_model_with_its_drift(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openvino_int8, "LEAST_AGREEMENT", 0.5)
    sampling = Decoding(precision="f32", threads=1, weights="int8", max_new_tokens=6, batch_size=2)
    exact = converted(model)
    (answer,) = open_engine(model, sampling).generate(["plot a line"], sampling, [1])
    found = converted(model, "int8")
    assert answer.generated_tokens and exact.is_dir() and found.parent == exact.parent
    told = json.loads((found / "drift.json").read_text())
    assert 0 < told["kl"] < 0.01 and 0.5 < told["agreement"] <= 1
    assert (found / "openvino_model.bin").stat().st_size < 0.6 * (exact / "openvino_model.bin").stat().st_size


def test_int8_that_changes_predictions_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openvino_int8, "LARGEST_KL", 0.0)
    with pytest.raises(UserError, match="weights: int8 changes what .*mean KL .*set weights to exact"):
        converted(model, "int8")
    assert not [path for path in layout.SCRATCH.iterdir() if path.is_dir()]
    with pytest.raises(UserError, match="int8 is openvino's"):
        resolve(Decoding(engine="transformers", weights="int8"))
