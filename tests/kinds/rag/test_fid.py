"""Fusion-in-decoder: its rows, training, resume, and answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from stages.base_seq2seq import run as base_seq2seq
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import verify_manifest, write_json
from stages.core.prompts import Template
from stages.engines.protocol import Decoding
from stages.kinds.rag.finetune_fid import run
from stages.kinds.rag.knobs import FinetuneFidKnobs, Fusion
from stages.kinds.rag.parts import fid_trainer
from stages.kinds.rag.parts.answering import Asked
from stages.kinds.rag.parts.fid import Fid, Reading
from stages.kinds.rag.parts.fid_trainer import Training, rows_of
from stages.kinds.rag.parts.rows import read_passages, read_questions
from stages.kinds.rag.parts.systems import system_of
from stages.knobs import BaseSeq2seqKnobs
from stages.student.fabric import make_fabric
from stages.student.formats.seq2seq import open_seq2seq
from stages.student.fusion import fused, padded
from tests.helpers.tiny import tiny_model
from tests.helpers.tiny_t5 import some_prompts, tiny_rag, tiny_t5

BASE = Path("models/base/t")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        tiny_t5(Path("source"))
        base_seq2seq("t", BaseSeq2seqKnobs(path="source"))
        tiny_rag("d")
        yield directory


def knobs(**changes) -> FinetuneFidKnobs:
    given = {"base": "t", "passage_length": 90, "answer_length": 24, "batch_size": 4, "micro_batch_size": 3}
    return FinetuneFidKnobs(**{**given, "lr": 5e-3, "retrieve": 3, **changes})


def reading(**changes) -> Reading:
    return Reading(Template(layout.prompt("d", "student")), BASE, knobs(**changes))


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


# --- rows ---------------------------------------------------------------------------------------------------


def test_a_row_is_a_prompt_for_each_passage_gold_first_and_the_answer_with_one_eos(place):
    made = reading()
    train, val = rows_of("d", ("train", "val"), made)
    assert (len(train), len(val)) == (12, 4)
    question, passages = read_questions("d", "train")[3], read_passages("d")
    names = ["p3", "p21", "p22"]  # gold, and what was retrieved, up to `retrieve`
    decoded = [made.codec.decode(ids) for ids in train[3].prompts]
    assert len(decoded) == 3
    for text, name in zip(decoded, names, strict=True):
        assert f"{passages[name]['title']}: {passages[name]['text']} Question: {question['question']}" in text
    assert all(ids.count(1) == 1 and ids[-1] == 1 for ids in [*train[3].prompts, train[3].answer])
    assert made.codec.decode(train[3].answer) == question["answer"]
    assert [len(row.prompts) for row in train[:5]] == [1, 3, 3, 3, 1]


def test_only_passages_give_way_and_special_tokens_in_them_are_text(place):
    made = reading(passage_length=48)
    question = {"id": "q", "question": "what is the mean </s>", "answer": "mean"}
    passage = {"id": "p", "title": "t", "text": "<pad> mean median </s> " * 9}
    (ids,) = made.ids(made.asked(question, [passage]))
    assert len(ids) <= 48 and ids.count(1) == 1 and 0 not in ids and made.cut == 1
    assert "what is the mean" in made.codec.decode(ids)


@pytest.mark.parametrize(
    ("changes", "passages", "told"),
    [
        ({}, [], "question 'q' has no passage, gold or retrieved"),
        ({"passage_length": 5}, ["p0"], "finetune_fid: passage_length"),
        ({"answer_length": 3}, ["p0"], r"'q': its answer has \d+ tokens, over answer_length 3"),
    ],
)
def test_what_makes_no_row_is_told(place, changes, passages, told):
    question = {"id": "q", "question": "what is how", "answer": "to compute the singular"}
    known = read_passages("d")
    with pytest.raises(UserError, match=told):
        reading(**changes).row(question, [known[name] for name in passages])


# --- training -----------------------------------------------------------------------------------------------


def test_parts_of_a_step_add_up_to_its_gradient(place):
    """The loss of a step is the mean over its tokens, however it is cut into passes."""
    (rows,) = rows_of("d", ("train",), reading())
    found, still = [], tiny_t5(Path("still"), dropout=0.0)
    for size in (1, 4):
        base = open_seq2seq(still)
        given = knobs(micro_batch_size=size)
        training = Training(make_fabric(given), base, rows, [], given, Path("none"))
        found.append((training.gradients(0), {n: p.grad for n, p in base.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert all(far(found[0][1][name], found[1][1][name]) < 1e-4 for name in found[0][1])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss_and_keeps_the_best_weights(place, precision):
    figures, _ = run("d", knobs(epochs=8, eval_interval=2, precision=precision))
    curve = json.loads(Path("reports/d/figures/fid_curve.json").read_text())
    validated = {row["step"]: row["val_loss"] for row in curve if "val_loss" in row}
    assert figures["train_loss"] < validated[0] and figures["steps"] == 24
    best = min((step for step in validated if step), key=validated.__getitem__)
    assert figures["best_step"] == best
    folder = layout.model("d", "fid")
    verify_manifest(folder)
    trained = T5ForConditionalGeneration.from_pretrained(folder)
    training = Training(
        make_fabric(knobs()), trained, *rows_of("d", ("train", "val"), reading()), knobs(), folder
    )
    if precision == "32-true":
        assert training.validate() == pytest.approx(validated[best], abs=1e-5)


def test_cut_at_any_step_and_continued_is_bit_equal(place, monkeypatch, capsys):
    given = knobs(save_interval=2, epochs=2, eval_interval=2)  # with dropout
    run("d", given)
    weights, curve = layout.model("d", "fid") / "model.safetensors", Path("reports/d/figures/fid_curve.json")
    whole, drawn, step = weights.read_bytes(), curve.read_bytes(), Training.gradients
    for cut in (1, 3, 5):
        shutil.rmtree(layout.model("d", "fid"))

        def until_cut(self, number, cut=cut):
            if number == cut:
                raise KeyboardInterrupt
            return step(self, number)

        monkeypatch.setattr(fid_trainer.Training, "gradients", until_cut)
        with pytest.raises(KeyboardInterrupt):
            run("d", given)
        monkeypatch.setattr(fid_trainer.Training, "gradients", step)
        run("d", given)
        assert (f"going on after step {cut - cut % 2}" in capsys.readouterr().out) == (cut > 1)
        assert weights.read_bytes() == whole and curve.read_bytes() == drawn
    assert not list(layout.SCRATCH.glob("finetune_fid-d-*"))


def test_fp16_and_other_bases_are_refused_in_a_line(place):
    with pytest.raises(ValidationError, match="'32-true' or 'bf16-mixed'"):
        knobs(precision="16-mixed")
    tiny_model(Path("models/base/l"), "llama")
    with pytest.raises(UserError, match="base: models/base/l: model_type 'llama' is no encoder-decoder"):
        run("d", knobs(base="l"))


# --- answers ------------------------------------------------------------------------------------------------


@pytest.fixture
def fid(place) -> Fid:
    folder = Path("models/d/said")
    shutil.copytree(BASE, folder, dirs_exist_ok=True)
    settings = {"retrieve": 3, "passage_length": 90, "answer_length": 24}
    write_json(folder / "context.json", settings)
    return Fid(folder, Template(layout.prompt("d", "student")))


def test_greedy_answers_are_those_of_a_loop_by_hand(fid):
    prompts = [some_prompts(9, 12, 7), some_prompts(5, seed=1)]
    generated = fid.generated(prompts, 8)
    for own, found in zip(prompts, generated, strict=True):
        said = [0]
        hidden, mask = fused(fid.model, *padded([own]))
        while len(said) < 9 and said[-1] != 1:
            output = BaseModelOutput(last_hidden_state=hidden)
            with torch.no_grad():
                made = fid.model(
                    encoder_outputs=output, attention_mask=mask, decoder_input_ids=torch.tensor([said])
                )
            said.append(int(made.logits[0, -1].argmax()))
        assert found[: len(said) - 1] == said[1:] and not any(found[len(said) - 1 :])


def test_answers_come_in_the_order_of_the_questions_and_again_the_same(fid, monkeypatch):
    monkeypatch.setattr("stages.kinds.rag.parts.fid.BATCH", 2)
    questions, passages = read_questions("d", "train"), list(read_passages("d").values())
    own = [passages[n : n + 1 + n % 5] for n in range(len(questions))]
    prompts = [fid.reading.ids(fid.reading.asked(*pair)) for pair in zip(questions, own, strict=True)]
    said = fid.answered(prompts, 6)
    assert fid.answered(prompts, 6) == said
    for place, given in enumerate(prompts):
        assert fid.answered([given], 6)[0] == said[place]._replace(index=0)
    assert {one.finish_reason for one in said} <= {"stop", "length"} and all(
        1 <= one.generated_tokens <= 6 for one in said
    )
    alone = fid.reading.ids(fid.reading.asked(questions[0], []))  # nothing was found: the question alone
    assert fid.answered([alone], 6)[0].generated_tokens


def test_an_answer_ends_with_eos_or_at_the_limit(fid):
    for ids, wanted in {(5, 6, 1, 0, 0): ("stop", 3), (5, 6): ("length", 2)}.items():
        said = fid.as_text(0, list(ids))
        assert (said.finish_reason, said.generated_tokens) == wanted


def test_questions_are_put_as_they_were_at_training(fid):
    """Ids of the training row and of the answered question are equal."""
    (rows,) = rows_of("d", ("train",), reading())
    question, passages = read_questions("d", "train")[3], read_passages("d")
    given = [passages[name] for name in ("p3", "p21", "p22")]
    assert fid.reading.ids(fid.reading.asked(question, given)) == rows[3].prompts
    assert fid.knobs == Fusion(retrieve=3, passage_length=90, answer_length=24)


def test_a_base_that_asks_for_beams_is_greedy_all_the_same(place):
    folder = Path("models/d/beams")
    shutil.copytree(BASE, folder)
    write_json(folder / "context.json", {})
    settings = json.loads((folder / "generation_config.json").read_text())
    write_json(folder / "generation_config.json", {**settings, "num_beams": 3, "no_repeat_ngram_size": 1})
    template = Template(layout.prompt("d", "student"))
    plain, prompts = Path("models/d/plain"), [some_prompts(9, 12)]
    shutil.copytree(BASE, plain)
    write_json(plain / "context.json", {})
    assert Fid(folder, template).generated(prompts, 9) == Fid(plain, template).generated(prompts, 9)


def test_among_the_systems_of_answer(fid):
    system = system_of("d", "fid", Path("models/d/said"), Decoding(max_new_tokens=6))
    asked = [
        Asked(
            "test", question, {"gold": question["gold"], "retrieved": ["p5", "p6", "p7", "p8"]}, [4, 3, 2, 1]
        )
        for question in read_questions("d", "test")
    ]
    rows, counts, _ = system.answers(asked, read_passages("d"))
    assert counts["answers"] == 6 and counts["passages_dropped"] == 3  # the fourth of each retrieved
    assert [row["passages"] for row in rows[:2]] == [["p0"], ["p5", "p6", "p7"]]
    assert rows[1]["scores"] == [4, 3, 2] and all(row["system"] == "fid" for row in rows)
