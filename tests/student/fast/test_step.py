"""One training step: hand-written gradients against autograd's, packed rows against rows by themselves."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.student.data import TokenRows
from stages.student.fast import attention, functions
from stages.student.fast import model as student_model
from stages.student.fast.model import Student
from stages.student.formats.from_hf import import_base, load_state
from stages.student.formats.litgpt import LoRAConfig, mark_only_lora_as_trainable
from tests.helpers.tiny import tiny_model

pytestmark = pytest.mark.slow  # loads models

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


@pytest.mark.parametrize("parts", [((0, 7),), ((0, 3), (3, 5), (5, 7)), ((0, 3), (5, 7))])
def test_low_rank_linear(parts):
    """One projection; three in one layer; two of three."""
    weight, bias = random(7, 5, seed=1).detach(), random(7, seed=2).detach()
    sizes = [end - start for start, end in parts]

    def plain(x, a, b):
        y = x @ weight.t() + bias
        for (start, end), down, up in zip(parts, a.split(3), b.split(sizes), strict=True):
            added = 1.5 * (x @ down.t()) @ up.t()
            y = y + F.pad(added, (start, 7 - end))
        return y

    def ours(x, a, b):
        return functions.LowRank.apply(x, weight, bias, a, b, 1.5, parts)

    a, b = random(3 * len(parts), 5, seed=3), random(sum(sizes), 3, seed=4)
    same(ours, plain, random(6, 5), a, b)


def test_swiglu():
    same(
        functions.SwiGLU.apply,
        lambda gate, up: F.silu(gate) * up,
        random(4, 6),
        random(4, 6, seed=1),
    )


def test_rms_norm():
    weight = random(6, seed=1).detach().float()

    def ours(x):
        return functions.RMSNorm.apply(x, weight, 1e-5, torch.float32)

    same(ours, lambda x: F.rms_norm(x, (6,), weight, 1e-5), random(2, 3, 6).float(), tolerance=1e-5)


@pytest.mark.parametrize("shared", [0, 4])
@pytest.mark.parametrize(("groups", "share", "rotary"), [(2, 3, 8), (3, 1, 4), (1, 4, 8)])
def test_short_attention(groups, share, rotary, shared):
    """Rows of 5, 1 and 3 tokens, against PyTorch's attention of each row with all that it begins with.

    There the rotation is one of complex numbers (arXiv 2104.09864, section 3.2).
    """
    size, starts = 8, shared + torch.tensor([0, 5, 6, 9, 11], dtype=torch.int32)
    angles = torch.outer(torch.arange(9), 10000.0 ** -(torch.arange(rotary // 2) / (rotary // 2)))
    angles = angles.double()
    packed = attention.Packed.of(starts, shared + 11, by_row=True)
    cos, sin = (torch.cat([part, part], 1)[packed.position] for part in (angles.cos(), angles.sin()))

    def rotated(x):
        turns = angles[: x.shape[-2]]
        pairs = torch.complex(x[..., : rotary // 2], x[..., rotary // 2 : rotary])
        pairs = pairs * torch.polar(torch.ones_like(turns), turns)
        return torch.cat([pairs.real, pairs.imag, x[..., rotary:]], -1)

    def alone(qkv):
        split = qkv.view(len(qkv), -1, size).transpose(0, 1)
        q, k, v = split.split([groups * share, groups, groups])
        k, v = (part.repeat_interleave(share, 0) for part in (rotated(k), v))
        mixed = F.scaled_dot_product_attention(rotated(q), k, v, is_causal=True, scale=0.3)
        return mixed.transpose(0, 1).flatten(1)

    def plain(qkv):
        first, *rows, _ = qkv.tensor_split(starts[:-1].long())
        whole = [alone(torch.cat([first, row])) for row in rows]
        return torch.cat([whole[0][:shared], *(row[shared:] for row in whole)])

    heads = attention.Heads(groups, share, size, rotary, 0.3)
    qkv = random(shared + 11, groups * (share + 2) * size)
    same(lambda x: attention.ShortAttention.apply(x, cos, sin, heads, packed)[:-2], plain, qkv)


@pytest.mark.parametrize("kept", [1 << 26, 40, 1])
def test_head_loss_is_cross_entropy(monkeypatch, kept):
    """However the logits are cut, and for targets that are ignored; every gradient stays float32-exact."""
    monkeypatch.setattr(functions, "HEAD_ELEMENTS", kept)
    monkeypatch.setattr(functions, "PIECE", kept // 2)
    hidden, weight = random(9, 4).float().detach().requires_grad_(), random(11, 4, seed=1).float().detach()
    targets = torch.tensor([3, -100, 0, 10, 3, 7, -100, 1, 2])
    total = functions.HeadLoss.apply(hidden, weight, None, targets)
    (found,) = torch.autograd.grad(total * 0.37, hidden)
    exact = hidden.double()
    wanted = F.cross_entropy(exact @ weight.double().t(), targets, ignore_index=-100, reduction="sum")
    (gradient,) = torch.autograd.grad(wanted * 0.37, hidden)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert (found - gradient).abs().max() < 1e-5
    with torch.no_grad():
        assert functions.HeadLoss.apply(hidden, weight, None, targets) == total


# --- whole models ------------------------------------------------------------------------------------------


def student(tmp_path, kind):
    base = tmp_path / kind
    base.mkdir()
    import_base(tiny_model(tmp_path / f"{kind}-source", kind), base)
    config = LoRAConfig.from_file(base / "model_config.yaml", lora_r=4, lora_alpha=12, **TARGETS)
    if config.sliding_window_size:
        config.sliding_window_size = 8
    model = Student(config)
    model.load_state_dict(load_state(base), strict=False)
    mark_only_lora_as_trainable(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def token_rows(lengths=(13, 40, 7, 21, 5), common=0):
    """Random rows; `common` tokens at their beginning are equal, and none of them is a target."""
    choose, lengths = np.random.default_rng(0), np.array(lengths) + common
    ids = choose.integers(2, 500, lengths.sum()).astype(np.int32)
    labels = np.where(choose.random(len(ids)) < 0.4, ids, -100).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for start in offsets[:-1]:
        ids[start : start + common], labels[start : start + common] = ids[:common], -100
    return TokenRows(ids, labels, offsets)


def gradients(model, batch):
    total = model(*batch)
    found = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    return total.item(), found


def by_themselves(model, rows, chosen, batch):
    """Loss and gradients of the batch are the sums of those of its rows."""
    alone = [gradients(model, rows.batch(np.array([row]))) for row in chosen]
    total, found = gradients(model, batch)
    assert total == pytest.approx(sum(one for one, _ in alone), rel=1e-6)
    for mine, *others in zip(found, *(parts for _, parts in alone), strict=True):
        wanted = torch.stack(others).sum(0)
        assert (mine - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["pythia", "llama", "qwen3", "mistral"])
def test_packed_rows_are_rows_by_themselves(tmp_path, kind):
    model, rows = student(tmp_path, kind), token_rows()
    chosen = np.array([4, 0, 1, 3, 2])
    packed, padded = rows.batch(chosen, packed=True), rows.batch(chosen)
    assert packed[0].numel() < 0.6 * padded[0].numel()
    for batch in (packed, padded):
        by_themselves(model, rows, chosen, batch)


@pytest.mark.parametrize(("short", "kept"), [(512, 512**2), (512, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["pythia", "llama", "qwen2", "qwen3", "mistral", "phi"])
def test_what_rows_begin_with_is_computed_once(tmp_path, monkeypatch, kind, short, kept):
    """Partial rotary, grouped queries, biases, normed queries, a window; with all kinds of attention."""
    monkeypatch.setattr(student_model, "BMM_LENGTH", short)
    monkeypatch.setattr(attention, "KEPT", kept)
    model, rows = student(tmp_path, kind), token_rows(common=30)
    chosen = np.array([4, 0, 1, 3, 2])
    batch = rows.batch(chosen, packed=True, share=True)
    first, sizes = int(batch[3][0]), rows.lengths[chosen] - 1
    assert first == 29 and batch[3][-2] == sizes.sum() - 4 * first  # a row's own first token is a target
    by_themselves(model, rows, chosen, batch)


def test_a_long_beginning_leaves_short_rows_short(tmp_path, monkeypatch):
    """Attention is chosen by what rows have of their own; the other way repeats the beginning for each."""
    model, rows = student(tmp_path, "llama"), token_rows(common=30)
    batch = rows.batch(np.arange(5), packed=True, share=True)
    own = int(rows.lengths.max()) - 1 - int(batch[3][0])
    repeated, way = [], student_model.QuickAttention.row_by_row
    monkeypatch.setattr(
        student_model.QuickAttention, "row_by_row", lambda *given: repeated.append(1) or way(*given)
    )
    for limit, wanted in ((own, False), (own - 1, True)):
        monkeypatch.setattr(student_model, "BMM_LENGTH", limit)
        model(*batch)
        assert bool(repeated) is wanted


def test_one_row_and_few_tokens_are_not_shared(tmp_path):
    rows = token_rows(common=30)
    for chosen, some in ((rows, [2]), (token_rows(common=1), [0, 1, 2]), (token_rows(), [0, 1])):
        shared, plain = (chosen.batch(np.array(some), packed=True, share=share) for share in (True, False))
        assert plain[3][0] == 0 and all(map(torch.equal, shared, plain))
    by_themselves(student(tmp_path, "llama"), rows, [2], rows.batch(np.array([2]), packed=True, share=True))


def test_no_shared_token_predicts_a_target_and_every_row_keeps_one():
    """Rows that are equal, or equal up to their answer: what is left of each holds all that predicts."""
    ids = np.tile(np.arange(2, 22, dtype=np.int32), 3)
    labels = np.full(60, -100, np.int32)
    offsets = np.array([0, 20, 40, 60])
    rows = TokenRows(ids, labels, offsets)
    assert rows.batch(np.arange(3), packed=True, share=True)[3].tolist() == [18, 19, 20, 21, 32]
    for start, answer in zip(offsets, (12, 9, 15), strict=False):
        labels[start + answer : start + 20] = ids[start + answer : start + 20]
    ids, at, wanted, starts = rows.batch(np.arange(3), packed=True, share=True)
    assert starts.tolist() == [8, 19, 30, 41, 48]
    found = wanted != -100
    assert at[found].min() == 8 + 11 - 8 and found.sum() == rows.targets.sum() == 8 + 11 + 5
    assert torch.equal(ids[0, at[found]] + 1, wanted[found])


def kept_elements(model: Student, batch: tuple) -> int:
    """What a forward pass keeps for the backward one."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        model(*batch)
    return sum(kept)


def test_probabilities_of_long_rows_are_not_kept(tmp_path, monkeypatch):
    model, rows = student(tmp_path, "llama"), token_rows()
    batch, config = rows.batch(np.arange(5), packed=True), model.config
    plain, own = kept_elements(model, batch), int(rows.lengths.max()) - 1
    monkeypatch.setattr(attention, "KEPT", own**2 - 1)
    assert plain - kept_elements(model, batch) == config.n_layer * 5 * config.n_head * own**2


def test_checkpointing_changes_nothing(tmp_path):
    model, batch = student(tmp_path, "llama"), token_rows().batch(np.arange(5))
    total, wanted = gradients(model, batch)
    plain, model.checkpointing = kept_elements(model, batch), True
    assert kept_elements(model, batch) < 0.5 * plain
    again, found = gradients(model, batch)
    assert again == total and all(map(torch.equal, found, wanted))


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
