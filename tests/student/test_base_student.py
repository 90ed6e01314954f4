"""A training in two stages: the second goes on from the merged student of the first."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.base import run as base
from stages.base_student import run as base_student
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_json
from stages.export import run as export
from stages.finetune import run as finetune
from stages.knobs import (
    BaseKnobs,
    BaseStudentKnobs,
    ExportKnobs,
    FinetuneKnobs,
    MergeKnobs,
    TokenizeKnobs,
)
from stages.merge import run as merge
from stages.student.formats.parity import difference, hf_logits, reload
from stages.student.formats.weights import load_state
from stages.tokenize import run as tokenize
from tests.helpers.tiny import made_once, tiny_dataset, tiny_model

pytestmark = pytest.mark.slow  # loads models
IDS = torch.arange(2, 42).view(1, 40)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(dataset: str, name: str) -> dict:
    """A student of the base `name`; the metrics of finetune."""
    tiny_dataset(dataset)
    tokenize(dataset, TokenizeKnobs(base=name, max_length=256))
    found = finetune(dataset, FinetuneKnobs(base=name, lr=1e-2, epochs=1, lora_r=4, lora_head=True))
    merge(dataset, MergeKnobs(base=name))
    export(dataset, ExportKnobs(base=name))
    return found


@made_once
def first(kind: str) -> dict:
    base("m", BaseKnobs(path=str(tiny_model(Path("data/src"), kind, tied=True))))
    return train("d", "m")


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_the_second_stage_goes_on_from_the_first_ones_very_weights(kind):
    before = first(kind)
    figures = base_student("two", BaseStudentKnobs(of="d"))
    assert figures["parity"]["litgpt_transformers"] < 1e-5 and not figures["tied"]  # its head was trained
    one, two = layout.model("d", "hf"), layout.base_model("two")
    assert torch.equal(hf_logits(reload(one), IDS), hf_logits(reload(two), IDS))
    assert difference(hf_logits(reload(layout.base_model("m")), IDS), hf_logits(reload(two), IDS)) > 1e-2
    student, start = load_state(layout.model("d", "merged")), load_state(two)
    assert student.keys() == start.keys() and all(torch.equal(student[n], start[n]) for n in student)

    again = train("e", "two")
    assert again["val_loss_before"] == before["val_loss"]
    adapter = load_file(layout.model("e", "adapter") / "adapter.safetensors")
    name, grown = "transformer.h.1.attn.proj", load_state(layout.model("e", "merged"))
    update = adapter[f"{name}.lora_B"] @ adapter[f"{name}.lora_A"] * 8.0
    assert (grown[f"{name}.weight"] - student[f"{name}.weight"] - update).abs().max() < 1e-6
    settings = read_json(layout.model("e", "peft") / "adapter_config.json")
    assert settings["base_model_name_or_path"] == "models/base/two"


def test_a_student_that_is_not_there_or_torn_is_one_line():
    with pytest.raises(UserError, match="models/d/hf/manifest.json: no such file"):
        base_student("two", BaseStudentKnobs(of="d"))
    first("llama")
    weights = layout.model("d", "hf") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="model.safetensors: torn or edited"):
        base_student("two", BaseStudentKnobs(of="d"))
    assert not layout.base_model("two").exists()
