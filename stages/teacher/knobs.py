"""The parameters of the collect stage."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.core.servers import Variable, address
from stages.core.stage import Knobs
from stages.teacher.resolve import Action, Policy

EMBEDDED = "embedded"  # base_url of the stand-in


class CollectKnobs(Knobs):
    base_url: str = Field(EMBEDDED, description="'embedded' (a local stand-in) or an OpenAI-compatible URL")
    api_key_env: Variable = Field(
        "OPENAI_API_KEY", description="environment variable (or line in .env) with the key; '' = no key"
    )
    mode: Literal["online", "batch"] = Field(
        "online",
        description="batch: through the provider's Batch API, which takes up to a day and costs less",
    )
    batch_requests: int = Field(50_000, gt=0, description="most requests of one batch")
    batch_bytes: int = Field(190_000_000, gt=0, description="most bytes of one batch's input file")
    batch_window: str = Field("24h", description="time within which the provider is to do a batch")
    poll: float = Field(30.0, gt=0, description="seconds between two questions about the state of a batch")
    concurrency: int = Field(64, gt=0, description="most requests in flight; fewer while the server objects")
    rpm: float = Field(0, ge=0, description="requests a minute; 0 = what the server's headers allow")
    tpm: float = Field(
        0, ge=0, description="tokens a minute, input and most output; 0 = as the headers allow"
    )
    timeout: float = Field(120.0, gt=0, description="seconds for one attempt")
    retries: int = Field(
        6, ge=0, description="further attempts after one that may be repeated; 429s are free"
    )
    breaker: int = Field(
        20,
        gt=0,
        description="failures in a row (5xx, timeouts, resets), or equal refusals of all, that stop the run",
    )
    patience: float = Field(600.0, gt=0, description="seconds of nothing but 429 that stop the run")
    max_dollars: float = Field(0, ge=0, description="cap on all that this dataset ever spends; 0 = none")
    min_accept: float = Field(0.8, ge=0, le=1, description="least share of accepted answers")
    on_length: Action = Field("drop", description="answer cut at max_tokens; retry: with retry_max_tokens")
    on_refusal: Action = Field("drop", description="the model declined")
    on_content_filter: Action = Field("drop", description="stopped by the provider")
    on_blank: Action = Field("drop", description="only white space")
    on_invalid: Action = Field("drop", description="not in the form that was asked for")
    outcome_retries: int = Field(1, ge=0, description="times a request is asked again under `retry`")
    retry_max_tokens: int = Field(
        0, ge=0, description="limit for answers that were cut, under on_length: retry"
    )
    repair: bool = Field(False, description="show an invalid answer to the model once, to repair it")

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        return url if url == EMBEDDED else address(url)

    @model_validator(mode="after")
    def _larger_limit(self) -> Self:
        if self.on_length == "retry" and not self.retry_max_tokens:
            raise ValueError("on_length: retry needs retry_max_tokens, the larger limit")
        return self

    def policy(self) -> Policy:
        names = ("length", "refusal", "content_filter", "blank", "invalid")
        actions = {name: getattr(self, f"on_{name}") for name in names}
        return Policy(actions, self.outcome_retries, self.retry_max_tokens, self.repair)
