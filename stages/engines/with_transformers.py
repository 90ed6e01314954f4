"""The reference engine: transformers on CPU or CUDA. A row's result depends on the row alone.

Floating-point sums depend on shapes, so nothing of a row's neighbours may reach a shape: prompts are
left-padded to a width that follows from their own length, a batch always has `batch_size` rows (dummies fill
it), the number of threads is fixed, and a row draws its random numbers from a counter-based generator keyed
by its own seed. Hence the same rows whatever the shards, the workers and the order.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from stages.core.tokenizer import TextCodec
from stages.engines.grammar import ConstrainedAnswer, constraint
from stages.engines.protocol import Decoding, Generation, Tell, finished

BUCKET = 64  # prompt widths are multiples of this


class TransformersEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        torch.set_num_threads(decoding.threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if decoding.precision == "bf16" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=False)
        self.model = model.to(self.device).eval()
        self.codec, self.batch_size = TextCodec(directory), decoding.batch_size
        self.directory = directory

    def generate(
        self,
        prompts: list[str],
        sampling: Decoding,
        seeds: list[int],
        grammar: str | None = None,
        tell: Tell | None = None,
    ) -> Iterator[Generation]:
        logits = self.model.get_output_embeddings().weight.shape[0]
        held = constraint(self.directory, grammar, logits) if grammar else None
        ids = self.codec.prompts(prompts)
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, prompt in enumerate(ids):
            # At least one pad: transformers drops a mask without any, and another kernel would run.
            buckets[(len(prompt) // BUCKET + 1) * BUCKET].append(index)
        for width in sorted(buckets, reverse=True):  # longest first: too little memory shows at once
            bucket, length = buckets[width], sampling.max_new_tokens
            for start in range(0, len(bucket), self.batch_size):
                batch = bucket[start : start + self.batch_size]
                constrained = [ConstrainedAnswer(held, prompts[i], length) for i in batch] if held else []
                batch_ids, batch_seeds = [ids[i] for i in batch], [seeds[i] for i in batch]
                told = [partial(tell, index) for index in batch] if tell and not held else []
                decoded = self._batch(batch_ids, width, sampling, batch_seeds, constrained, told)
                for index, (tokens, logprobs) in zip(batch, decoded, strict=True):
                    yield finished(self.codec, index, ids[index], tokens, logprobs)

    @torch.inference_mode()
    def _batch(
        self,
        prompts: list[list[int]],
        width: int,
        sampling: Decoding,
        seeds: list[int],
        constrained: list[ConstrainedAnswer],
        told: list[Callable[[list[int]], None]],
    ) -> list[tuple[list[int], list[float]]]:
        """New token ids of each prompt and their log-probabilities; what follows an EOS is of no meaning.

        width: tokens of the padded prompts. constrained: one for each prompt where there is a grammar, else
        none. told: who hears what a prompt's answer has so far, or none.
        """
        rows, eos = len(prompts), self.codec.eos_id
        fill = self.batch_size - rows
        prompts, seeds = [*prompts, *prompts[:1] * fill], [*seeds, *seeds[:1] * fill]
        ids = torch.full((self.batch_size, width), eos)
        mask = torch.zeros((self.batch_size, width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        noise = torch.from_numpy(np.stack([uniforms(seed, sampling.max_new_tokens) for seed in seeds]))
        warpers, cache = _warpers(sampling), None
        new: list[torch.Tensor] = []
        logprobs: list[torch.Tensor] = []
        ended = torch.zeros(self.batch_size, dtype=torch.bool, device=self.device)
        for step in range(sampling.max_new_tokens):
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            raw = logits = out.logits[:, -1].float()
            if sampling.repetition_penalty != 1:
                if step == 0:
                    seen = torch.zeros_like(logits, dtype=torch.bool)
                    for row, prompt in enumerate(prompts):
                        seen[row, prompt] = True
                logits = torch.where(seen, repeated(logits, sampling.repetition_penalty), logits)
            if sampling.frequency_penalty:
                if step == 0:
                    used = torch.zeros_like(logits)
                logits = logits - sampling.frequency_penalty * used
            if constrained:
                logits = masked(logits, constrained)
            chosen = choose(logits, noise[:, step].to(self.device), sampling, warpers)
            for place, answer in enumerate(constrained):
                chosen[place] = answer.take(int(chosen[place]))
            if sampling.repetition_penalty != 1:
                seen.scatter_(1, chosen[:, None], True)
            if sampling.frequency_penalty:
                used.scatter_add_(1, chosen[:, None], torch.ones_like(used[:, :1]))
            new.append(chosen)
            for place, tell in enumerate(told):
                tell([int(tokens[place]) for tokens in new])
            logprobs.append(raw.gather(1, chosen[:, None]).squeeze(1) - raw.logsumexp(-1))
            ended |= chosen == eos
            if ended[:rows].all():
                break
            cache, ids = out.past_key_values, chosen[:, None]
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones((self.batch_size, 1))], dim=1)
        by_row = (torch.stack(steps, dim=1)[:rows].tolist() for steps in (new, logprobs))
        return list(zip(*by_row, strict=True))


def repeated(logits: torch.Tensor, penalty: float) -> torch.Tensor:
    """The logits of tokens that were there before (arXiv 1909.05858, section 4.1, as everyone mends it)."""
    return torch.where(logits < 0, logits * penalty, logits / penalty)


def masked(logits: torch.Tensor, constrained: list[ConstrainedAnswer]) -> torch.Tensor:
    """`logits` (rows, vocabulary) with -inf for what the grammar of a row does not allow."""
    refused = torch.zeros(logits.shape, dtype=torch.bool)
    for place, answer in enumerate(constrained):
        refused[place] = torch.from_numpy(~answer.allowed()[: logits.shape[1]])
    return logits.masked_fill(refused.to(logits.device), -torch.inf)


def uniforms(seed: int, count: int) -> np.ndarray:
    """`count` float32 numbers in [0, 1), a function of the seed alone (Philox: Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)


def _warpers(sampling: Decoding) -> list:
    """Temperature, top-k and top-p as transformers defines and orders them."""
    warpers: list = []
    if sampling.temperature not in (0.0, 1.0):
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def choose(logits: torch.Tensor, noise: torch.Tensor, sampling: Decoding, warpers: list) -> torch.Tensor:
    """A token (rows,) for each row of `logits` (rows, vocabulary), drawn by `noise` (rows,) in [0, 1).

    It is where the cumulated distribution passes the noise; at temperature 0 the likeliest.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    for warp in warpers:
        logits = warp(None, logits)
    cumulated = torch.softmax(logits.double(), -1).cumsum(-1)
    drawn = noise[:, None].double() * cumulated[:, -1:]
    return torch.searchsorted(cumulated, drawn, right=True).squeeze(1)
