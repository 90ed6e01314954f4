"""Any OpenAI-compatible server (vLLM, llama.cpp, …) that serves the exported model, by its completions."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import openai

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.grammar import constraint
from stages.engines.paced import Paced, unreachable
from stages.engines.protocol import Decoding, Generation, line_means, mean


class OpenaiEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        if not decoding.base_url:
            raise UserError("engine: openai needs base_url in params.yaml, such as http://localhost:8000/v1")
        key = os.environ.get(decoding.api_key_env, "") if decoding.api_key_env else "none"
        if not key:
            raise UserError(f"api_key_env: environment variable {decoding.api_key_env} is empty; export it")
        self.client = openai.OpenAI(base_url=decoding.base_url, api_key=key, max_retries=0)
        self.codec, self.url, self.directory = TextCodec(directory), decoding.base_url, directory
        self.model = decoding.served_model or self._first_model()

    def _first_model(self) -> str:
        try:
            models = list(self.client.models.list())
        except openai.APIConnectionError as error:
            raise unreachable(self.url, error) from None
        except openai.APIStatusError as error:
            raise UserError(f"{self.url}: the server lists no models: {error}; set served_model") from None
        if not models:
            raise UserError(f"{self.url}: the server lists no model; start it with one, or set served_model")
        return models[0].id

    def generate(
        self, prompts: list[str], sampling: Decoding, seeds: list[int], grammar: str | None = None
    ) -> Iterator[Generation]:
        held = constraint(self.directory, grammar) if grammar else None
        extra = {"top_k": sampling.top_k} if sampling.top_k else {}
        ids = self.codec.prompts(prompts)

        def answer(index: int) -> tuple[Generation, Mapping]:
            body = dict(extra)
            if held:  # the field of vLLM, whose guidance backend reads Lark
                body["structured_outputs"] = {"grammar": held.lark_for(prompts[index])}
            raw = self.client.completions.with_raw_response.create(
                model=self.model,
                prompt=ids[index] if sampling.prompt_as == "ids" else prompts[index],
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                frequency_penalty=sampling.frequency_penalty,
                seed=seeds[index] % 2**31,  # some servers keep 32 bits
                logprobs=1,
                extra_body=body or None,
            )
            reply = raw.parse()
            choice = reply.choices[0]
            reason = "length" if choice.finish_reason == "length" else "stop"
            used = reply.usage.completion_tokens if reply.usage else len(self.codec.answers([choice.text])[0])
            text = held.restored(choice.text) if held else choice.text
            made = Generation(index, text, reason, len(ids[index]), used, *means(choice))
            return made, raw.headers

        yield from Paced(answer, self.url, sampling.batch_size).answers(len(ids))


def means(choice) -> tuple[float | None, list[float | None] | None]:
    """`logprob` and `line_logprobs` of a completion's choice: None where the server does not give them.

    Its tokens come as strings. The lines stay unknown where these have other newlines than the text.
    """
    if choice.logprobs is None or not choice.logprobs.token_logprobs:
        return None, None
    tokens, logprobs = choice.logprobs.tokens or [], choice.logprobs.token_logprobs
    ends = [place for place, token in enumerate(tokens, start=1) for _ in range(token.count("\n"))]
    known = len(ends) == choice.text.count("\n")
    return mean(logprobs), line_means(logprobs, ends) if known else None
