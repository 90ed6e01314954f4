"""How texts become vectors and how their neighbours are found: knobs that the stages share."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.core.stage import Knobs

MODEL = "model"
METHOD_FILE = "retriever.json"  # in a directory that stands for a method without weights: {"type": "tfidf"}


def method_of(directory: str, knob: str, methods: tuple[str, ...]) -> str:
    """Which of `methods` the directory named by `knob` stands for, or MODEL for sentence-transformers.

    Every method is a directory, so that dvc.yaml can declare it as a dependency like any model. Raises
    UserError if there is none, or if it stands for anything else.
    """
    folder = Path(directory)
    expected = (
        f"expected {', '.join(f'models/shipped/{m}' for m in methods)} or a sentence-transformers directory"
    )
    if not folder.is_dir():
        raise UserError(f"{knob}: {directory}: no such directory; {expected}")
    if (folder / METHOD_FILE).is_file():
        stored = read_json(folder / METHOD_FILE)
        method = stored.get("type") if isinstance(stored, dict) else None
        if method not in methods:
            raise UserError(f"{knob}: {folder / METHOD_FILE}: type {method!r} is of no use here; {expected}")
        return method
    if not (folder / "modules.json").is_file():
        raise UserError(f"{knob}: {directory}: holds neither {METHOD_FILE} nor modules.json; {expected}")
    return MODEL


def is_none(directory: str, knob: str) -> bool:
    """Does the directory stand for no model, as models/shipped/none does?

    Raises UserError for one that stands for another method.
    """
    return (Path(directory) / METHOD_FILE).is_file() and method_of(directory, knob, ("none",)) == "none"


class Encoder(Knobs):
    encoder: str = Field(description="models/shipped/tfidf, or a sentence-transformers directory")
    dims: int = Field(256, gt=0, description="dimensions of TF-IDF's latent semantic analysis")
    max_length: int = Field(0, ge=0, description="tokens a model cuts a text to; 0: its own limit")
    synthetic_prompt: str = Field("", description="put before each text written by the student, for a model")
    observed_prompt: str = Field("", description="put before each text to compare with, for a model")
    batch_size: int = Field(16, gt=0, description="texts that a model encodes at once")
    weights: str = Field("", description="checkpoint (.pt) of an NGAME-style wrapper around the model")

    @property
    def is_model(self) -> bool:
        """A sentence-transformers model, and not TF-IDF? Raises UserError if `encoder` is neither."""
        return method_of(self.encoder, "encoder", ("tfidf",)) == MODEL


class Search(Knobs):
    search: Literal["exact", "ivf", "hnsw"] = Field("exact", description="how neighbours are found")
    lists: int = Field(0, ge=0, description="ivf: cells of the space; 0: 4 times the root of their number")
    probes: int = Field(32, gt=0, description="ivf: cells looked into")
    links: int = Field(32, gt=1, description="hnsw: edges a node")
    ef: int = Field(128, gt=0, description="hnsw: nodes kept while searching and building")


class Cut(Knobs):
    """How documents are cut into passages."""

    tokenizer: str = Field(
        description="model directory whose tokens measure a passage, like models/base/smol"
    )
    chunk: int = Field(300, gt=0, description="most tokens of a passage")
    overlap: int = Field(50, ge=0, description="tokens that a passage repeats of the one before")

    @model_validator(mode="after")
    def _overlap(self) -> Self:
        if self.overlap >= self.chunk:
            raise ValueError("expected overlap to be less than chunk")
        return self


class Retrieving(Knobs):
    """What finds passages for a question."""

    by: Literal["bm25", "dense", "hybrid"] = Field("hybrid", description="what ranks the passages")
    encoder: str = Field(
        description="sentence-transformers directory, like models/D/retriever; by bm25 models/shipped/none"
    )
    reranker: str = Field(description="CrossEncoder directory, or models/shipped/none")
    rerank: int = Field(20, gt=0, description="first passages that the reranker reads")
    max_length: int = Field(128, gt=0, description="dense: tokens of a text")
    bm25_weight: float = Field(0.5, ge=0, description="hybrid: weight of BM25's score beside the cosine's 1")
