"""One training step: hand-written gradients against autograd's, packed rows against rows by themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.student import attention, loss, lowrank, pointwise
from stages.student.convert import import_base, load_state
from stages.student.data import TokenRows
from stages.student.litgpt_import import LoRAConfig, mark_only_lora_as_trainable
from stages.student.model import Student
from tests.tiny import tiny_model

TARGETS = {f"lora_{name}": True for name in ("query", "key", "value", "projection", "mlp")}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def same(function, reference, *inputs, tolerance=1e-9):
    """Equal values, and equal gradients of every input, for one random gradient of the result."""
    found, wanted = function(*inputs), reference(*inputs)
    assert (found - wanted).abs().max() < tolerance
    above = random(*wanted.shape, seed=9).detach().to(wanted.dtype)
    for mine, other in zip(
        torch.autograd.grad(found, inputs, above), torch.autograd.grad(wanted, inputs, above), strict=True
    ):
        assert (mine - other).abs().max() < tolerance


def test_low_rank_linear():
    weight, bias = random(7, 5, seed=1).detach(), random(7, seed=2).detach()

    def plain(x, a, b):
        return x @ weight.t() + bias + 1.5 * (x @ a.t()) @ b.t()

    def ours(x, a, b):
        return lowrank.LowRank.apply(x, weight, bias, a, b, 1.5)

    same(ours, plain, random(6, 5), random(3, 5, seed=3), random(7, 3, seed=4))


def test_swiglu():
    same(
        pointwise.SwiGLU.apply,
        lambda gate, up: F.silu(gate) * up,
        random(4, 6),
        random(4, 6, seed=1),
    )


def test_rms_norm():
    weight = random(6, seed=1).detach().float()

    def ours(x):
        return pointwise.RMSNorm.apply(x, weight, 1e-5, torch.float32)

    same(ours, lambda x: F.rms_norm(x, (6,), weight, 1e-5), random(2, 3, 6).float(), tolerance=1e-5)


@pytest.mark.parametrize(("groups", "share", "rotary"), [(2, 3, 8), (3, 1, 4), (1, 4, 8)])
def test_short_attention(groups, share, rotary):
    """Against PyTorch's attention, with the rotation as complex numbers (arXiv 2104.09864, section 3.2)."""
    length, size = 5, 8
    angles = torch.outer(torch.arange(length), 10000.0 ** -(torch.arange(rotary // 2) / (rotary // 2)))
    angles = angles.double()
    cos, sin = (torch.cat([part, part], 1) for part in (angles.cos(), angles.sin()))

    def rotated(x):
        pairs = torch.complex(x[..., : rotary // 2], x[..., rotary // 2 : rotary])
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag, x[..., rotary:]], -1)

    def plain(qkv):
        split = qkv.view(2, length, -1, size).transpose(1, 2)
        q, k, v = split.split([groups * share, groups, groups], 1)
        k, v = (part.repeat_interleave(share, 1) for part in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True, scale=0.3)
        return mixed.transpose(1, 2).reshape(2, length, -1)

    heads = attention.Heads(groups, share, size, rotary, 0.3)
    qkv = random(2, length, groups * (share + 2) * size)
    same(lambda x: attention.ShortAttention.apply(x, cos, sin, heads), plain, qkv)


@pytest.mark.parametrize("kept", [1 << 26, 40, 1])
def test_head_loss_is_cross_entropy(monkeypatch, kept):
    """However the logits are cut, and for targets that are ignored; every gradient stays float32-exact."""
    monkeypatch.setattr(loss, "HEAD_ELEMENTS", kept)
    monkeypatch.setattr(loss, "PIECE", kept // 2)
    hidden, weight = random(9, 4).float().detach().requires_grad_(), random(11, 4, seed=1).float().detach()
    targets = torch.tensor([3, -100, 0, 10, 3, 7, -100, 1, 2])
    total = loss.HeadLoss.apply(hidden, weight, None, targets)
    (found,) = torch.autograd.grad(total * 0.37, hidden)
    exact = hidden.double()
    wanted = F.cross_entropy(exact @ weight.double().t(), targets, ignore_index=-100, reduction="sum")
    (gradient,) = torch.autograd.grad(wanted * 0.37, hidden)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (found - gradient).abs().max() < 1e-5
    with torch.no_grad():
        assert loss.HeadLoss.apply(hidden, weight, None, targets) == total


# --- whole models ------------------------------------------------------------------------------------------


def student(tmp_path, kind):
    base = tmp_path / kind
    base.mkdir()
    import_base(tiny_model(tmp_path / f"{kind}-source", kind), base)
    config = LoRAConfig.from_file(base / "model_config.yaml", lora_r=4, lora_alpha=12, **TARGETS)
    model = Student(config)
    model.load_state_dict(load_state(base), strict=False)
    mark_only_lora_as_trainable(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def token_rows():
    choose = np.random.default_rng(0)
    lengths = np.array([13, 40, 7, 21, 5])
    ids = choose.integers(2, 500, lengths.sum()).astype(np.int32)
    labels = np.where(choose.random(len(ids)) < 0.4, ids, -100).astype(np.int32)
    return TokenRows(ids, labels, np.concatenate([[0], np.cumsum(lengths)]))


def gradients(model, batch):
    total = model(*batch)
    found = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    return total.item(), found


@pytest.mark.parametrize("kind", ["pythia", "llama", "qwen3"])
def test_packed_rows_are_rows_by_themselves(tmp_path, kind):
    model, rows = student(tmp_path, kind), token_rows()
    chosen = np.array([4, 0, 1, 3, 2])
    packed, padded = rows.batch(chosen, packed=True), rows.batch(chosen)
    assert packed[0].numel() < 0.6 * padded[0].numel()
    alone = [gradients(model, rows.batch(np.array([row]))) for row in chosen]
    for batch in (packed, padded):
        total, found = gradients(model, batch)
        assert total == pytest.approx(sum(one for one, _ in alone), rel=1e-6)
        for mine, *others in zip(found, *(parts for _, parts in alone), strict=True):
            wanted = torch.stack(others).sum(0)
            assert (mine - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_checkpointing_changes_nothing(tmp_path):
    model, batch = student(tmp_path, "llama"), token_rows().batch(np.arange(5))
    total, wanted = gradients(model, batch)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        model(*batch)
    plain, model.checkpointing = sum(kept), True
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        model(*batch)
    assert sum(kept) < 0.5 * plain
    again, found = gradients(model, batch)
    assert again == total and all(map(torch.equal, found, wanted))


def test_compiled_blocks_are_the_blocks(tmp_path):
    """Traced and differentiated by torch.compile, run by PyTorch's own kernels: needs no C++ compiler."""
    model, batch = student(tmp_path, "llama"), token_rows().batch(np.arange(5))
    total, wanted = gradients(model, batch)
    model.compile_blocks(backend="aot_eager")
    again, found = gradients(model, batch)
    assert again == pytest.approx(total, rel=1e-6)
    for mine, other in zip(found, wanted, strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


def test_mixed_precision_is_close_and_its_adapter_float32(tmp_path):
    model, batch = student(tmp_path, "llama"), token_rows().batch(np.arange(5))
    total, wanted = gradients(model, batch)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half, found = gradients(model, batch)
    assert half == pytest.approx(total, rel=5e-3)
    for mine, exact in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert torch.cosine_similarity(mine.flatten(), exact.flatten(), dim=0) > 0.99
