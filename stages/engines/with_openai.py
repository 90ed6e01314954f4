"""Any OpenAI-compatible server (vLLM, llama.cpp, …) that serves the exported model, by its completions.

The pace is the collector's (stages/core/pacing.py): calls at once grow while the server keeps up and shrink
when it has no capacity; Retry-After is honoured; the run ends with an error where going on is useless. An
answer that is no completion is a failure of the server, like a status of 500.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import openai
from pydantic import BaseModel, Field, FiniteFloat, ValidationError, WrapValidator

from stages.core.errors import UserError
from stages.core.pacing import Pacer, pause_s, retry_after_s
from stages.core.servers import MOST_BYTES, account, api_key
from stages.core.tokenizer import TextCodec
from stages.engines.grammar import constraint
from stages.engines.protocol import Decoding, Generation, Tell, line_means, mean

RETRIES = 6  # of one call, not counting refusals for want of capacity
BREAKER = 20  # failures in a row
PATIENCE_S = 600.0  # with nothing but refusals; also the longest Retry-After that is waited for
REFUSED, OVERLOADED, PASSING = {429}, {503, 529}, {408, 409, 425}
DECODED = ("content-encoding", "content-length", "transfer-encoding")  # headers of a body on its way
SHOWN = 200  # bytes of an answer that is none
UNKNOWN = WrapValidator(lambda value, read: read_or_none(value, read))  # what the text can do without


class Logprobs(BaseModel):
    tokens: list[str] | None = None
    token_logprobs: list[FiniteFloat]


class Usage(BaseModel):
    completion_tokens: int = Field(ge=0, lt=2**31)


class Choice(BaseModel):
    text: str
    # OpenAI's names of an end, and those of other servers; any other reason means that the answer is cut off
    finish_reason: Literal["stop", "eos", "eos_token", "stop_sequence", "end_turn", "length"]
    logprobs: Annotated[Logprobs | None, UNKNOWN] = None


class Completion(BaseModel):
    choices: list[Choice] = Field(min_length=1)
    usage: Annotated[Usage | None, UNKNOWN] = None


class ListedModel(BaseModel):
    id: str


class ListedModels(BaseModel):
    data: list[ListedModel]


AnyAnswer = TypeVar("AnyAnswer", bound=BaseModel)


def read_or_none(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


def parsed(kind: type[AnyAnswer], raw) -> AnyAnswer:
    """The body of openai's raw response as a `kind`. Raises APIResponseValidationError where it is none."""
    try:
        return kind.model_validate_json(raw.content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        problem = f"its answer is no {kind.__name__.lower()}: {field}{': ' if field else ''}{first['msg']}"
        shown = f"{problem}; it begins {raw.content[:SHOWN].decode(errors='replace')!r}"
        raise openai.APIResponseValidationError(raw.http_response, None, message=shown) from None


class BoundedClient(openai.DefaultHttpxClient):
    """Reads at most MOST_BYTES of a body, decompressed: one that is cut is no answer. Follows no redirect."""

    def __init__(self) -> None:
        super().__init__(follow_redirects=False)

    def send(self, request: Any, **options: Any) -> Any:
        body, response = bytearray(), super().send(request, **{**options, "stream": True})
        with closing(response):
            for block in response.iter_bytes():
                body += block
                if len(body) > MOST_BYTES:
                    break
        headers = [item for item in response.headers.items() if item[0] not in DECODED]
        return type(response)(
            response.status_code, headers=headers, content=bytes(body[:MOST_BYTES]), request=request
        )


class OpenaiEngine:
    def __init__(self, directory: Path, decoding: Decoding):
        if not decoding.base_url:
            raise UserError("engine: openai needs base_url in params.yaml, such as http://localhost:8000/v1")
        key = api_key(decoding.api_key_env, decoding.base_url) if decoding.api_key_env else "none"
        self.client = openai.OpenAI(
            base_url=decoding.base_url, api_key=key, max_retries=0, http_client=BoundedClient(), **account()
        )
        self.codec, self.url, self.directory = TextCodec(directory), decoding.base_url, directory
        self.model = decoding.served_model or self._first_model()

    def _first_model(self) -> str:
        try:
            models = parsed(ListedModels, self.client.models.with_raw_response.list()).data
        except openai.APIConnectionError as error:
            raise unreachable(self.url, error) from None
        except openai.APIError as error:
            raise UserError(f"{self.url}: the server lists no models: {error}; set served_model") from None
        if not models:
            raise UserError(f"{self.url}: the server lists no model; start it with one, or set served_model")
        return models[0].id

    def generate(
        self,
        prompts: list[str],
        sampling: Decoding,
        seeds: list[int],
        grammar: str | None = None,
        tell: Tell | None = None,
    ) -> Iterator[Generation]:
        held = constraint(self.directory, grammar) if grammar else None
        usual = {"top_k": 0, "repetition_penalty": 1}  # no fields of OpenAI's own: sent where they matter
        extra = {name: value for name, off in usual.items() if (value := getattr(sampling, name)) != off}
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
            reply = parsed(Completion, raw)
            choice = reply.choices[0]
            reason = "length" if choice.finish_reason == "length" else "stop"
            used = reply.usage.completion_tokens if reply.usage else len(self.codec.answers([choice.text])[0])
            generation = Generation(index, choice.text, reason, len(ids[index]), used, *means(choice))
            return generation, raw.headers

        yield from PacedCalls(answer, self.url, sampling.batch_size).answers(len(ids))


def means(choice: Choice) -> tuple[float | None, list[float | None] | None]:
    """`logprob` and `line_logprobs` of a completion's choice: None where the server does not give them.

    Its tokens come as strings. The lines stay unknown where these have other newlines than the text.
    """
    if choice.logprobs is None or not choice.logprobs.token_logprobs:
        return None, None
    tokens, logprobs = choice.logprobs.tokens or [], choice.logprobs.token_logprobs
    ends = [place for place, token in enumerate(tokens, start=1) for _ in range(token.count("\n"))]
    known = len(ends) == choice.text.count("\n")
    return mean(logprobs), line_means(logprobs, ends) if known else None


class PacedCalls:
    """Calls of a server, up to `most` at once, and again where it was not ready.

    ask: takes the number of a call; returns an answer and the headers that came with it, or raises an error
    of openai's. url: for messages.
    """

    def __init__(self, ask: Callable[[int], tuple[Any, Mapping]], url: str, most: int):
        self.ask = ask
        self.url = url
        self.most = most
        self.pacer = Pacer(most)
        self.turn = threading.Condition()  # held by who asks or tells the pacer
        self.ended = threading.Event()
        self.was_answered = False
        self.answered_at = time.monotonic()  # when the last answer came

    def answers(self, count: int) -> Iterator[Any]:
        """The answers to the calls below `count`, as they come.

        Raises UserError where the server refuses one, or fails too often.
        """
        with ThreadPoolExecutor(self.most) as pool:
            try:
                for future in as_completed([pool.submit(self._answer, index) for index in range(count)]):
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                with self.turn:
                    self.ended.set()
                    self.turn.notify_all()

    def _answer(self, index: int) -> Any:
        """The answer to a call, tried again until it is there."""
        failures = refusals = 0
        while True:
            sent_at = self._wait_for_turn()
            try:
                answer, headers = self.ask(index)
            except openai.APIError as error:
                headers = {} if isinstance(error, openai.APIConnectionError) else error.response.headers
                refused = self._failed(error, headers, sent_at, failures)
                failures, refusals = failures + (not refused), refusals + refused
                self.ended.wait(pause_s(failures + refusals - 1, retry_after_s(headers)))
                continue
            with self.turn:
                self._over(headers)
                self.pacer.answered()
                self.was_answered, self.answered_at = True, time.monotonic()
            return answer

    def _wait_for_turn(self) -> float:
        """Wait until another call may be sent; returns the time (time.monotonic) when it may."""
        with self.turn:
            while (pause := self.pacer.wait_s(0)) > 0 and not self.ended.is_set():
                self.turn.wait(None if pause == inf else pause)
            if self.ended.is_set():
                raise CancelledError
            self.pacer.sent(0)
            return time.monotonic()

    def _over(self, headers: Mapping) -> None:
        self.pacer.over(0, headers)
        self.turn.notify(2)  # for its place, and for one by which the limit may grow

    def _failed(self, error: openai.APIError, headers: Mapping, sent_at: float, failures: int) -> bool:
        """Whether a call that failed `failures` times before was refused for want of room.

        Raises UserError where it is useless to try again.
        """
        status, retry_after = getattr(error, "status_code", None), retry_after_s(headers)
        refused = status in REFUSED and error.code != "insufficient_quota"
        if status is None and not self.was_answered and not isinstance(error, openai.APITimeoutError):
            raise unreachable(self.url, error)
        if status is not None and 300 <= status < 500 and not refused and status not in PASSING:
            raise UserError(f"{self.url}: the server refused: {error}")
        with self.turn:
            self._over(headers)
            if refused or status in OVERLOADED:
                self.pacer.refused(retry_after)
            if not refused and not failures:
                self.pacer.failed(sent_at)
        silent = time.monotonic() - self.answered_at
        again = "run again later, finished rows are kept"
        if failures + (not refused) > RETRIES or self.pacer.failed_in_a_row >= BREAKER or silent > PATIENCE_S:
            raise UserError(f"{self.url}: the server keeps failing ({error}); {again}")
        if (retry_after or 0) > PATIENCE_S:
            raise UserError(f"{self.url}: the server asks to wait for {retry_after:.0f} s; {again}")
        return refused


def unreachable(url: str, error: Exception) -> UserError:
    return UserError(f"{url}: no server answers ({error}); start it, or correct base_url")
