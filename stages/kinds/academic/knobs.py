"""The stages of the kind academic and every knob of theirs. Light.

docs/kinds/academic.md has the table of David & Goliath's settings and these knobs.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.stage import Knobs, Stage
from stages.engines.protocol import Decoding
from stages.retrieval.knobs import Cut, Retrieving


class Pdfs(Knobs):
    path: str = Field(description="a PDF, or a folder of PDFs")
    skip: list[Literal["covers", "references"]] = Field(
        ["covers", "references"], description="pages left out, by rule, and counted"
    )


class CorpusPapersKnobs(Pdfs):
    unit: Literal["paragraphs", "pages"] = Field(
        "paragraphs",
        description="what a document is: a paragraph, by rules, or a page, for a teacher to split",
    )
    shortest: float = Field(0.25, ge=0, lt=1, description="share of paragraphs left out, the shortest")
    val: list[str] = Field([], description="names or globs of the papers of validation; else by val_share")
    test: list[str] = Field([], description="names or globs of the papers held out; else by test_share")
    val_share: float = Field(0.1, ge=0, lt=0.5, description="of papers, by hash of the name")
    test_share: float = Field(0.2, ge=0, lt=0.5, description="of papers, by hash of the name")


class CorpusAskedKnobs(Knobs):
    of: str = Field(description="dataset whose teacher's answers become documents")
    task: Literal["paragraphs", "question"] = Field("question", description="what that teacher was asked for")
    shortest: float = Field(
        0.25, ge=0, lt=1, description="share of a paper's paragraphs left out, the shortest"
    )
    unanswerable: float = Field(
        0.1, ge=0, lt=1, description="share of questions that are put to a text which does not answer them"
    )
    qc_pages: list[int] = Field(
        [3, 4, 5, 6, 7, 8, 9], description="pages whose paragraphs are compared with the page, of a teacher's"
    )
    seed: int = Field(1, ge=0)


class InstructKnobs(Knobs):
    path: str = Field(description="file or folder: the original's CSV and JSON, or instruction rows as JSON")
    val_share: float = Field(0.1, gt=0, lt=0.5, description="of papers, or of rows without one")
    test_share: float = Field(0.2, gt=0, lt=0.5, description="of papers, or of rows without one")
    shortest: float = Field(
        0, ge=0, lt=1, description="share of rows left out, those of the shortest texts; SAI's are left out"
    )
    unanswerable: float = Field(
        0.1, ge=0, lt=1, description="largest share of training rows that say that the text does not answer"
    )
    limit: int = Field(0, ge=0, description="training rows, lowest hash first; 0: all")


class ChunksKnobs(Pdfs, Cut):
    questions: str = Field(description="file of questions with reference answers, CSV or JSONL")


class BenchmarkKnobs(Retrieving, Decoding):
    base: str = Field(description="name of the base model, which answers beside its students")
    trained: str = Field(description="Hugging Face directory of a student")
    beside: str = Field(description="that of another student, or models/shipped/none")
    retrieve: int = Field(3, gt=0, description="chunks of a prompt")
    max_length: int = Field(256, gt=0, description="dense: tokens of a chunk; MiniLM reads no more")
    reference: Literal["column", "endpoint"] = Field(
        "column",
        description="whose answers ours are also compared with: the column gpt_response of the questions, or "
        "the server at base_url, which is asked the benchmark's prompts as text",
    )
    prompt_length: int = Field(
        1024, gt=1, description="tokens of prompt and answer: chunks give way, the last first"
    )
    max_new_tokens: int = Field(150, ge=1, description="longest answer in tokens, EOS included")
    held_out: int = Field(
        100, ge=0, description="held-out paragraphs asked about, too, given the text; 0: none"
    )
    latency_questions: int = Field(5, ge=0, description="questions each model is asked alone, for latency")

    @model_validator(mode="after")
    def _server(self) -> Self:
        if self.reference == "endpoint" and not self.base_url:
            raise ValueError("reference endpoint needs base_url, such as http://localhost:8000/v1")
        return self


class EvaluatePapersKnobs(Knobs):
    encoder: str = Field(
        description="sentence-transformers directory, whose cosine compares answers, or models/shipped/none"
    )
    published: str = Field(description="folder of published results to score alike, or models/shipped/none")
    bootstrap: int = Field(1000, gt=0)
    seed: int = Field(1, ge=0)


PACKAGE = __package__
STAGES = (
    Stage("corpus_papers", CorpusPapersKnobs, PACKAGE, figures="corpus", reads_source=True),
    Stage("corpus_asked", CorpusAskedKnobs, PACKAGE, figures="corpus"),
    Stage("instruct", InstructKnobs, PACKAGE, figures="convert", reads_source=True),
    Stage("chunks", ChunksKnobs, PACKAGE, reads_source=True),
    Stage("benchmark", BenchmarkKnobs, PACKAGE),
    Stage("evaluate_papers", EvaluatePapersKnobs, PACKAGE),
)
