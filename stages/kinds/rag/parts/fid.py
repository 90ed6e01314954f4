"""Fusion-in-decoder of a dataset: what it reads of a question and its passages, and what it answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from transformers import GenerationConfig
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
from stages.student.formats.seq2seq import NEEDED, open_seq2seq
from stages.student.fusion import Row, fused, padded

BATCH = 16  # questions answered together


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
