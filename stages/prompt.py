"""Render one teacher request per chosen document.

Reads `data/<dataset>/corpus/` and `prompts/<dataset>/teacher.md`; writes `data/<dataset>/requests.jsonl`,
sorted by id: the messages, the sampling parameters and the request's key. Documents are chosen in the order
of a hash of their id, so a larger number adds requests and changes none. Prints what the answers may cost
before anything is sent; sends nothing itself.
"""

import sys

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError
from stages.support.files import iter_jsonl, verify_manifest, write_jsonl
from stages.support.hashing import sha256_text, stable_integer
from stages.support.prompts import Template, messages
from stages.tasks.queries import render
from stages.teacher.identity import request_key

CHARACTERS_PER_TOKEN = 4


class PromptKnobs(Knobs):
    documents: int = Field(0, ge=0, description="train pages to ask for; 0 = all")
    val_documents: int = Field(0, ge=0, description="validation pages to ask for; 0 = all")
    test_documents: int = Field(0, ge=0, description="held-out pages to ask for; 0 = all")
    model: str = Field("embedded", description="the teacher's model name")
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(256, gt=0, description="longest answer, in tokens")
    input_price: float | None = Field(None, ge=0, description="dollars per million input tokens")
    output_price: float | None = Field(None, ge=0, description="dollars per million output tokens")


def choose(documents: list[dict], limits: dict[str, int]) -> list[dict]:
    """For each split the first `limits[split]` documents (0 = all) in the order of a hash of their id."""
    chosen = []
    for split, limit in limits.items():
        mine = [document for document in documents if document["split"] == split]
        mine.sort(key=lambda document: (stable_integer("prompt", document["id"]), document["id"]))
        chosen += mine[: limit or None]
    return sorted(chosen, key=lambda document: document["id"])


def estimate(requests: list[dict], knobs: PromptKnobs) -> dict:
    """Tokens and dollars of the distinct requests: input is characters / 4, output the most there can be."""
    distinct = {request["request_key"]: request for request in requests}.values()
    characters = sum(len(message["content"]) for request in distinct for message in request["messages"])
    tokens_in = -(-characters // CHARACTERS_PER_TOKEN)
    tokens_out = len(distinct) * knobs.max_tokens
    dollars = None
    if knobs.input_price is not None and knobs.output_price is not None:
        dollars = round((tokens_in * knobs.input_price + tokens_out * knobs.output_price) / 1e6, 4)
    return {
        "distinct_requests": len(distinct),
        "estimated_input_tokens": tokens_in,
        "most_output_tokens": tokens_out,
        "most_dollars": dollars,
    }


@stage("prompt", PromptKnobs)
def command(dataset: str, knobs: PromptKnobs) -> dict:
    corpus = layout.corpus(dataset)
    verify_manifest(corpus)
    path = corpus / "documents.jsonl"
    documents = list(iter_jsonl(path, ("id", "title", "text", "metadata", "split")))
    limits = {"train": knobs.documents, "val": knobs.val_documents, "test": knobs.test_documents}
    chosen = choose(documents, limits)
    counts = {split: sum(document["split"] == split for document in chosen) for split in limits}
    if not counts["train"]:
        raise UserError(
            f"{path}: no document of split 'train' ({len(documents)} in all); check the corpus stage"
        )
    template = Template(layout.prompt(dataset, "teacher"))
    params = {"temperature": knobs.temperature, "max_tokens": knobs.max_tokens}
    prompt_hash = sha256_text(template.source)
    requests = []
    for document in chosen:
        asked = messages(render(template, document))
        requests.append(
            {
                "id": document["id"],
                "document_id": document["id"],
                "request_key": request_key(knobs.model, asked, params),
                "model": knobs.model,
                "messages": asked,
                "params": params,
                "prompt_hash": prompt_hash,
            }
        )
    write_jsonl(layout.requests(dataset), requests)
    cost = estimate(requests, knobs)
    dollars = (
        "unknown (no prices given)"
        if cost["most_dollars"] is None
        else f"at most ${cost['most_dollars']:,.2f}"
    )
    print(
        f"prompt {dataset}: {len(requests):,} requests ({cost['distinct_requests']:,} distinct), about "
        f"{cost['estimated_input_tokens']:,} input tokens (characters / {CHARACTERS_PER_TOKEN}), at most "
        f"{cost['most_output_tokens']:,} output tokens; cost {dollars}",
        file=sys.stderr,
    )
    return {"documents": len(documents), "requests": counts, **cost}


if __name__ == "__main__":
    command()
