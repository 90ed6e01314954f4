"""What every engine is: prompts in, texts out as they finish. Light: stage scripts import it for `--help`.

Prompt ids come from core/tokenizer.TextCodec, as in training, and texts are decoded by it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import Literal, NamedTuple, Protocol

from pydantic import Field

from stages.core.servers import Address, Variable
from stages.core.stage import Knobs


class Decoding(Knobs):
    """Everything that an engine's answer depends on, besides model, prompt and seed."""

    engine: Literal["transformers", "openvino", "vllm", "openai"] = Field(
        "openvino", description="see docs/guide/engines.md"
    )
    max_new_tokens: int = Field(128, ge=1, description="longest answer in tokens, EOS included")
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False, description="0: the likeliest token, always")
    top_k: int = Field(0, ge=0, description="sample among this many tokens; 0: all")
    top_p: float = Field(
        1.0, gt=0, le=1, allow_inf_nan=False, description="sample among the likeliest tokens that sum to this"
    )
    frequency_penalty: float = Field(
        0.0,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="taken off a token's logit for each time it was generated; ends loops",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=0.1,
        le=10,
        allow_inf_nan=False,
        description="divides the logit of each token in prompt and answer, multiplies one below 0; 1: off",
    )
    precision: Literal["auto", "f32", "bf16"] = Field(
        "auto", description="auto: bf16 where it is fast (CUDA; openvino on a CPU with bf16), else f32"
    )
    batch_size: int = Field(
        32, ge=1, description="rows a worker decodes together (openvino: times 4); openai: calls in flight"
    )
    threads: int = Field(2, ge=1, description="CPU threads of a worker; may change the last bits of results")
    base_url: Address = Field("", description="openai: the server, such as http://localhost:8000/v1")
    api_key_env: Variable = Field(
        "", description="openai: variable (or line in .env) with the key; empty: none"
    )
    served_model: str = Field("", description="openai: model name at the server; empty: the first it lists")
    prompt_as: Literal["ids", "text"] = Field("ids", description="openai: send token ids or text")

    def identity(self) -> dict:
        """What tells finished rows from those of another decoding.

        A repetition_penalty that is off is no part of it: rows from before there was one stay.
        """
        return self.model_dump(exclude={"repetition_penalty"} if self.repetition_penalty == 1 else None)


class Generation(NamedTuple):
    """An answer. `generated_tokens` counts the EOS; `text` and `prompt_tokens` do not hold one.

    Log-probabilities are natural logarithms of what the model itself gives a token, the softmax of its raw
    logits: neither penalties nor temperature, top-k or top-p have a part in them. None: the engine has none.
    """

    index: int
    text: str
    finish_reason: str  # stop: the model ended it; length: max_new_tokens did
    prompt_tokens: int
    generated_tokens: int
    logprob: float | None  # mean over the generated tokens, EOS included
    line_logprobs: list[float | None] | None  # mean for each of `text.split("\n")`; None: no token of its own


Tell = Callable[[int, list[int]], None]  # (place of a prompt, the tokens of its answer so far)


class Engine(Protocol):
    def generate(
        self,
        prompts: list[str],
        sampling: Decoding,
        seeds: list[int],
        grammar: str | None = None,
        tell: Tell | None = None,
    ) -> Iterator[Generation]:
        """Yield one Generation a prompt in the order they finish; `index` is the prompt's place.

        `seeds` are 63-bit integers, one a prompt: a row's random numbers depend on nothing else. `grammar` is
        the Lark text that answers obey (docs/kinds/skills/grammar.md). `tell` hears of answers in the making,
        from engines on this machine and without a grammar. Raises UserError where it cannot.
        """
        ...


def finished(codec, index: int, prompt: list[int], ids: list[int], logprobs: Sequence[float]) -> Generation:
    """The Generation of new token `ids` and their log-probabilities, up to the first EOS if there is one.

    A token that holds a newline belongs to the line it ends, the EOS to the last one.
    """
    stopped = codec.eos_id in ids
    length = ids.index(codec.eos_id) if stopped else len(ids)
    reason, counted = "stop" if stopped else "length", logprobs[: length + stopped]

    @cache
    def newlines(tokens: int) -> int:
        return codec.decode(ids[:tokens]).count("\n")

    # Prefixes are decoded, not tokens: what a token adds to the text is the tokenizer's to say.
    ends = [bisect_left(range(length + 1), n, key=newlines) for n in range(1, newlines(length) + 1)]
    text = codec.decode(ids[:length])
    means = mean(counted), line_means(counted, ends)
    return Generation(index, text, reason, len(prompt), len(counted), *means)


def line_means(logprobs: Sequence[float], ends: list[int]) -> list[float | None]:
    """The mean of each line; newline number i is there after the first `ends[i]` tokens."""
    return [mean(logprobs[start:end]) for start, end in pairwise([0, *ends, len(logprobs)])]


def mean(logprobs: Sequence[float]) -> float | None:
    """The mean to four places, up to which engines agree. None of no values."""
    return round(fmean(logprobs), 4) + 0.0 if logprobs else None
