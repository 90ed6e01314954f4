"""The CPU engine: openvino-genai continuous batching with a paged key/value cache and prefix caching.

Rows have their own seeds. In f32 they came out the same whatever their neighbours in every test so far; in
bf16 a neighbour can flip a near tie (docs/engines.md): take the transformers engine where that matters.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from stages.engines.openvino_model import converted
from stages.engines.protocol import Decoding, Generation, finished
from stages.support.errors import UserError
from stages.support.tokenizer import TextCodec

CACHE_GIB = 2
TOKENS_PER_STEP = 512  # prompt tokens are fed in pieces, so that long prompts do not hold up decoding


class OpenvinoEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIB
        scheduler.max_num_seqs = decoding.batch_size
        scheduler.max_num_batched_tokens = max(TOKENS_PER_STEP, decoding.batch_size)
        scheduler.enable_prefix_caching = True
        properties = {
            "INFERENCE_PRECISION_HINT": decoding.precision,
            "KV_CACHE_PRECISION": decoding.precision,  # the default, u8, changes answers
            "INFERENCE_NUM_THREADS": decoding.threads,
            "ENABLE_CPU_PINNING": False,  # pinned workers would share the first cores
        }
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(converted(directory)), scheduler, "CPU", properties
        )
        self.codec, self.in_flight = TextCodec(directory), 2 * decoding.batch_size

    def generate(
        self, prompts: list[str], sampling: Decoding, seeds: list[int], grammar: str | None = None
    ) -> Iterator[Generation]:
        if grammar is not None:
            raise UserError(
                "engine: openvino decodes without a grammar (openvino-genai wants a converted tokenizer for "
                "one, and not each can be converted); set engine to transformers in params.yaml"
            )
        ids = self.codec.prompts(prompts)
        waiting = sorted(range(len(ids)), key=lambda index: (len(ids[index]), -index))  # the last is first
        running: dict[int, object] = {}
        while waiting or running:
            while waiting and len(running) < self.in_flight:
                index = waiting.pop()
                prompt = openvino.Tensor(np.array([ids[index]], dtype=np.int64))
                config = self._config(sampling, seeds[index])
                running[index] = self.pipeline.add_request(index, prompt, config)
            self.pipeline.step()
            for index in list(running):
                status = running[index].get_status().name
                if status == "RUNNING":
                    continue
                if status != "FINISHED":
                    raise RuntimeError(f"openvino gave up on a prompt of {len(ids[index])} tokens: {status}")
                (output,) = running.pop(index).read_all()
                made = list(output.generated_ids), list(output.generated_log_probs)
                yield finished(self.codec, index, ids[index], *made)

    def _config(self, sampling: Decoding, seed: int):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.eos_token_id = sampling.max_new_tokens, self.codec.eos_id
        config.stop_token_ids = {self.codec.eos_id}
        config.frequency_penalty = sampling.frequency_penalty
        config.logprobs = 1  # of the raw logits, as the tests check against transformers
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = sampling.temperature, sampling.top_p, seed
            if sampling.top_k:
                config.top_k = sampling.top_k
        return config
