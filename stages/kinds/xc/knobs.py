"""The stages of the kind xc and every knob of theirs. Light."""

from typing import Literal

from pydantic import Field

from stages.core.stage import Knobs, NoKnobs, Stage
from stages.retrieval.knobs import Encoder, Search

Task = Literal["queries", "categories"]
Model = Literal["plt", "two_tower"]


class CorpusXcKnobs(Knobs):
    path: str = Field(description="the folder")
    points: Literal["queries", "documents"] = Field(
        description="what X is: queries (ORCAS; labels are documents) or documents (Wiki; labels are queries)"
    )
    tokenizer: str = Field(description="model directory whose tokenizer measures texts")
    metadata: str | None = Field(
        None, description="file in the folder; default: metadata.*; 'none' = the lines are all the text"
    )
    join_on: Literal["url", "uid", "title"] | None = Field(
        None, description="metadata's field that is the line (or uid) of its row; default: same order of rows"
    )
    max_chars: int = Field(7500, gt=0, description="longest title and text, in characters")
    max_tokens: int = Field(750, gt=0, description="then in tokens")
    known_queries: int = Field(5, ge=0, description="observed queries of a label that prompts may show")
    val_share: float = Field(0.03, ge=0, lt=0.5)
    test_share: float = Field(0.05, ge=0, lt=0.5, description="documents held out from distillation")
    hidden_pairs: float = Field(0.1, ge=0, lt=1, description="share of training pairs kept out of training")
    skip_share: float = Field(0.05, ge=0, le=1, description="largest share of rows without text")


class FilterKnobs(Knobs):
    task: Task = Field("queries", description="what the student writes, which says how it is parsed")
    well_formed: bool = Field(True, description="drop texts that the task's own rules reject")
    copies: bool = Field(True, description="drop texts that the prompt of their document holds as a line")
    duplicates: bool = Field(True, description="drop a document's texts that equal an earlier one")
    near_duplicates: float = Field(
        0, ge=0, le=1, description="Jaccard similarity from which a document's later text goes; 0: off"
    )
    min_logprob: float | None = Field(None, le=0, description="least mean log-probability of a text's tokens")
    logprob_share: float = Field(1, gt=0, le=1, description="share of all texts kept, the likeliest first")
    round_trip: int = Field(0, ge=0, description="rank within which a text must find its document; 0: off")
    round_trip_by: str = Field(
        description="models/shipped/bm25, models/shipped/tfidf, or a sentence-transformers directory"
    )


class MapKnobs(Search, Encoder):
    top_k: int = Field(10, gt=0, description="observed texts looked at for each synthetic one")
    threshold: float = Field(0.8, ge=0, le=1, description="least similarity (cosine + 1) / 2 of a new pair")


class XcKnobs(Knobs):
    models: list[Model] = Field(["plt", "two_tower"], min_length=1, description="what is trained")
    propensity_a: float = Field(0.55, gt=0, description="A of the propensity model of Jain et al. 2016")
    propensity_b: float = Field(1.5, gt=0, description="its B")
    bootstrap: int = Field(1000, gt=0, description="resamples behind each interval")
    seed: int = Field(1, ge=0, description="of training and of the resampling")
    cost: float = Field(10, gt=0, description="plt: C of the node classifiers; larger is less regularised")
    tower: str = Field(description="two_tower: models/shipped/tfidf, or a sentence-transformers directory")
    dims: int = Field(256, gt=0, description="two_tower: dimensions of TF-IDF's latent semantic analysis")
    words: int = Field(64, gt=0, description="two_tower: words of a text that are read")
    steps: int = Field(300, gt=0, description="two_tower: training steps, the same for both matrices")
    batch_size: int = Field(256, gt=1, description="two_tower: pairs, each the others' negatives")
    lr: float = Field(1e-3, gt=0, description="two_tower: learning rate")
    eval_rows: str = Field(
        description="file of queries in people's wording, for measuring only; empty if there are none"
    )


class EvaluateKnobs(Knobs):
    task: Task = Field("queries", description="what was asked for; decides which lines are well-formed")
    pages: int = Field(300, gt=0, description="held-out pages to score; all there are, if fewer")
    among: int = Field(
        0, ge=0, description="pages that retrieval has to find them among; 0 = the whole corpus"
    )
    eval_rows: str = Field(
        description="file of queries in people's wording, for measuring only; empty if there are none"
    )
    bootstrap: int = Field(1000, gt=0, description="resamples behind each interval")
    seed: int = Field(1, ge=0, description="of the resampling")


PACKAGE = __package__
STAGES = (
    Stage("corpus_xc", CorpusXcKnobs, PACKAGE, figures="corpus", reads_source=True),
    Stage("filter", FilterKnobs, PACKAGE),
    Stage("map", MapKnobs, PACKAGE),
    Stage("pack", NoKnobs, PACKAGE),
    Stage("xc", XcKnobs, PACKAGE),
    Stage("evaluate", EvaluateKnobs, PACKAGE),
)
