"""Let the student write for the documents: shards, worker processes, rows that do not depend on either.

Reads models/DATASET/hf/, the corpus and prompts/DATASET/student.md. Writes data/DATASET/generated/: K Parquet
shards, a document's shard being a hash of its id, and a manifest. Held-out documents always, those for
training and validation by `share`; `n` samples each, a seed for every (document, sample). Finished rows are
kept in scratch under a fingerprint of model, decoding and the shard's own rows: a killed run goes on where it
was, and a new document renews its shard alone.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pydantic import Field

from stages.engines.protocol import Decoding
from stages.support import layout
from stages.support.cli import stage
from stages.support.errors import UserError
from stages.tasks.kinds import Task, kind

BLOCK = 1024  # documents whose prompts are token ids at one time


class GenerateKnobs(Decoding):
    task: Task = Field("queries", description="what the student writes, which says how it is parsed")
    shards: int = Field(8, ge=1, description="files in the output; also the unit of regeneration")
    workers: int = Field(1, ge=1, description="processes, each with its own copy of the model")
    share: float = Field(1.0, ge=0, le=1, description="share of the pages not held out, by hash of the id")
    n: int = Field(1, ge=1, description="samples a document")
    seed: int = Field(0, ge=0)


@stage("generate", GenerateKnobs)
def command(dataset: str, knobs: GenerateKnobs) -> dict:
    model, output = layout.model(dataset, "hf"), layout.generated(dataset)
    return generate("generate", dataset, model, output, knobs, knobs.share)


def generate(name: str, dataset: str, model: Path, output: Path, knobs: GenerateKnobs, share: float) -> dict:
    """Generate with the Hugging Face directory `model` into `output`; returns the metrics."""
    from stages.engines import pool, protocol
    from stages.support.hashing import sha256_json, shard_of
    from stages.support.scratch import prune
    from stages.support.shards import write_generated

    if knobs.n > 1 and knobs.temperature == 0:
        raise UserError(
            f"params.yaml, {name}.{dataset}: samples at temperature 0 are equal; raise it, or set n to 1"
        )
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no config.json; the stage before this one makes it: run `dvc repro`")
    rows = work(dataset, model, knobs, share)
    decoding = protocol.resolve(Decoding(**knobs.model_dump(include=set(Decoding.model_fields))))
    versions, fields = protocol.engine_versions(decoding), protocol.Generation._fields
    basis = [protocol.model_fingerprint(model), decoding.model_dump(), versions, fields]
    scratch = layout.SCRATCH / f"{name}-{dataset}-{sha256_json(basis)[:16]}"
    scratch.mkdir(parents=True, exist_ok=True)

    shards: list[list[pool.Row]] = [[] for _ in range(knobs.shards)]
    for row in rows:
        shards[shard_of(row.document_id, knobs.shards)].append(row)
    jobs = {scratch / f"{sha256_json(own)[:32]}.jsonl": own for own in shards if own}
    open_jobs = [path for path, own in jobs.items() if len(pool.saved(path)) < len(own)]
    # On stderr and no metric: what scratch holds is a fact of this machine.
    print(f"{name}: {len(jobs)} shards, {len(jobs) - len(open_jobs)} of them made before", file=sys.stderr)
    if open_jobs:
        protocol.prepare(model, decoding)
    pool.run_shards(jobs, model, decoding, knobs.workers, f"{name} {dataset}")

    made = [row for path in jobs for row in pool.saved(path).values()]
    for row in made:
        row["queries"] = kind(knobs.task).parse(row["text"])
    write_generated(output, made, knobs.shards, name)
    prune(scratch, set(jobs))
    return statistics(made)


def work(dataset: str, model: Path, knobs: GenerateKnobs, share: float) -> list:
    """The rows to generate. Raises UserError for a prompt that leaves no room for the answer."""
    from stages.engines.pool import Row
    from stages.support.files import read_json
    from stages.support.hashing import stable_integer
    from stages.support.prompts import Template
    from stages.support.tokenizer import TextCodec
    from stages.tasks.queries import render

    template, codec = Template(layout.prompt(dataset, "student")), TextCodec(model)
    config = read_json(model / "config.json")
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if context is None:
        raise UserError(f"{model / 'config.json'}: no max_position_embeddings; add the length of the context")
    documents = chosen(dataset, share)
    rows = []
    while block := list(islice(documents, BLOCK)):
        prompts = [render(template, document) for document in block]
        for document, prompt, ids in zip(block, prompts, codec.prompts(prompts), strict=True):
            name = document["id"]
            if len(ids) + knobs.max_new_tokens > context:
                raise UserError(
                    f"document {name!r}: its prompt has {len(ids)} tokens, which with max_new_tokens "
                    f"{knobs.max_new_tokens} is more than the model's context of {context}; cut the text in "
                    f"{template.path} (`document.text | words(n)`) or lower max_new_tokens"
                )
            seeds = (stable_integer("sample", knobs.seed, name, sample) >> 1 for sample in range(knobs.n))
            rows += [Row(name, sample, prompt, seed) for sample, seed in enumerate(seeds)]
    if not rows:
        raise UserError(
            f"{layout.corpus(dataset)}: no held-out document and none by share; raise either share"
        )
    return rows


def chosen(dataset: str, share: float) -> Iterator[dict]:
    """The documents to write for: held-out ones, and of those for training and validation a share by hash."""
    from stages.support.files import iter_jsonl, verify_manifest
    from stages.support.hashing import stable_unit

    verify_manifest(layout.corpus(dataset))
    fields = ("id", "title", "text", "metadata", "split")
    for document in iter_jsonl(layout.corpus(dataset) / "documents.jsonl", fields):
        known = document["split"] in ("train", "val") and stable_unit("share", document["id"]) < share
        if document["split"] == "test" or known:
            yield document


def statistics(rows: list[dict]) -> dict:
    documents = len({row["document_id"] for row in rows})
    return {
        "documents": documents,
        "rows": len(rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "generated_tokens": sum(row["generated_tokens"] for row in rows),
        "stop_share": round(sum(row["finish_reason"] == "stop" for row in rows) / len(rows), 4),
        "empty_share": round(sum(not row["queries"] for row in rows) / len(rows), 4),
        "lines_per_page": round(sum(len(row["queries"]) for row in rows) / documents, 3),
    }


if __name__ == "__main__":
    command()
