"""Training a cross-encoder: its losses, resume, the exported directory, what cannot be trained on."""

import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch.nn.functional import cross_entropy, kl_div

from stages.core import layout
from stages.core.errors import UserError
from stages.kinds.retriever.knobs import TrainRerankerKnobs
from stages.kinds.retriever.parts import trainer
from stages.kinds.retriever.parts.groups import draw
from stages.kinds.retriever.parts.trainer import Reranking, as_retriever, training_rows, untrained_reranker
from stages.kinds.retriever.train_reranker import run
from stages.student.encoding import prepare
from stages.student.fabric import make_fabric
from tests.helpers.retrieval_rows import place_to_train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with place_to_train(tmp_path_factory.mktemp("reranker")) as directory:
        yield directory


def knobs(**changes) -> TrainRerankerKnobs:
    given = {"rows": "d", "base": "models/base/t", "group": 4, "max_length": 60, "lr": 3e-3}
    return TrainRerankerKnobs(**given | changes)


def weights() -> bytes:
    return (layout.model("d", "reranker") / "model.safetensors").read_bytes()


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_the_loss_is_that_of_the_models_own_scores(place, loss):
    """Against CrossEncoder.predict on each pair."""
    given = knobs(loss=loss)
    (task,), model = training_rows(as_retriever(given)), untrained_reranker(given)
    prepare(model)
    made = Reranking(make_fabric(given), model, [task], as_retriever(given))
    epoch, _, drawn = made.batches.at(0)
    rows = [task.train[row] for row in drawn]
    groups = [draw(row, task.keys, task.knobs, epoch) for row in rows]
    pairs = [
        (row["query"], task.keys[k]) for row, group in zip(rows, groups, strict=True) for k in group.keys
    ]
    scores = torch.tensor(model.predict(pairs, show_progress_bar=False)).view(len(rows), -1)
    wanted = cross_entropy(scores, torch.zeros(len(rows), dtype=torch.long))
    if loss == "kl":
        teacher = torch.tensor([group.scores for group in groups]).log_softmax(1)
        wanted = kl_div(scores.log_softmax(1), teacher, log_target=True, reduction="batchmean")
    assert made.gradients(0)[0] == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "train", "precision"),
    [("ce", ["tool"], "32-true"), ("kl", ["qa", "chat"], "32-true"), ("ce", ["qa"], "bf16-mixed")],
)
def test_training_lowers_the_loss_and_the_directory_loads(place, loss, train, precision):
    metrics, _ = run("d", knobs(loss=loss, train=train, epochs=4, precision=precision))
    assert metrics["train_loss"] < metrics["val_loss_before"] and metrics["steps"] == 12 * len(train)
    assert {name: task["groups"] for name, task in metrics["tasks"].items()} == dict.fromkeys(train, 24)
    model = CrossEncoder(str(layout.model("d", "reranker")), device="cpu")
    scores = model.predict([("read csv", "read csv file"), ("read csv", "sort")], show_progress_bar=False)
    assert scores.shape == (2,) and np.isfinite(scores).all() and model.max_length == 60
    assert isinstance(model.activation_fn, torch.nn.Identity)


def test_cut_and_continued_is_bit_equal(place, monkeypatch, capsys):
    given = knobs(save_interval=2, epochs=2)
    run("d", given)
    whole, step = weights(), Reranking.gradients
    shutil.rmtree(layout.model("d", "reranker"))

    def until_cut(self, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(trainer.Reranking, "gradients", until_cut)
    with pytest.raises(KeyboardInterrupt):
        run("d", given)
    monkeypatch.undo()
    run("d", given)
    assert "train_reranker: going on after step 2" in capsys.readouterr().out and weights() == whole


def test_a_reranker_is_trained_further_with_its_own_head(place):
    run("d", knobs())
    shutil.copytree(layout.model("d", "reranker"), "again")
    before = CrossEncoder("again", device="cpu").model.classifier.weight
    assert torch.equal(untrained_reranker(knobs(base="again")).model.classifier.weight, before)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss": "kl", "train": ["tool"]}, "no row has teacher_scores; run the stage score for this task"),
        ({"base": "models/base/none"}, "base: models/base/none: holds no config.json"),
        ({"max_length": 129}, "max_length: 129 is more than the 128 tokens"),
        ({"train": ["icl"]}, "has no task 'icl'; it has qa, chat, tool"),
    ],
)
def test_what_cannot_be_trained_is_told(place, changes, told):
    with pytest.raises(UserError, match=told):
        run("d", knobs(**changes))
