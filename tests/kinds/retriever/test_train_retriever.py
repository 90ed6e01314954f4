"""Training a retriever: gradients, processes, resume, the exported directory, what cannot be trained on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModel, AutoTokenizer

from stages.core import layout
from stages.core.errors import UserError
from stages.kinds.retriever.knobs import TrainRetrieverKnobs
from stages.kinds.retriever.parts import trainer
from stages.kinds.retriever.parts.groups import draw
from stages.kinds.retriever.parts.trainer import retriever_loss
from stages.kinds.retriever.train_retriever import run
from stages.retrieval.knobs import Encoder
from stages.retrieval.transformer import Transformer
from stages.student import encoding
from stages.student.loop import Loop, rate
from tests.helpers.retrieval_group import gradients, knobs, training
from tests.helpers.retrieval_rows import edit_rows, place_to_train, scored_rows, tiny_encoder
from tests.helpers.workspace import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RETORT_TRACKING": "off"}
several = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with place_to_train(tmp_path_factory.mktemp("retriever")) as directory:
        yield directory


def weights(folder="d"):
    return (layout.model(folder, "retriever") / "model.safetensors").read_bytes()


def first_groups(made):
    """(task, groups, numbers of their texts) of the first step."""
    epoch, file, rows = made.batches.at(0)
    task = made.files[file]
    rows = [task.train[row] for row in rows]
    groups = [draw(row, task.keys, task.knobs, epoch) for row in rows]
    return task, groups, made.numbers(task, rows, groups)


def close(found, wanted, tolerance=1e-5):
    assert found.keys() == wanted.keys() and len(wanted) > 20
    for name, tensor in wanted.items():
        assert (found[name] - tensor).abs().max() <= tolerance * max(1, tensor.abs().max()), name


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"distill": "stable", "margin": 0.05, "matryoshka": [8]}])
def test_distinct_texts_once_give_the_gradient_of_all_of_them(place, changes):
    """Against every query and key encoded by sentence-transformers itself, one by one with its copies."""
    made, model = training(**changes)
    task, groups, numbers = first_groups(made)
    texts = {number: text for (_, text, _), number in made.texts.numbers.items()}
    loss, tokens = made.gradients(0)
    found = gradients(model)
    vectors = [
        torch.cat([model(model.preprocess([texts[n]]))["sentence_embedding"] for n in numbers])
        for numbers in (numbers[:, 0], numbers[:, 1:].ravel())
    ]
    teacher = torch.tensor([each.scores for each in groups])
    masked = made.masked(task, groups, numbers, np.array([]))
    plain = retriever_loss(*vectors, teacher, masked, made.knobs)
    assert loss == pytest.approx(plain.item(), abs=1e-5)
    plain.backward()
    close(found, gradients(model))
    everything = numbers.ravel().tolist()
    assert tokens == made.texts.tokens(set(everything)) < made.texts.tokens(everything)


@pytest.mark.parametrize("changes", [{"sub_batch": 3}, {"sub_batch": 1000}, {"checkpoint": True}])
def test_less_memory_gives_the_same_gradient(place, changes):
    (plain, model), (made, other) = training(), training(**changes)
    assert plain.gradients(0) == pytest.approx(made.gradients(0), abs=1e-5)
    close(gradients(other), gradients(model))


def test_sub_batches_keep_no_graph(place, monkeypatch):
    """The first pass is without one, the second has one part's at a time."""
    made, _ = training(sub_batch=3)
    modes, forward = [], made.encoding._forward

    def seen(numbers, model):
        modes.append(torch.is_grad_enabled())
        assert len(numbers) <= 3
        return forward(numbers, model)

    monkeypatch.setattr(made.encoding, "_forward", seen)
    made.gradients(0)
    assert modes == [False] * (len(modes) // 2) + [True] * (len(modes) // 2)


def test_a_step_is_padded_by_length(place, monkeypatch):
    """Parts are of neighbours in length: next to no padding."""
    made, _ = training(batch_size=24)
    monkeypatch.setattr(encoding, "PART", 8)
    filled, features = [], made.texts.features

    def seen(numbers, device):
        made_ = features(numbers, device)
        filled.append((int(made_["attention_mask"].sum()), made_["attention_mask"].numel()))
        return made_

    monkeypatch.setattr(made.texts, "features", seen)
    made.gradients(0)
    assert sum(f for f, _ in filled) / sum(n for _, n in filled) > 0.85


def test_the_guide_is_the_base_as_it_was(place):
    made, model = training(guide=True)
    before = [p.clone() for p in made.base.parameters()]
    made.gradients(0)
    loop = Loop("t", made.fabric, model, made.knobs, 1, Path("none"))
    loop.run(made.gradients, lambda: None)
    assert all(torch.equal(a, b) for a, b in zip(before, made.base.parameters(), strict=True))
    drawn = first_groups(made)
    order = made.texts.by_length(drawn[2])
    assert made.masked(*drawn, order).sum() > training()[0].masked(*drawn, order).sum()


def test_other_devices_keys_are_left_out_where_asked(place, monkeypatch):
    made, _ = training(cross_device=False, batch_size=4)
    monkeypatch.setattr(made.fabric.__class__, "world_size", 2)
    masked = made.masked(*first_groups(made), np.array([]))
    group = made.knobs.group
    half = 2 * group
    assert masked[:2, half:].all() and masked[2:, :half].all() and not masked[0, 1]


@pytest.mark.slow
@several
def test_two_processes_are_one(place):
    """Loss and gradient of 2 × 4 queries are those of 1 × 8."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.helpers.retrieval_group", json.dumps({"batch_size": 4, "sub_batch": 5})]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = torch.load("two.pt", weights_only=True)
    made, model = training(batch_size=8)
    loss, tokens = made.gradients(0)
    assert found["loss"] == pytest.approx(loss, abs=1e-5) and found["tokens"] == tokens
    close(found["gradients"], gradients(model))


# --- resume -------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Stands for a kill: nothing of the run is tidied up."""


@pytest.mark.parametrize("changes", [{}, {"guide": True, "sub_batch": 4, "inbatch": "random"}])
def test_cut_at_any_step_and_continued_is_bit_equal(place, monkeypatch, capsys, changes):
    given = knobs(save_interval=2, train=["qa"], **changes)
    run("d", given)
    whole, curve = weights(), Path("reports/d/figures/retriever_curve.json").read_bytes()
    step = trainer.Training.gradients
    for cut in (1, 2, 5):
        shutil.rmtree(layout.model("d", "retriever"))

        def until_cut(self, number, cut=cut):
            if number == cut:
                raise Cut
            return step(self, number)

        monkeypatch.setattr(trainer.Training, "gradients", until_cut)
        with pytest.raises(Cut):
            run("d", given)
        monkeypatch.setattr(trainer.Training, "gradients", step)
        assert not layout.model("d", "retriever").exists()
        run("d", given)
        assert (f"going on after step {cut - cut % 2}" in capsys.readouterr().out) == (cut > 1)
        assert weights() == whole
        assert Path("reports/d/figures/retriever_curve.json").read_bytes() == curve
        assert not list(layout.SCRATCH.glob("train_retriever-d-*"))


@pytest.mark.slow
def test_killed_and_run_again_is_bit_equal(place):
    """SIGKILL of the command itself."""
    arguments = ["--rows", "d", "--base", "models/base/t", "--batch_size", "4", "--group", "4"]
    arguments += ["--epochs", "30", "--save_interval", "1", "--lr", "1e-3", "--train", "qa"]
    command = [sys.executable, "-m", "stages", "train_retriever", "k", *arguments]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(layout.SCRATCH.glob("train_retriever-k-*/state.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not layout.model("k", "retriever").exists()
    again = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0 and "going on after step" in again.stdout, again.stderr
    continued = weights("k")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the command: PyTorch adds in another order on another number
    given = {"rows": "d", "base": "models/base/t", "batch_size": 4, "group": 4, "lr": 1e-3, "epochs": 30}
    run("k", TrainRetrieverKnobs(**given, save_interval=1, train=["qa"]))
    torch.set_num_threads(threads)
    assert weights("k") == continued


def test_a_state_of_other_rows_base_or_knobs_is_not_continued(place):
    def state(**changes):
        return trainer.work_of("train_retriever", "d", knobs(**changes))

    states = {state(**changes) for changes in ({}, {"lr": 1e-2}, {"seed": 2}, {"group": 3})}
    scored_rows("e", "qa")
    states |= {state(rows="e"), state(base=str(tiny_encoder(Path("other"), seed=1)))}
    assert len(states) == 6
    assert state(sub_batch=7, save_interval=3) in states


# --- what is trained ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss_and_tells_its_curve(place, precision):
    metrics, timings = run("d", knobs(epochs=6, lr=3e-3, train=["tool"], precision=precision))
    assert metrics["tasks"] == {"tool": {"rows": 24, "groups": 24, "dropped": {}}}
    assert timings["tokens_per_second"] > 0
    curve = json.loads(Path("reports/d/figures/retriever_curve.json").read_text())
    assert [row["step"] for row in curve] == list(range(37)) and metrics["steps"] == 36
    assert curve[-1]["train_loss"] == metrics["train_loss"] < curve[1]["train_loss"] / 2
    assert (curve[0]["val_loss"], curve[-1]["val_loss"]) == (metrics["val_loss_before"], metrics["val_loss"])
    assert set(curve[0]) == {"step", "val_loss"} and set(curve[1]) == {"step", "train_loss"}
    assert set(curve[-1]) == {"step", "train_loss", "val_loss"}


def test_rows_and_drops_add_up(place):
    scored_rows("drops", "qa", "tool")
    folder = Path("data/drops/scored")

    def spoil(row):
        if row["id"].endswith("3"):
            row["teacher_scores"] = [0.0] * 7
        if row["id"].endswith("4"):
            row["neg"], row["teacher_scores"] = [], [0.0]

    edit_rows(folder, "qa", spoil)
    metrics, _ = run("drops", knobs(rows="drops", scores_margin=0.1, max_rows=20, distill="stable"))
    qa = metrics["tasks"]["qa"]
    assert qa["rows"] == 24 == qa["groups"] + sum(qa["dropped"].values())
    assert qa["dropped"]["max_rows"] == 4 and len(qa["dropped"]) >= 2
    assert metrics["left_over_an_epoch"] == (qa["groups"] % 4) + 20 % 4


def test_texts_that_are_cut_are_counted(place):
    metrics, _ = run("d", knobs(train=["qa"], key_max_length=8, max_steps=1))
    assert metrics["texts_cut"] > 20
    metrics, _ = run("d", knobs(train=["qa"], key_max_length=128, max_steps=1))
    assert metrics["texts_cut"] == 0


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_the_rate_rises_and_falls(schedule, middle):
    given = knobs(lr=1.0, warmup=0.2, schedule=schedule)
    rates = [rate(step, 10, given) for step in range(1, 11)]
    assert rates[:2] == [0.5, 1.0] and rates[5] == pytest.approx(middle)
    assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.0)


# --- the directory ------------------------------------------------------------------------------------------


def test_the_directory_loads_everywhere(place):
    run("d", knobs(instructions="e5", matryoshka=[8], truncate_dim=8, recipe="llm_embedder", train=[]))
    directory = layout.model("d", "retriever")
    model = SentenceTransformer(str(directory), device="cpu")
    assert model.truncate_dim == 8 and model.similarity_fn_name == "cosine"
    assert model.prompts["query"] == model.prompts["tool_query"] == "query: "
    assert model.prompts["chat_document"] == "passage: "
    texts = ["read a csv file", "sort an array along an axis"]
    vectors = model.encode_document(texts)
    assert vectors.shape == (2, 8)
    tokenizer, plain = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    inputs = tokenizer([f"passage: {text}" for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = plain(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)[:, :8]
    assert np.abs(pooled.numpy() - vectors).max() < 1e-5
    ours = Transformer(Encoder(encoder=str(directory), observed_prompt="passage: "))
    found = ours.encode(texts, "observed")
    assert ours.dims == 8 and (found * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).sum(1) == (
        pytest.approx(np.ones(2), abs=1e-5)
    )


def test_a_share_of_the_base_is_mixed_in(place):
    kept = {}
    for share in (0, 0.25, 1):
        run("d", knobs(base_share=share))
        kept[share] = SentenceTransformer(str(layout.model("d", "retriever")), device="cpu").state_dict()
    base = SentenceTransformer(knobs().base, device="cpu").state_dict()
    for name, tensor in base.items():
        torch.testing.assert_close(kept[1][name], tensor)
        torch.testing.assert_close(kept[0.25][name], 0.75 * kept[0][name] + 0.25 * tensor)


@pytest.mark.parametrize(("pooling", "mode"), [("cls", "cls"), ("last", "lasttoken"), ("auto", "mean")])
def test_pooling_is_the_bases_or_as_asked(place, pooling, mode):
    run("d", knobs(train=["qa"], pooling=pooling, max_steps=1))
    assert SentenceTransformer(str(layout.model("d", "retriever")), device="cpu")[1].pooling_mode == mode


@pytest.mark.parametrize("chat", [False, True])
def test_token_ids_are_those_of_encode(place, chat):
    """A text is read in training as it is when the model is used."""
    base = str(tiny_encoder(Path("chat"), chat=True)) if chat else "models/base/t"
    made, model = training(base=base, key_max_length=12, query_max_length=12)
    model.max_seq_length = 12
    for (_, text, _), number in list(made.texts.numbers.items())[:20]:
        assert (
            model.preprocess([text])["input_ids"][0].tolist()
            == made.texts.features_of[number]["input_ids"].tolist()
        )


def test_the_left_end_is_cut_where_asked(place):
    made, _ = training(truncation_side="left", key_max_length=8)
    right, _ = training(key_max_length=8)
    assert made.texts.features_of[0]["input_ids"].tolist() != right.texts.features_of[0]["input_ids"].tolist()


# --- what cannot be trained on ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"small_files": "error", "batch_size": 32}, "train: qa has 24 rows, fewer than the 32 of a batch"),
        ({"train": ["icl"]}, "train: data/d/scored has no task 'icl'; it has qa, chat, tool"),
        ({"inbatch": "none"}, "inbatch: none mixes rows"),
        (
            {"train": ["tool"], "contrastive_weight": 0},
            "train.jsonl: there are no teacher_scores to distil",
        ),
        ({"train": ["tool"], "positive": "teacher"}, "positive is 'teacher', but no row has teacher_scores"),
        ({"train": ["chat"]}, "no training row of chat gives a group: 24 no_positive"),
        ({"key_max_length": 200}, "200 is more than the 128 tokens of models/base/t"),
        ({"truncate_dim": 64}, "truncate_dim: 64 is more than the 32 dimensions of models/base/t"),
        ({"matryoshka": [64]}, "matryoshka: 64 is more than the 32 dimensions"),
        ({"matryoshka": [0, 8]}, "matryoshka: dimensions have to be at least 1, found 0"),
        ({"base": "models/base/none"}, "base: models/base/none: holds no modules.json"),
        ({"rows": "nothing"}, "data/nothing/scored has no task 'qa'; it has none"),
        ({"devices": 4096}, "devices 4096, but this process may use"),
    ],
)
def test_what_cannot_be_trained_is_told(place, changes, told):
    with pytest.raises(UserError, match=told):
        run("d", knobs(**{"train": ["qa"] if "inbatch" not in changes else []} | changes))


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (["modules.json"], "base: broken: holds no modules.json"),
        (["tokenizer.json", "tokenizer_config.json"], "base: broken: holds no tokenizer"),
        (["model.safetensors"], "base: 'broken' is no sentence-transformers model"),
    ],
)
def test_a_directory_that_is_no_encoder_is_told(place, missing, told):
    shutil.rmtree("broken", ignore_errors=True)
    shutil.copytree("models/base/t", "broken")
    for name in missing:
        Path("broken", name).unlink()
    with pytest.raises(UserError, match=told):
        run("d", knobs(base="broken"))


def test_a_loss_that_is_no_number_is_told(place, monkeypatch):
    monkeypatch.setattr(trainer, "retriever_loss", lambda queries, *_: queries.sum() * float("nan"))
    with pytest.raises(UserError, match="the loss is not finite at step 1; lower lr"):
        run("d", knobs(train=["qa"]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("named", [False, True])
def test_attention_under_autocast_is_in_float32(dtype, named):
    """Bit-equal to float32 of the same inputs, rounded at the end; masks stay what they are."""
    given = [torch.randn(2, 4, 8, 16).to(dtype) for _ in range(3)]
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool).tril()
    wanted = scaled_dot_product_attention(*(each.float() for each in given), attn_mask=mask).to(dtype)
    inputs = dict(zip(("query", "key", "value"), given, strict=True))
    with torch.autocast("cpu", torch.bfloat16), encoding.Float32Attention():
        found = scaled_dot_product_attention(
            *() if named else given, **inputs if named else {}, attn_mask=mask
        )
        assert (given[0].flatten(2) @ given[1].flatten(2).transpose(1, 2)).dtype == torch.bfloat16
    assert found.dtype == dtype and torch.equal(found, wanted)
