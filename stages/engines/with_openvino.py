"""The CPU engine: openvino-genai continuous batching with a paged key/value cache and prefix caching.

Rows have their own seeds. In f32 they came out the same whatever their neighbours in every test so far; in
bf16 a neighbour can flip a near tie (docs/guide/engines.md): take the transformers engine where that matters.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.grammar import ConstrainedAnswer, Constraint, constraint
from stages.engines.load import context_of
from stages.engines.openvino_model import converted
from stages.engines.protocol import Decoding, Generation, Tell, finished

# Of the key/value cache: a batch of usual rows, which is a quarter of those in flight (a cache for a third of
# them was as quick, and one that grows 5% slower). It fills up, with prefixes, and stays full.
TOKENS_PER_ROW = 1024
TOKENS_PER_BLOCK = 32  # openvino's own
# Requests given to openvino, in batches: the more, the fewer passes over the weights (664 and 686 tokens/s
# with 128 and 192 of 192 documents in flight, 622 with 64). openvino-genai does not hold to max_num_seqs with
# split prompts, so this window is what bounds it.
IN_FLIGHT = 4
# Prompt tokens are fed in pieces, so that long prompts do not hold up decoding; 256 and 1,024 were no better.
TOKENS_PER_STEP = 512
# Kernels are kept for each shape of a batch that was met, up to 1,024 by oneDNN and 5,000 by openvino itself:
# hundreds of MiB that fill up over hours of serving. With so few a tiny model stays at 210 MiB, where it had
# 430 after 2,200 requests and grew on, in the same CPU time.
KEPT_KERNELS = 64


class OpenvinoEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        self.in_flight = IN_FLIGHT * decoding.batch_size
        context, rows = context_of(directory), decoding.batch_size
        tokens = min(context * rows, max(context, TOKENS_PER_ROW * rows))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size, scheduler.num_kv_blocks = 0, tokens // TOKENS_PER_BLOCK + rows
        scheduler.max_num_seqs = self.in_flight
        scheduler.max_num_batched_tokens = max(TOKENS_PER_STEP, self.in_flight)
        scheduler.enable_prefix_caching = True
        properties = {
            "INFERENCE_PRECISION_HINT": decoding.precision,
            "KV_CACHE_PRECISION": decoding.precision,  # the default, u8, changes answers
            "INFERENCE_NUM_THREADS": decoding.threads,
            "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
            "ENABLE_CPU_PINNING": False,  # pinned workers would share the first cores
        }
        # oneDNN has no other way to be told, and reads it at its first kernel.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
        model = converted(directory)
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)
        self.codec, self.directory, self.decoding = TextCodec(directory), directory, decoding

    @property
    def cache_bytes(self) -> int:
        """Of the key/value cache when it is full; 0 before the first answer."""
        return self.pipeline.get_metrics().kv_cache_size_in_bytes

    def generate(
        self,
        prompts: list[str],
        sampling: Decoding,
        seeds: list[int],
        grammar: str | None = None,
        tell: Tell | None = None,
    ) -> Iterator[Generation]:
        ids = self.codec.prompts(prompts)
        if grammar is not None:
            yield from self._held(prompts, ids, sampling, seeds, grammar)
            return
        for index, (tokens, logprobs) in self._decoded(ids, sampling, seeds, tell):
            yield finished(self.codec, index, ids[index], tokens, logprobs)

    def _held(
        self, prompts: list[str], ids: list[list[int]], sampling: Decoding, seeds: list[int], grammar: str
    ) -> Iterator[Generation]:
        """Answers that obey a grammar. Raises UserError for a temperature that is not 0.

        They are decoded without it first. Where the likeliest of all tokens is allowed, it is the likeliest
        of those allowed: a greedy answer that obeys is the answer of constrained decoding. The others are
        decoded again by the transformers engine, which is loaded when the first one is needed.
        """
        if sampling.temperature:
            raise UserError(
                "engine: openvino keeps to a grammar at temperature 0 only; set temperature to 0, or engine "
                "to transformers, in params.yaml"
            )
        held, rest = constraint(self.directory, grammar), []
        for index, (tokens, logprobs) in self._decoded(ids, sampling, seeds):
            if obeys(held, prompts[index], tokens, sampling.max_new_tokens):
                yield finished(self.codec, index, ids[index], tokens, logprobs)
            else:
                rest.append(index)
        if rest:
            rest.sort()
            again = [prompts[index] for index in rest], sampling, [seeds[index] for index in rest], grammar
            for answer in self.constrained.generate(*again):
                yield answer._replace(index=rest[answer.index])

    @cached_property
    def constrained(self):
        from stages.engines.with_transformers import TransformersEngine

        return TransformersEngine(self.directory, self.decoding)

    def _decoded(
        self, ids: list[list[int]], sampling: Decoding, seeds: list[int], tell: Tell | None = None
    ) -> Iterator[tuple[int, tuple[list[int], list[float]]]]:
        """Each row's place, new token ids and log-probabilities, as they finish."""
        # Of rows with the same prompt, as the samples of a document are, one goes ahead. The others follow
        # when it has its first token: the prompt is in the prefix cache by then, and all of them would
        # compute it if they went together (948 tokens/s in place of 565 with four samples of a document).
        alike = defaultdict(list)
        for index in reversed(range(len(ids))):
            alike[tuple(ids[index])].append(index)
        following = {rows.pop(): rows for rows in alike.values()}
        waiting = sorted(following, key=lambda index: (len(ids[index]), -index))  # the last is first
        running: dict[int, object] = {}
        heard: dict[int, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        while waiting or running:
            while waiting and len(running) < self.in_flight:
                index = waiting.pop()
                prompt = openvino.Tensor(np.array([ids[index]], dtype=np.int64))
                config = self._config(sampling, seeds[index])
                running[index] = self.pipeline.add_request(index, prompt, config)
            self.pipeline.step()
            for index, handle in list(running.items()):
                if following.get(index) and handle.can_read():
                    waiting += following.pop(index)
                status = handle.get_status().name
                while tell and handle.can_read():
                    (output,) = handle.read().values()  # of one step: read_all would wait for the end
                    tokens, logprobs = heard[index]
                    tokens.extend(output.generated_ids)
                    logprobs.extend(output.generated_log_probs)
                    tell(index, tokens)
                if status == "RUNNING":
                    continue
                if status != "FINISHED":
                    raise RuntimeError(f"openvino gave up on a prompt of {len(ids[index])} tokens: {status}")
                del running[index]
                if tell:
                    yield index, heard.pop(index)
                else:
                    (output,) = handle.read_all()
                    yield index, (list(output.generated_ids), list(output.generated_log_probs))

    def _config(self, sampling: Decoding, seed: int):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.eos_token_id = sampling.max_new_tokens, self.codec.eos_id
        config.stop_token_ids = {self.codec.eos_id}
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        config.logprobs = 1  # of the raw logits, as the tests check against transformers
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = sampling.temperature, sampling.top_p, seed
            if sampling.top_k:
                config.top_k = sampling.top_k
        return config


def obeys(held: Constraint, prompt: str, tokens: list[int], most: int) -> bool:
    """Whether `tokens` are what constrained decoding would take, and end the answer within `most` tokens."""
    answer = ConstrainedAnswer(held, prompt, most)
    for token in tokens:
        allowed = answer.allowed()
        if token >= len(allowed) or not allowed[token] or answer.take(token) != token:
            return False
    return answer.ended
