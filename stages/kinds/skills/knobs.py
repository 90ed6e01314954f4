"""The stages of the kind skills and every knob of theirs. Light."""

from typing import Literal

from pydantic import Field

from stages.core.stage import Knobs, Stage
from stages.engines.protocol import Decoding


class SkillsKnobs(Knobs):
    path: str = Field(description="a folder of skill files, or one")
    lenient: bool = Field(False, description="leave out lines and examples that are wrong, and count them")


class CorpusBriefsKnobs(Knobs):
    skills: str = Field(description="the dataset whose skills they are")
    topics: str = Field(description="file of seed topics, one a line")
    examples: int = Field(8, gt=0, description="examples that a brief asks for")
    shown: int = Field(4, ge=0, description="known examples that a brief shows")
    positive: int = Field(20, ge=0, description="briefs a skill: requests for it")
    more: list[str] = Field(
        [], description="skills that get as many again, for each time they are here: what is hard to learn"
    )
    multi: int = Field(10, ge=0, description="briefs a skill with several parameters: several arguments")
    near_miss: int = Field(5, ge=0, description="briefs a skill: requests that only look like it")
    other: int = Field(50, ge=0, description="briefs: what is no request at all")


class CandidatesKnobs(Knobs):
    briefs: str = Field(description="the dataset whose teacher wrote examples")
    near: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Jaccard similarity from which requests with one call are near duplicates",
    )


class CorpusSkillsKnobs(Knobs):
    unreviewed: Literal["drop", "keep"] = Field(
        "drop", description="candidates that nobody has decided about: make review"
    )
    max_share: float = Field(0.3, gt=0, le=1, description="largest share of a skill in the training requests")
    test_templates: float = Field(0.2, gt=0, lt=1, description="share of wordings that are held out")
    test_values: float = Field(0.2, gt=0, lt=1, description="share of values that are held out")
    val_share: float = Field(0.05, ge=0, lt=0.5, description="share of wordings for validation")
    eval_rows: str = Field(description="that of evaluate_calls: candidates that are in it are left out")


class EvaluateCallsKnobs(Decoding):
    engine: Literal["transformers", "openvino", "vllm"] = Field(
        "transformers", description="see docs/guide/engines.md"
    )
    base: str = Field(description="a folder of models/base/")
    eval_rows: str = Field(
        description="file of requests in people's wording, for measuring only; empty if there are none"
    )
    bootstrap: int = Field(1000, gt=0, description="resamples behind each interval")
    seed: int = Field(1, ge=0, description="of the resampling, and of the answers where they are sampled")
    latency_requests: int = Field(40, ge=0, description="requests that are timed, one at a time")
    limit: int = Field(0, ge=0, description="held-out requests to score; 0 = all")


PACKAGE = __package__
STAGES = (
    Stage("skills", SkillsKnobs, PACKAGE, reads_source=True),
    Stage("corpus_briefs", CorpusBriefsKnobs, PACKAGE, figures="corpus"),
    Stage("candidates", CandidatesKnobs, PACKAGE),
    Stage("corpus_skills", CorpusSkillsKnobs, PACKAGE, figures="corpus"),
    Stage("evaluate_calls", EvaluateCallsKnobs, PACKAGE, figures="evaluate"),
)
