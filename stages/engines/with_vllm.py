"""The CUDA engine: vLLM's LLMEngine, fed token ids, with prefix caching and one seed a row."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.grammar import Constraint, constraint
from stages.engines.protocol import Decoding, Generation, Tell, finished

WINDOW = 4  # requests given to vLLM, in batches


def require():
    """The vllm package; raises UserError where it is not installed."""
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            f"engine: vllm cannot be imported ({error}); install it on a CUDA machine (`pip install vllm`) "
            "or set engine to openvino or transformers in params.yaml"
        ) from None
    return vllm


class VllmEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        self.vllm, self.codec = require(), TextCodec(directory)
        self.directory, self.decoding = directory, decoding
        from vllm.config import StructuredOutputsConfig

        arguments = self.vllm.EngineArgs(
            model=str(directory),
            dtype={"bf16": "bfloat16", "f32": "float32"}[decoding.precision],
            max_num_seqs=decoding.batch_size,
            enable_prefix_caching=True,
            structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # it reads Lark
            trust_remote_code=False,
            seed=0,
        )
        self.engine = self.vllm.LLMEngine.from_engine_args(arguments)

    def generate(
        self,
        prompts: list[str],
        sampling: Decoding,
        seeds: list[int],
        grammar: str | None = None,
        tell: Tell | None = None,
    ) -> Iterator[Generation]:
        held = constraint(self.directory, grammar) if grammar else None
        ids = self.codec.prompts(prompts)
        waiting, running = iter(range(len(ids))), 0
        while True:
            # No more than keeps it busy: a request holds its prompt and answer in several processes.
            for index in islice(waiting, WINDOW * self.decoding.batch_size - running):
                params = self._params(sampling, seeds[index], _structured(held, prompts[index]))
                self.engine.add_request(str(index), {"prompt_token_ids": ids[index]}, params)
                running += 1
            if not running:
                return
            for output in self.engine.step():
                if output.finished:
                    running -= 1
                    yield self._answer(output, ids)

    def _params(self, sampling: Decoding, seed: int, structured: dict):
        return self.vllm.SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k or -1,
            top_p=sampling.top_p,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            seed=seed,
            stop_token_ids=[self.codec.eos_id],
            detokenize=False,
            logprobs=0,  # of the token drawn alone; of the raw logits since vLLM 0.10
            **structured,
        )

    def _answer(self, output, ids: list[list[int]]) -> Generation:
        index, (completion,) = int(output.request_id), output.outputs
        tokens = list(completion.token_ids)
        logprobs = [near[token].logprob for token, near in zip(tokens, completion.logprobs, strict=True)]
        return finished(self.codec, index, ids[index], tokens, logprobs)


def _structured(held: Constraint | None, prompt: str) -> dict:
    if held is None:
        return {}
    from vllm.sampling_params import StructuredOutputsParams

    return {"structured_outputs": StructuredOutputsParams(grammar=held.lark_for(prompt))}
