"""The stages of the kind rag and every knob of theirs. Light.

docs/kinds/rag.md has the table of LocalRQA's flags and these knobs.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from stages.core.stage import Knobs, Stage
from stages.engines.protocol import Decoding
from stages.retrieval.knobs import Cut, Retrieving
from stages.student.recipe import Training


class Chunks(Cut):
    chunk: int = Field(400, gt=0, description="most tokens of a passage")
    eval_rows: str = Field(
        description="file of people's questions {question, answer, document_id}; empty if there are none"
    )


class PassagesKnobs(Chunks):
    path: str = Field(description="a folder: LocalRQA's files, or documents.* and questions.*")
    documents: str = Field(
        "docs.* documents.*", description="file or glob of the documents; the first that is there"
    )
    val_share: float = Field(0.1, gt=0, lt=0.5, description="of questions, where no file is of validation")
    test_share: float = Field(0.15, gt=0, lt=0.5, description="of questions, where no file is of test")


class PassagesEmbeddedKnobs(Chunks):
    of: str = Field(description="dataset whose documents, API pages, are cut into passages and asked about")
    train: int = Field(
        600, gt=0, description="questions to learn from, of different pages, lowest hash first"
    )
    val: int = Field(60, gt=0, description="questions to choose settings by")
    test: int = Field(150, gt=0, description="held-out questions")


class PassagesAskedKnobs(Chunks):
    of: str = Field(description="dataset whose documents are cut into passages")
    asked: str = Field(description="dataset whose teacher answers questions that one wrote about them")


class RetrievedKnobs(Retrieving):
    depth: int = Field(10, gt=0, description="passages kept of a question, best first")


class ConvertRagKnobs(Knobs):
    base: str = Field(description="name of the base model, whose tokens are counted")
    mode: Literal["sft", "swr"] = Field(
        "swr", description="sft: gold passages; swr: gold passages, then retrieved ones"
    )
    retrieve: int = Field(3, gt=0, description="passages of a prompt, at training (swr) and when answering")
    order: Literal["gold_first", "shuffled", "rank"] = Field("shuffled", description="of a prompt's passages")
    gold: Literal["always", "when_retrieved", "share"] = Field(
        "always", description="swr: is gold among them"
    )
    gold_share: float = Field(0.8, gt=0, le=1, description="gold share: of the rows that have it")
    negatives: Literal["retrieved", "hard"] = Field(
        "retrieved", description="hard: those that the data bring"
    )
    passage_length: int = Field(160, gt=0, description="tokens of a passage in a prompt")
    max_length: int = Field(
        1024, gt=1, description="tokens of prompt and answer: passages give way, the last first"
    )
    answer_length: int = Field(160, gt=0, description="tokens kept for an answer; a longer one is a reject")
    seed: int = Field(1, ge=0)


class Fusion(Knobs):
    """How a question is put to fusion-in-decoder, at training and when answering: kept with the model."""

    retrieve: int = Field(4, gt=0, description="passages of a question; gold ones first at training")
    passage_length: int = Field(256, gt=1, description="tokens of a prompt: question, one passage and EOS")
    answer_length: int = Field(160, gt=1, description="tokens of an answer; a longer one is an error")


class FinetuneFidKnobs(Fusion, Training):
    base: str = Field(description="name of a base of base_seq2seq")
    batch_size: int = Field(16, gt=0, description="questions of a step, over all devices")
    micro_batch_size: int = Field(16, gt=0, description="questions of one forward pass on one device")
    epochs: int = Field(2, gt=0, description="passes over the training rows")
    lr: float = Field(1e-4, gt=0, description="peak learning rate")


class AnswerKnobs(Decoding):
    base: str = Field(description="name of the base model, which answers beside its student")
    beside: str = Field(
        description="Hugging Face directory of another student to compare, or models/shipped/none"
    )
    fid: str = Field(description="directory of a fusion-in-decoder to compare, or models/shipped/none")
    encoder: str = Field(description="that of the block retrieved, for latency")
    reranker: str = Field(description="that of the block retrieved, for latency")
    limit: int = Field(0, ge=0, description="questions of each set, lowest hash first; 0: all")
    latency_questions: int = Field(10, ge=0, description="questions asked one at a time, for latency")


class EvaluateRagKnobs(Knobs):
    cutoffs: list[PositiveInt] = Field(
        [1, 4], min_length=1, description="recall, nDCG and the like among so many passages"
    )
    words: Literal["ascii", "unicode"] = Field(
        "ascii", description="of F1 and ROUGE: as published, or of any script"
    )
    bootstrap: int = Field(1000, gt=0)
    seed: int = Field(1, ge=0)


class CorpusJudgedKnobs(Knobs):
    of: str = Field(description="dataset whose answers a teacher is to judge")
    systems: list[str] = Field(["trained", "untrained"], min_length=1, description="whose answers")
    contexts: list[Literal["gold", "retrieved"]] = Field(
        ["retrieved"], min_length=1, description="from which passages"
    )


class JudgeKnobs(Knobs):
    agreement: str = Field(description="file of people's verdicts {id, correct}; empty if there are none")
    bootstrap: int = Field(1000, gt=0)
    seed: int = Field(1, ge=0)


PACKAGE = __package__
STAGES = (
    Stage("passages", PassagesKnobs, PACKAGE, reads_source=True),
    Stage("passages_embedded", PassagesEmbeddedKnobs, PACKAGE, figures="passages"),
    Stage("passages_asked", PassagesAskedKnobs, PACKAGE, figures="passages"),
    Stage("retrieved", RetrievedKnobs, PACKAGE),
    Stage("convert_rag", ConvertRagKnobs, PACKAGE, figures="convert"),
    Stage("finetune_fid", FinetuneFidKnobs, PACKAGE),
    Stage("answer", AnswerKnobs, PACKAGE),
    Stage("evaluate_rag", EvaluateRagKnobs, PACKAGE),
    Stage("corpus_judged", CorpusJudgedKnobs, PACKAGE, figures="corpus"),
    Stage("judge", JudgeKnobs, PACKAGE),
)
