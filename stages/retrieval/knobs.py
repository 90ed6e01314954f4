"""How texts become vectors and how their neighbours are found: knobs that the stages share."""

from typing import Literal

from pydantic import Field

from stages.core.stage import Knobs


class Encoder(Knobs):
    encoder: str = Field("tfidf", description="tfidf, or a sentence-transformers directory or hub id")
    dims: int = Field(256, gt=0, description="dimensions of TF-IDF's latent semantic analysis")
    max_length: int = Field(0, ge=0, description="tokens a model cuts a text to; 0: its own limit")
    synthetic_prompt: str = Field("", description="put before each text written by the student, for a model")
    observed_prompt: str = Field("", description="put before each text to compare with, for a model")
    batch_size: int = Field(128, gt=0, description="texts that a model encodes at once")
    weights: str = Field("", description="checkpoint (.pt) of an NGAME-style wrapper around the model")


class Search(Knobs):
    search: Literal["exact", "ivf", "hnsw"] = Field("exact", description="how neighbours are found")
    lists: int = Field(0, ge=0, description="ivf: cells of the space; 0: 4 times the root of their number")
    probes: int = Field(32, gt=0, description="ivf: cells looked into")
    links: int = Field(32, gt=1, description="hnsw: edges a node")
    ef: int = Field(128, gt=0, description="hnsw: nodes kept while searching and building")
