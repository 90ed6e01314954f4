"""Fusion-in-decoder on transformers' own T5: its oracles."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from stages.student.formats.seq2seq import open_seq2seq
from stages.student.fusion import Row, fused, padded, summed_loss
from tests.helpers.tiny_t5 import some_prompts, tiny_t5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_seq2seq(tiny_t5(tmp_path_factory.mktemp("fusion") / "t5"))


@torch.no_grad()
def logits(model, ids, mask, labels=(5, 6, 7, 1)) -> torch.Tensor:
    hidden, mask = fused(model, ids, mask)
    return model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        attention_mask=mask,
        labels=torch.tensor([labels] * len(ids)),
    ).logits


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def test_one_passage_is_the_stock_call(model):
    prompt = some_prompts(9)
    with torch.no_grad():
        stock = model(input_ids=torch.tensor(prompt), labels=torch.tensor([[5, 6, 7, 1]])).logits
    assert far(logits(model, *padded([prompt])), stock) == 0


def test_the_order_of_passages_says_nothing(model):
    one, two, three = some_prompts(9, 12, 7)
    assert (
        far(logits(model, *padded([[one, two, three]])), logits(model, *padded([[three, one, two]]))) < 1e-5
    )


def test_a_masked_passage_changes_nothing_and_a_repeated_one_does(model):
    prompts = some_prompts(9, 12, 7)
    ids, mask = padded([prompts])
    alone = logits(model, ids, mask)
    more = torch.cat([ids, ids[:, -1:]], 1)
    masked = torch.cat([mask, torch.zeros_like(mask[:, -1:])], 1)
    assert far(logits(model, more, masked), alone) < 1e-5
    assert far(logits(model, more, torch.cat([mask, mask[:, -1:]], 1)), alone) > 1e-2  # LocalRQA's padding


def test_two_questions_with_different_numbers_of_passages_in_one_batch(model):
    one, two = some_prompts(9, 12, 7), some_prompts(5, seed=1)
    both = logits(model, *padded([one, two]))
    for row, prompts in enumerate((one, two)):
        assert far(both[row], logits(model, *padded([prompts]))[0]) < 1e-5


def test_the_loss_is_of_answer_and_eos_alone(model):
    """The sum of a batch is that of its rows: pad tokens of answers and of passages have no part in it."""
    rows = [Row(some_prompts(9, 12), [5, 6, 1]), Row(some_prompts(6, seed=1), [7, 8, 9, 10, 1])]
    with torch.no_grad():
        both, each = summed_loss(model, rows), [summed_loss(model, [row]) for row in rows]
        stock = model(input_ids=torch.tensor(rows[1].prompts), labels=torch.tensor([rows[1].answer])).loss
    assert both.item() == pytest.approx(sum(each).item(), abs=1e-4)
    assert each[1].item() == pytest.approx(5 * stock.item(), abs=1e-4)
