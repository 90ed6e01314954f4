"""The rows that pass between stages, as they are written: one type for each file.

What is NotRequired stands in a row only where it applies. Files that people bring may lack more; stages that
read those say which fields they need (`iter_jsonl(path, required)`).
"""

from collections.abc import Iterable
from typing import Any, NotRequired, TypedDict

from stages.core import layout
from stages.core.files import read_jsonl, verify_manifest
from stages.core.hashing import stable_integer


class Document(TypedDict):
    """A row of corpus/documents.jsonl. `split` is train, val, test, or another that is never asked about."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    split: str


def read_documents(dataset: str) -> list[Document]:
    """The whole corpus of a dataset. Raises UserError where it is not as it was written."""
    verify_manifest(layout.corpus(dataset))
    return read_jsonl(layout.corpus(dataset) / "documents.jsonl", tuple(Document.__annotations__))


class RequestContent(TypedDict):
    """What decides a teacher's answer: the request's key is a hash of it.

    `messages` are those of OpenAI's chat protocol, `params` the sampling parameters as sent. `sample` tells
    apart requests that are otherwise equal. `tools` or `response_format` ask for structure.
    """

    model: str
    messages: list[dict[str, Any]]
    params: dict[str, Any]
    sample: NotRequired[int]
    tools: NotRequired[list[dict[str, Any]]]
    response_format: NotRequired[dict[str, Any]]


class KeyedRequest(RequestContent):
    """A request as the store knows it."""

    request_key: str


class Request(KeyedRequest):
    """A row of requests.jsonl: one for each answer, so several rows share a request that asks for n choices.

    `choice` is the number of the choice that the row is for. `form` is json or tool where the answer is
    structured. `prompt_hash` is of the prompt file.
    """

    id: str
    document_id: NotRequired[str]
    choice: NotRequired[int]
    form: NotRequired[str]
    prompt_hash: str


class RequestKeys(TypedDict):
    """A request of which only this is known, from a row of responses.jsonl.

    `question_key` is the hash without the limit on tokens, `token_limit` that limit.
    """

    request_key: str
    question_key: str
    token_limit: int | None
    model: str


class Response(RequestKeys):
    """A row of responses.jsonl: the answer to a row of requests.jsonl.

    `outcome` is one of `teacher.outcomes.OUTCOMES`; `accepted` says whether it is used. `usage` counts tokens
    of the whole request. `logprob` is the mean over the tokens of the answer. `thoughts_removed` is true
    where a reasoning model's thoughts stood in the text.
    """

    id: str
    document_id: NotRequired[str]
    sample: NotRequired[int]
    choice: NotRequired[int]
    form: NotRequired[str]
    accepted: bool
    outcome: str
    response: str | None
    problem: NotRequired[str]
    usage: dict[str, int] | None
    system_fingerprint: NotRequired[str]
    logprob: NotRequired[float]
    thoughts_removed: NotRequired[bool]
    prompt_hash: str


class TrainingRow(TypedDict):
    """A row of litgpt/train.json, val.json and test.json. `instruction` is the prompt, `input` is empty."""

    id: str
    instruction: str
    input: str
    output: str


def choose(documents: Iterable[Document], limits: dict[str, int]) -> tuple[dict[str, set[str]], int]:
    """(the ids of the documents that take part by split, the number of documents there are).

    For each split the first `limits[split]` (0 = all) in the order of a hash of their id. The documents are
    read once and none is kept: there may be millions.
    """
    ranked: dict[str, list[tuple[int, str]]] = {split: [] for split in limits}
    total = 0
    for document in documents:
        total += 1
        if document["split"] in ranked:
            ranked[document["split"]].append((stable_integer("prompt", document["id"]), document["id"]))
    chosen = {
        split: {name for _, name in sorted(own)[: limits[split] or None]} for split, own in ranked.items()
    }
    return chosen, total
