"""The finetuning loop: exact loss, exact resume, a schedule that does what it says."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.checkpoint import checkpoint

from stages.base import run as base
from stages.core import layout
from stages.core.errors import UserError
from stages.finetune import run as finetune
from stages.knobs import BaseKnobs, FinetuneKnobs, TokenizeKnobs
from stages.student import train
from stages.student.data import Plan, TokenRows, micro_batches
from stages.student.fast import model as student_model
from stages.student.fast.model import Student
from stages.student.formats import parity
from stages.student.formats.from_hf import load_state
from stages.student.formats.litgpt import LoRAConfig, LoRAGPT
from stages.student.recipe import Recipe
from stages.tokenize import run as tokenize
from tests.helpers.tiny import made_once, tiny_dataset, tiny_model
from tests.helpers.workspace import ROOT

pytestmark = pytest.mark.slow  # loads models


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A base `m` (tied, serial GPT-NeoX) and the tokens of dataset `d`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    prepare("pythia", tied=True)
    return tmp_path


@made_once
def prepare(kind, tied=False, train=40):
    tiny_model(layout.SCRATCH.parent / "src", kind, tied)
    base("m", BaseKnobs(path="data/src", chat=False))
    tiny_dataset("d", train=train)
    return tokenize("d", TokenizeKnobs(base="m", max_length=256))


def knobs(**changes):
    return FinetuneKnobs(**{"base": "m", "lr": 1e-2, "warmup_steps": 2, "eval_interval": 4} | changes)


def curve(dataset="d"):
    lines = (layout.model(dataset, "adapter") / "curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def adapter(dataset="d"):
    return load_file(layout.model(dataset, "adapter") / "adapter.safetensors")


# --- the model and its loss ---------------------------------------------------------------------------------


def random_pair(**targets):
    """Litgpt's own LoRA model and ours, with equal random weights."""
    on = targets or {f"lora_{t}": True for t in ("query", "key", "value", "projection", "mlp", "head")}
    config = LoRAConfig.from_file(layout.base_model("m") / "model_config.yaml", lora_r=4, lora_alpha=12, **on)
    theirs, ours = LoRAGPT(config), Student(config)
    theirs.load_state_dict(load_state(layout.base_model("m")), strict=False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(
    "targets",
    [{}, {"lora_query": True, "lora_value": True}, {"lora_key": True}, {"lora_mlp": True, "lora_head": True}],
)
@pytest.mark.parametrize("kind", ["pythia", "llama", "phi"])
def test_quick_model_is_litgpts_function(tmp_path, monkeypatch, kind, targets):
    monkeypatch.chdir(tmp_path)
    prepare(kind, train=2)
    theirs, ours = random_pair(**targets)
    ids = torch.arange(2, 62).view(2, 30)
    at = torch.tensor([3, 17, 29, 45, 59])
    with torch.no_grad():
        wanted = theirs(ids).flatten(0, 1)[at]
        assert (ours(ids, at) - wanted).abs().max() < 1e-4
        monkeypatch.setattr(student_model, "BMM_LENGTH", 0)  # the long-sequence kernel
        assert (ours(ids, at) - wanted).abs().max() < 1e-4


def test_loss_is_the_token_mean_of_an_independent_computation(workplace):
    """Sum over target tokens / their count, in float64 numpy from transformers' logits of each row alone."""
    plain = Student(LoRAConfig.from_file(layout.base_model("m") / "model_config.yaml"))
    plain.load_state_dict(load_state(layout.base_model("m")))
    rows = TokenRows.load(layout.tokens("d"), "train")
    chosen = np.array([3, 0, 11, 7])
    with torch.no_grad():
        total = plain(*rows.batch(chosen)).item()
    reference, wanted, count = parity.reload(layout.base_model("m")).eval(), 0.0, 0
    for row in chosen:
        ids = np.asarray(rows.ids[rows.offsets[row] : rows.offsets[row + 1]]).astype(np.int64)
        labels = np.asarray(rows.labels[rows.offsets[row] : rows.offsets[row + 1]])
        with torch.no_grad():
            logits = reference(torch.from_numpy(ids)[None]).logits[0].double().numpy()
        for place in np.flatnonzero(labels >= 0):
            before = logits[place - 1]
            wanted -= before[ids[place]] - before.max() - np.log(np.exp(before - before.max()).sum())
            count += 1
    assert count == rows.targets[chosen].sum()
    assert total == pytest.approx(wanted, rel=1e-5)


def test_accumulation_and_chunked_head_change_nothing(workplace, monkeypatch):
    """Every cut of a batch gives the same adapter; a mean per micro-batch would not."""
    results = []
    for micro, elements in ((8, 1 << 26), (3, 1 << 26), (1, 1 << 26), (8, 512 * 5)):
        monkeypatch.setattr(student_model, "HEAD_ELEMENTS", elements)
        finetune("d", knobs(epochs=1, micro_batch_size=micro, lr=1e-3, lora_head=True))
        results.append(adapter())
    for other in results[1:]:
        for name, value in results[0].items():
            assert (value - other[name]).abs().max() < 2e-5, name


def test_packing_and_checkpointing_are_used_and_change_nothing(workplace, monkeypatch):
    shapes, batch, again = [], TokenRows.batch, []

    def seen(rows, part, **layout):
        found = batch(rows, part, **layout)
        shapes.append(len(found[0]))
        return found

    def counted(*args, **options):
        again.append(args)
        return checkpoint(*args, **options)

    monkeypatch.setattr(TokenRows, "batch", seen)
    monkeypatch.setattr(student_model, "checkpoint", counted)
    finetune("d", knobs(epochs=1, lr=1e-3, packing="false"))
    plain, unpacked = adapter(), set(shapes)
    assert not again and max(unpacked) > 1
    shapes.clear()
    finetune("d", knobs(epochs=1, lr=1e-3, checkpoint=True))
    assert again and set(shapes) == {1}
    for name, value in adapter().items():
        assert (value - plain[name]).abs().max() < 2e-5, name


def test_lora_dropout_is_drawn_for_every_row(workplace, monkeypatch):
    """So nothing of theirs may be computed once for all."""
    asked, batch = [], TokenRows.batch

    def seen(rows, part, **layout):
        asked.append(layout["share"])
        return batch(rows, part, **layout)

    monkeypatch.setattr(TokenRows, "batch", seen)
    for dropout, share in ((0.1, False), (0.0, True)):
        asked.clear()
        finetune("d", knobs(epochs=1, lora_dropout=dropout))
        assert set(asked) == {share}


# --- the plan -----------------------------------------------------------------------------------------------


def test_plan_covers_every_row_once_an_epoch_and_finds_any_step():
    lengths = np.random.default_rng(0).integers(5, 200, size=1003)
    plan = Plan(lengths, batch_size=8, epochs=3, seed=1)
    assert plan.steps == 3 * 126
    epochs = [[plan.step(e * 126 + s) for s in range(126)] for e in range(3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(1003))
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    again = Plan(lengths, batch_size=8, epochs=3, seed=1)
    assert np.array_equal(again.step(300), epochs[2][300 - 252])
    padded = sum(len(rows) * lengths[rows].max() for rows in epochs[0])
    assert lengths.sum() / padded > 0.9
    order = np.random.default_rng(0).permutation(1003)
    shuffled = sum(len(part) * lengths[part].max() for part in np.split(order, range(8, 1003, 8)))
    assert lengths.sum() / shuffled < 0.65


def test_ranks_share_a_step_without_overlap():
    rows = np.arange(13)
    shares = [micro_batches(rows, 4, rank, 3) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(np.concatenate([part for share in shares for part in share])) == list(range(13))


def test_rows_without_work_have_no_targets(workplace):
    rows = TokenRows.load(layout.tokens("d"), "train")
    _, at, targets = rows.batch(np.array([], dtype=np.int64))
    assert len(at) == len(targets) and (targets == -100).all()


# --- the schedule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 10), (100, 10), (5, 1), (0, 1)])
def test_schedule_warms_up_from_step_one_and_ends_at_min_lr(warmup, steps):
    recipe = Recipe(lr=1e-2, min_lr=1e-3, warmup_steps=warmup)
    rates = [train.learning_rate(step, steps, recipe) for step in range(1, steps + 1)]
    assert all(rate > 0 for rate in rates)
    assert rates[-1] == pytest.approx(1e-3)
    if steps > 1:
        assert max(rates) == pytest.approx(1e-2, rel=0.2)
        assert max(rates[: min(warmup, steps // 2) + 1]) == max(rates)


def test_gradients_are_clipped(workplace):
    norms = []

    def measure(optimizer, *_):
        squares = [p.grad.square().sum() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(squares).sum().sqrt().item())

    hook = register_optimizer_step_pre_hook(measure)
    try:
        finetune("d", knobs(epochs=1, grad_clip=0.01))
        clipped, norms = norms, []
        finetune("d", knobs(epochs=1, grad_clip=0))
    finally:
        hook.remove()
    assert max(clipped) <= 0.0101 < min(norms)


def test_best_checkpoint_and_patience(workplace):
    """With a wild rate the validation loss turns bad; the adapter kept is the one of its best validation."""
    found = finetune("d", knobs(epochs=20, lr=0.3, min_lr=0.3, warmup_steps=0, eval_interval=2, patience=3))
    losses = {row["step"]: row["val_loss"] for row in curve() if "val_loss" in row and row["step"]}
    assert found["best_step"] == min(losses, key=losses.get) and found["val_loss"] == min(losses.values())
    assert found["stopped_at"] < found["steps"]
    assert list(losses)[-1] == found["best_step"] + 3 * 2
    recipe, tokens = knobs(epochs=6), layout.tokens("d")
    model = train.build(layout.base_model("m"), recipe)
    model.load_state_dict(adapter(), strict=False)
    val = TokenRows.load(tokens, "val")
    with torch.no_grad():
        loss = model(*val.batch(np.arange(len(val)))).item() / val.targets.sum()
    assert loss == pytest.approx(found["val_loss"], abs=1e-5)


def test_curve_has_rates_losses_and_samples(workplace):
    found = finetune("d", knobs())
    rows = curve()
    assert [row["step"] for row in rows if "train_loss" in row] == list(range(1, found["steps"] + 1))
    validated = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in validated] == [0, 4, 8, 10] and all(
        isinstance(row["sample"], str) for row in validated
    )
    assert rows[-1]["lr"] == pytest.approx(1e-5)
    assert rows[-1]["tokens"] == 2 * TokenRows.load(layout.tokens("d"), "train").lengths.sum()
    assert found["val_loss"] < found["val_loss_before"]


# --- interruptions ------------------------------------------------------------------------------------------


def command_line(*arguments):
    return [sys.executable, "-m", "stages", "finetune", "d", "--base", "m", *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
LONG = ("--epochs", "16", "--save_interval", "7", "--eval_interval", "11", "--lora_dropout", "0.1")


def outputs():
    return {p.name: p.read_bytes() for p in sorted(layout.model("d", "adapter").iterdir())}


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_is_bit_equal(workplace):
    """A real SIGKILL in the middle of training, twice, once in eval or save for all we know."""
    subprocess.run(command_line(*LONG), env=ENVIRONMENT, check=True, capture_output=True)
    whole = outputs()
    (layout.model("d", "adapter") / "adapter.safetensors").unlink()
    resumed = 0
    for wait in (0.35, 0.8):
        process = subprocess.Popen(command_line(*LONG), env=ENVIRONMENT, stdout=-3, stderr=-3)
        while not list(layout.SCRATCH.glob("finetune-d-*/state.pt")):
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        time.sleep(wait)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            resumed += 1
        process.wait()
    assert resumed, "the run ended before it could be killed"
    done = subprocess.run(command_line(*LONG), env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert "going on after step" in done.stdout
    assert outputs() == whole
    assert not list(layout.SCRATCH.glob("finetune-d-*"))


def test_resume_after_every_saved_step_is_bit_equal(workplace, monkeypatch):
    """The same without processes, and cut at every step, with dropout and accumulation."""
    options = {"lora_dropout": 0.2, "micro_batch_size": 3, "save_interval": 1, "patience": 50}
    finetune("d", knobs(**options))
    whole, step = outputs(), train.Run._step

    class Cut(Exception):
        pass

    def cutting(run):
        if run.state.step == cut[0]:
            raise Cut
        step(run)

    monkeypatch.setattr(train.Run, "_step", cutting)
    cut = [0]
    for cut[0] in range(1, 10):
        with pytest.raises(Cut):
            finetune("d", knobs(**options))
        assert list(layout.SCRATCH.glob("finetune-d-*/state.pt"))
    cut[0] = None
    finetune("d", knobs(**options))
    assert outputs() == whole


def test_state_of_other_inputs_is_pruned_and_other_datasets_kept(workplace):
    old = layout.SCRATCH / ("finetune-d-" + "0" * 16)
    other = layout.SCRATCH / ("finetune-d-two-" + "0" * 16)
    for directory in (old, other):
        directory.mkdir(parents=True)
        (directory / "state.pt").write_bytes(b"not a state")
    finetune("d", knobs(epochs=1))
    assert not old.exists() and (other / "state.pt").exists()


def test_same_inputs_give_the_same_bytes(workplace):
    finetune("d", knobs())
    first = outputs()
    finetune("d", knobs())
    assert outputs() == first


# --- refusals and formats -----------------------------------------------------------------------------------


def test_argv_is_left_alone(workplace, monkeypatch):
    """Litgpt's setup() parses the caller's arguments again and exits; here they may be anything."""
    monkeypatch.setattr(sys, "argv", ["distil", "finetune", "--config", "params.yaml"])
    finetune("d", knobs(epochs=1))
    assert sys.argv == ["distil", "finetune", "--config", "params.yaml"]
    assert json.loads((layout.model("d", "adapter") / "lora.json").read_text())["alpha"] == 32


def test_nothing_to_adapt_and_nothing_to_train_on(workplace):
    off = {f"lora_{t}": False for t in ("query", "key", "value", "projection", "mlp", "head")}
    with pytest.raises(UserError, match="switch on at least one of"):
        finetune("d", knobs(**off))
    tiny_dataset("d", train=0)
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    with pytest.raises(UserError, match="no training rows"):
        finetune("d", knobs())


def test_no_validation_rows_keeps_the_last_weights(workplace):
    tiny_dataset("d", val=0)
    tokenize("d", TokenizeKnobs(base="m", max_length=256))
    found = finetune("d", knobs())
    assert found["best_step"] == found["steps"] and found["val_loss"] is None
    assert any(value.abs().max() > 0 for name, value in adapter().items() if "lora_B" in name)


def test_loss_that_is_not_finite_is_named(workplace):
    with pytest.raises(UserError, match="not finite at step"):
        finetune("d", knobs(lr=1e30, grad_clip=0, lora_head=True))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)]
)
def test_lower_precisions_learn_as_well(workplace, precision, dtype):
    exact = finetune("d", knobs(epochs=3))
    found = finetune("d", knobs(epochs=3, precision=precision))
    assert {value.dtype for value in adapter().values()} == {dtype}
    assert found["val_loss"] == pytest.approx(exact["val_loss"], abs=0.1)
    assert math.isfinite(found["train_loss"])
