"""Merge and export as streams: the same bits as with the whole model in memory, never much of it at once."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, write_json
from stages.export import run as export
from stages.knobs import ExportKnobs, MergeKnobs, TokenizeKnobs
from stages.merge import run as merge
from stages.student.formats import from_hf as convert
from stages.student.formats import merge as merging
from stages.student.formats import parity, weights
from stages.student.formats import to_hf as exporting
from stages.tokenize import run as tokenize
from tests.helpers.tiny import KINDS, tiny_dataset, tiny_model

BASE, ADAPTER, MERGED, HF = (
    layout.base_model("m"),
    *(layout.model("d", part) for part in ("adapter", "merged", "hf")),
)
ALL = ("query", "key", "value", "projection", "mlp", "head")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def random_adapter(targets):
    """An adapter of rank 4 that nobody trained."""
    from litgpt.lora import GPT, Config

    with torch.device("meta"):
        flags = {f"lora_{name}": True for name in targets}
        model = GPT(Config.from_file(BASE / "model_config.yaml", lora_r=4, lora_alpha=12, **flags))
    generator = torch.Generator().manual_seed(3)
    shapes = {name: p.shape for name, p in model.named_parameters() if "lora_" in name}
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    with atomic_directory(ADAPTER, producer="test") as directory:
        save_file(tensors, directory / "adapter.safetensors")
        lora = {"base": "m", "r": 4, "alpha": 12, "dropout": 0.0, "targets": list(targets)}
        write_json(directory / "lora.json", lora)


def prepare(kind="llama", tied=False, dtype=torch.float32, targets=ALL[:5]):
    """A base of that kind, as the base stage writes it but without its parity check, and an adapter."""
    source = tiny_model(layout.SCRATCH.parent / "src", kind, tied)
    stored = {name: value.to(dtype) for name, value in load_file(source / "model.safetensors").items()}
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    write_json(
        source / "config.json",
        read_json(source / "config.json") | {"dtype": str(dtype).removeprefix("torch.")},
    )
    BASE.mkdir(parents=True)
    convert.import_base(source, BASE)
    tiny_dataset("d")
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    random_adapter(targets)


def merged_by_litgpt(targets):
    """Litgpt's own merge, in float32 and in place, of a model that holds everything."""
    from litgpt.lora import GPT, Config, lora_filter, merge_lora_weights

    flags = {f"lora_{name}": True for name in targets}
    model = GPT(Config.from_file(BASE / "model_config.yaml", lora_r=4, lora_alpha=12, **flags))
    stored = torch.load(BASE / "lit_model.pth")
    model.load_state_dict(stored, strict=False)
    model.load_state_dict(load_file(ADAPTER / "adapter.safetensors"), strict=False)
    merge_lora_weights(model)
    whole = {k.replace("linear.", ""): v for k, v in model.state_dict().items() if not lora_filter(k, v)}
    return {name: whole[name].to(value.dtype) for name, value in stored.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_merge_is_litgpts(kind, dtype, monkeypatch):
    monkeypatch.setattr(weights, "PIECE", 500)  # several pieces a tensor, the last one smaller
    prepare(kind, dtype=dtype)
    for targets in (ALL[:5], ("query", "value"), ("key", "head"), ALL):
        random_adapter(targets)
        merge("d", MergeKnobs(base="m"))
        found, wanted = torch.load(MERGED / "lit_model.pth"), merged_by_litgpt(targets)
        assert found.keys() == wanted.keys()
        # Whole matrices are multiplied there; on some CPUs MKL rounds by their shape: last bits may differ.
        for name, value in wanted.items():
            assert_close(found[name], value, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_merged_file_is_read_by_torch_and_litgpt_and_always_the_same():
    from litgpt.utils import lazy_load

    prepare(tied=True)
    merge("d", MergeKnobs(base="m"))
    file = MERGED / "lit_model.pth"
    once, mapped, whole, lazy = (
        file.read_bytes(),
        torch.load(file, mmap=True),
        torch.load(file),
        lazy_load(file),
    )
    for name, value in whole.items():
        assert torch.equal(value, mapped[name]) and torch.equal(value, lazy[name]._load_tensor())
    head, embedding = whole["lm_head.weight"], whole["transformer.wte.weight"]
    assert head.data_ptr() == embedding.data_ptr()
    merge("d", MergeKnobs(base="m"))
    assert file.read_bytes() == once


class Largest(TorchDispatchMode):
    """The largest tensor in float32 that any operation made, in elements; views and their copies count."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32 and not value.is_meta:
                self.elements = max(self.elements, value.numel())
        return out


def test_no_weight_is_ever_whole_in_float32(monkeypatch):
    """The head has 16,384 elements; the rotary cache 256 · 8, the logits 3 · 2 · 512."""
    prepare(dtype=torch.bfloat16, targets=ALL)
    monkeypatch.setattr(weights, "PIECE", 512)
    with Largest() as seen, atomic_directory(MERGED, producer="test") as directory:
        merging.merge(BASE, ADAPTER, directory)
        shutil.copyfile(BASE / "model_config.yaml", directory / "model_config.yaml")
    assert 512 <= seen.elements <= 2048
    with Largest() as seen:
        model = merging.compared(BASE, ADAPTER, MERGED)
        parity.litgpt_logits(model, torch.zeros(3, 2, dtype=torch.long))
    assert 512 <= seen.elements <= 4096


def resident_file_pages():
    return next(
        int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssFile")
    )


def test_pages_that_are_given_back_are_read_again(tmp_path):
    torch.save({"a": torch.arange(1 << 22), "b": torch.arange(100)}, tmp_path / "lit_model.pth")
    state = weights.load_state(tmp_path)
    before = resident_file_pages()
    total = state["a"].sum()
    used = resident_file_pages() - before
    weights.release(state["a"])
    weights.release(state["b"])  # less than a page: stays
    assert used > 30 << 20 and resident_file_pages() - before < 1 << 20
    assert state["a"].sum() == total and torch.equal(state["b"], torch.arange(100))


def test_a_layer_gives_back_what_it_mapped_and_nothing_else(tmp_path):
    torch.save({"weight": torch.randn(2048, 2048)}, tmp_path / "lit_model.pth")
    mapped, own = (torch.nn.Linear(2048, 2048, bias=False) for _ in range(2))
    mapped.weight = torch.nn.Parameter(weights.load_state(tmp_path)["weight"], requires_grad=False)
    model, x = torch.nn.Sequential(mapped, own), torch.randn(1, 2048)
    once = model(x)
    weights.release_as_it_runs(model, tmp_path)
    before = resident_file_pages()
    assert torch.equal(model(x), once) and torch.equal(model(x), once)
    assert before - resident_file_pages() > 15 << 20


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_bfloat16_model_computes_as_its_float32_copy(kind, tied, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(weights, "PIECE", 500)
    prepare(kind, tied, torch.bfloat16)
    ids = torch.arange(2, 42).view(2, 20)
    model = parity.reload(BASE)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        exact = AutoModelForCausalLM.from_pretrained(BASE.resolve(), dtype=torch.float32)(ids).logits
    assert parity.difference(parity.hf_logits(model, ids), exact) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_exported_file_is_the_whole_state_renamed(kind):
    prepare(kind, dtype=torch.bfloat16)
    merge("d", MergeKnobs(base="m"))
    export("d", ExportKnobs(base="m"))
    hf = convert.read_hf_config(MERGED)
    wanted = exporting.hf_weights(torch.load(MERGED / "lit_model.pth"), hf, convert.litgpt_config(hf))
    found = load_file(HF / "model.safetensors")
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_merge_that_adds_something_else_is_refused(monkeypatch):
    """The stored model agrees with the sum, but the sum is not what the adapter computes."""
    pieces = merging.merged_pieces

    def wrong(weight, layer):
        for rows, old in zip(pieces(weight, layer), weights.pieces(weight), strict=True):
            yield rows + (rows - old) * 0.1

    monkeypatch.setattr(merging, "merged_pieces", wrong)
    prepare()
    merge("d", MergeKnobs(base="m"))
    with pytest.raises(UserError, match="adapter and merged logits differ"):
        export("d", ExportKnobs(base="m"))
    assert not HF.exists()
