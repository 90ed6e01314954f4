"""Fusion-in-decoder (Izacard & Grave 2021, arXiv 2007.01282) on transformers' own T5.

The encoder reads a prompt for each passage, alone; the decoder attends to what it makes of all of them. Cross
attention has no positions, so the order of the passages says nothing. A question with fewer passages than
another of its batch gets masked ones: repeating one would count it twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from stages.student.fast.functions import IGNORE

# Passages of a pass of the encoder on a CPU, whose caches hold the scores of so many.
TOGETHER = 8


class Row(NamedTuple):
    """Token ids: a prompt for each passage, and the answer; each ends with EOS."""

    prompts: list[list[int]]
    answer: list[int]

    @property
    def read(self) -> int:
        """How many tokens the encoder reads."""
        return sum(map(len, self.prompts))


def padded(questions: Sequence[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), int64 and bool (questions, passages, tokens), of prompts of any number and length."""
    most = max(map(len, questions)), max(len(ids) for prompts in questions for ids in prompts)
    ids = torch.zeros(len(questions), *most, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompts in enumerate(questions):
        for place, prompt in enumerate(prompts):
            ids[row, place, : len(prompt)] = torch.tensor(prompt)
            mask[row, place, : len(prompt)] = True
    return ids, mask


def fused(
    model: T5ForConditionalGeneration, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder states (B, P·L, D) and their mask (B, P·L), of ids and mask (B, P, L).

    Passages that are masked altogether are not read: their states are 0.
    """
    there = mask.any(-1)
    read, kept = ids[there], mask[there]
    size = TOGETHER if ids.device.type == "cpu" else len(read)
    parts = zip(read.split(size), kept.split(size), strict=True)
    made = [model.encoder(input_ids=part, attention_mask=own).last_hidden_state for part, own in parts]
    states = torch.cat(made)
    whole = states.new_zeros(*ids.shape, states.shape[-1])
    whole[there] = states
    return whole.flatten(1, 2), mask.flatten(1)


def summed_loss(model: T5ForConditionalGeneration, rows: Sequence[Row]) -> torch.Tensor:
    """Sum of -log p over every token of the answers, EOS included."""
    labels = torch.full((len(rows), max(len(row.answer) for row in rows)), IGNORE)
    for place, row in enumerate(rows):
        labels[place, : len(row.answer)] = torch.tensor(row.answer)
    ids, mask = padded([row.prompts for row in rows])
    labels = labels.to(model.device)
    hidden, mask = fused(model, ids.to(model.device), mask.to(model.device))
    logits = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        attention_mask=mask,
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
