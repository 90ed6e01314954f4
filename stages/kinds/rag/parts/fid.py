"""Fusion-in-decoder (Izacard & Grave 2021, arXiv 2007.01282) on transformers' own T5.

The encoder reads a prompt for each passage, alone; the decoder attends to what it makes of all of them. Cross
attention has no positions, so the order of the passages says nothing. A question with fewer passages than
another of its batch gets masked ones: repeating one would count it twice.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from transformers import GenerationConfig, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from stages.core.errors import UserError
from stages.core.files import read_object
from stages.core.prompts import Template
from stages.core.stage import valid
from stages.core.tokenizer import TextCodec
from stages.engines.protocol import Decoding, Generation
from stages.kinds.rag import places
from stages.kinds.rag.knobs import ConvertRagKnobs, Fusion
from stages.kinds.rag.parts.answering import Asked, System
from stages.kinds.rag.parts.context import Prompt, Prompts
from stages.retrieval.passages import Passage
from stages.student.fast.functions import IGNORE
from stages.student.formats.seq2seq import NEEDED, open_seq2seq

BATCH = 16  # questions answered together
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


class Ended(TextCodec):
    """Prompts that end with EOS, as T5's do; what looks like a special token in them is text."""

    def prompts(self, texts: list[str]) -> list[list[int]]:
        return [[*ids, self.eos_id] for ids in self.plain([self.disarmed(text) for text in texts])]


class Reading:
    """Makes what encoder and decoder read. `cut`: prompts so far whose passage was cut to fit."""

    def __init__(self, template: Template, model: Path, knobs: Fusion):
        self.codec, self.knobs, self.cut = Ended(model, chat=False), knobs, 0
        alone = ConvertRagKnobs(
            base="",
            passage_length=knobs.passage_length,
            max_length=knobs.passage_length + knobs.answer_length,
            answer_length=knobs.answer_length,
        )
        self.prompts = Prompts(template, self.codec, alone)

    def asked(self, question: Mapping, passages: Sequence[Mapping]) -> list[Prompt]:
        """A prompt for each passage; of none the question alone. Raises UserError where that is too long."""
        alone = [[passage] for passage in passages] or [[]]
        made = [self.prompts.of(question, own) for own in alone]
        self.cut += sum(bool(prompt.cut or prompt.dropped) for prompt in made)
        return made

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return self.codec.prompts([prompt.text for prompt in prompts])

    def row(self, question: Mapping, passages: Sequence[Mapping]) -> Row:
        """Raises UserError as `asked` does, without passages, and for an answer that is too long."""
        if not passages:
            raise UserError(
                f"question {question['id']!r} has no passage, gold or retrieved; run `retrieved` with a "
                "retriever that finds one, or take the question out"
            )
        answer = self.codec.answers([self.codec.disarmed(question["answer"])])[0]
        if len(answer) > self.knobs.answer_length:
            raise UserError(
                f"question {question['id']!r}: its answer has {len(answer)} tokens, over answer_length "
                f"{self.knobs.answer_length}; raise it in the block finetune_fid"
            )
        return Row(self.ids(self.asked(question, passages)), answer)


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


class Fid:
    """A model that `finetune_fid` wrote; `template` is prompts/DATASET/student.md. Raises UserError."""

    def __init__(self, folder: Path, template: Template):
        self.knobs = valid(Fusion, read_object(folder / places.CONTEXT), str(folder / places.CONTEXT))
        self.model, self.reading = open_seq2seq(folder), Reading(template, folder, self.knobs)
        # greedy, whatever the base's own settings: these may ask for beams, or forbid repetition
        ids = {name: getattr(self.model.config, name) for name in NEEDED}
        self.model.generation_config = GenerationConfig(do_sample=False, num_beams=1, **ids)
        if (device := torch.accelerator.current_accelerator()) is not None:
            self.model.to(device)

    def answered(self, prompts: Sequence[list[list[int]]], max_new_tokens: int) -> list[Generation]:
        """Greedy answers to questions, by the ids of their prompts; a batch is of about one length."""
        order = sorted(range(len(prompts)), key=lambda place: sum(map(len, prompts[place])))
        said: dict[int, Generation] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            rows = self.generated([prompts[place] for place in batch], max_new_tokens)
            for place, ids in zip(batch, rows, strict=True):
                said[place] = self.as_text(place, ids)._replace(prompt_tokens=sum(map(len, prompts[place])))
        return [said[place] for place in range(len(prompts))]

    @torch.inference_mode()
    def generated(self, prompts: Sequence[list[list[int]]], max_new_tokens: int) -> list[list[int]]:
        """The new token ids of each question, padded behind EOS."""
        hidden, mask = fused(self.model, *(tensor.to(self.model.device) for tensor in padded(prompts)))
        # `generate` may expand the output that it is given in place: each call gets one of its own
        output = BaseModelOutput(last_hidden_state=hidden)
        made = self.model.generate(encoder_outputs=output, attention_mask=mask, max_new_tokens=max_new_tokens)
        return made[:, 1:].tolist()

    def as_text(self, place: int, ids: list[int]) -> Generation:
        eos = self.model.config.eos_token_id
        stopped = eos in ids
        length = ids.index(eos) if stopped else len(ids)
        text = self.reading.codec.decode(ids[:length])
        return Generation(place, text, "stop" if stopped else "length", 0, length + stopped, None, None)


class FidSystem(System):
    """A model of `finetune_fid` among the systems of `answer`: greedy, from the passages of all others."""

    def __init__(self, name: str, directory: Path, template: Template, decoding: Decoding):
        self.name, self.directory, self.decoding = name, directory, decoding
        self.fid = Fid(directory, template)

    def said(
        self, given: Sequence[tuple[Asked, list[Passage]]]
    ) -> tuple[list[Prompt], Sequence[Generation], float]:
        begun, reading = perf_counter(), self.fid.reading
        read = [own[: self.fid.knobs.retrieve] for _, own in given]
        asked = [reading.asked(one.question, own) for (one, _), own in zip(given, read, strict=True)]
        made = self.fid.answered([reading.ids(own) for own in asked], self.decoding.max_new_tokens)
        seconds = perf_counter() - begun
        prompts = [
            Prompt(
                "", [passage["id"] for passage in own], sum(part.cut for part in parts), len(whole) - len(own)
            )
            for (_, whole), own, parts in zip(given, read, asked, strict=True)
        ]
        return prompts, made, seconds
