"""The price table of params.yaml; the tokens of a request, about and at most; what it can cost at worst."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_object
from stages.core.hashing import canonical_json
from stages.core.records import RequestContent
from stages.core.stage import explain
from stages.core.yaml_text import read_yaml
from stages.teacher.identity import most_output, texts_of

PRICES, NO_PRICES = "prices", "{version: none, models: {}}"  # the block, and how to write that none is known
BYTES_PER_TOKEN = 4  # about, of English
FRAME = 4  # tokens that a chat template puts around a message, about
FRAME_TOKENS = 16  # more than any chat template puts around a message
TOKEN_COUNT = f"bytes / {BYTES_PER_TOKEN}"  # how `rough_tokens` counts, for messages and metrics


class ModelPrice(BaseModel):
    """Dollars per million tokens of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0, description="of input tokens that the server had cached")
    batch: float = Field(1.0, ge=0, le=1, description="share of the price that the Batch API charges")


class PriceTable(BaseModel):
    """The block `prices` of params.yaml. A model that is not in it has an unknown price, never a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: str = Field(min_length=1, description="when or where the prices were read")
    models: dict[str, ModelPrice]


class Price(ModelPrice):
    """What a model charged on the day of an attempt."""

    version: str
    cached_input: float

    @classmethod
    def of(cls, version: str, price: ModelPrice) -> "Price":
        cached = price.input if price.cached_input is None else price.cached_input
        return cls(**{**price.model_dump(), "version": version, "cached_input": cached})

    @property
    def record(self) -> str:
        """The price as it goes with each attempt into the ledger."""
        return canonical_json(self.model_dump())

    def dollars(self, usage: Mapping[str, float], batch: bool = False) -> float:
        """What an answer with this usage (tokens, as `read_usage` gives them) cost."""
        cached = usage.get("cached_tokens", 0)
        tokens_in = (usage["prompt_tokens"] - cached) * self.input + cached * self.cached_input
        share = self.batch if batch else 1.0
        return (tokens_in + usage["completion_tokens"] * self.output) / 1e6 * share

    def worst(self, request: RequestContent, batch: bool = False) -> float:
        """The most that an attempt can cost: a token is at least one byte, and no choice passes its limit."""
        tokens_in, tokens_out = most_input_tokens(request), most_output(request)
        return self.dollars({"prompt_tokens": tokens_in, "completion_tokens": tokens_out}, batch)


def rough_tokens(request: RequestContent) -> float:
    """The input tokens of a request, about: for estimates and for pacing, never for the cap."""
    texts = [*texts_of(request), *map(json.dumps, _structure(request))]
    size = sum(len(text.encode()) for text in texts)
    return size / BYTES_PER_TOKEN + FRAME * len(request["messages"])


def most_input_tokens(request: RequestContent) -> int:
    """A bound no tokenizer exceeds: the bytes of what is sent, and a frame for each message."""
    structure = _structure(request)
    size = len(json.dumps(structure).encode()) if structure else 0
    return size + FRAME_TOKENS + sum(len(text.encode()) + FRAME_TOKENS for text in texts_of(request))


def _structure(request: RequestContent) -> list[object]:
    """What a model reads beside the messages: the tools and the schema."""
    return [part for part in (request.get("tools"), request.get("response_format")) if part]


def told(tokens_in: float, tokens_out: float, price: Price | None, model: str, batch: bool = False) -> str:
    """What requests of `model` may take and cost, in words; `tokens_out` are the most there can be."""
    cost = f"unknown (params.yaml has no price of '{model}')"
    if price is not None:
        most = price.dollars({"prompt_tokens": tokens_in, "completion_tokens": tokens_out}, batch)
        cost = f"about ${most:,.2f} at most (prices: {price.version})"
    return (
        f"about {tokens_in:,.0f} input tokens ({TOKEN_COUNT}), at most {tokens_out:,.0f} output tokens; "
        f"cost {cost}"
    )


def price_table(block: object, where: str) -> PriceTable:
    """The block `prices`, checked. Raises UserError."""
    if not isinstance(block, dict):
        raise UserError(f"{where}: expected a version and models; write `{PRICES}: {NO_PRICES}` for none")
    try:
        return PriceTable.model_validate(block)
    except ValidationError as error:
        raise UserError(f"{explain(error, where)} (the fields are in docs/guide/teacher.md)") from None


def price_of(model: str) -> Price | None:
    """The price of `model` in params.yaml, None where it names none. Raises UserError for a bad block."""
    if not layout.PARAMS.is_file():
        return None
    block = read_yaml(layout.PARAMS).get(PRICES)
    if block is None:
        return None
    table = price_table(block, f"{layout.PARAMS}, {PRICES}")
    known = table.models.get(model)
    return Price.of(table.version, known) if known else None


def noted_price(dataset: str, model: str) -> Price | None:
    """The price of the model that the dataset asks, as the stage `price` has noted it; None: it is unknown.

    Where nothing is noted, as for a stage that is run by hand, params.yaml is asked. Raises UserError where
    the price of another model is noted.
    """
    path = layout.price(dataset)
    if not path.is_file():
        return price_of(model)
    noted = read_object(path)
    if noted.get("model") != model:
        raise UserError(f"{path}: is not about the model '{model}'; run `dvc repro -s price@{dataset}`")
    return Price(**noted["price"]) if noted.get("price") else None
