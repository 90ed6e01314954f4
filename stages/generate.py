"""Let the student write for the documents: shards, worker processes, rows that do not depend on either.

Reads models/DATASET/hf/, the corpus and prompts/DATASET/student.md. Writes data/DATASET/generated/: K Parquet
shards, a document's shard being a hash of its id, and a manifest. Held-out documents always, others by
`share`; `n` samples each, a seed for every (document, sample). Finished rows are kept in scratch under a
fingerprint of model, decoding and the shard's own rows: a killed run goes on where it was, and a new document
renews its shard alone.
"""

import re
import shutil
import sys
from pathlib import Path

from pydantic import Field

from stages.engines.protocol import Decoding
from stages.support import layout
from stages.support.cli import stage
from stages.support.errors import UserError


class GenerateKnobs(Decoding):
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
    from stages.support.shards import write_generated
    from stages.tasks.queries import parse

    if knobs.n > 1 and knobs.temperature == 0:
        raise UserError(
            f"params.yaml, {name}.{dataset}: samples at temperature 0 are equal; raise it, or set n to 1"
        )
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no config.json; the stage before this one makes it: run `dvc repro`")
    rows = work(dataset, model, knobs, share)
    decoding = protocol.resolve(Decoding(**knobs.model_dump(include=set(Decoding.model_fields))))
    basis = [protocol.model_fingerprint(model), decoding.model_dump(), protocol.engine_versions(decoding)]
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
        row["queries"] = parse(row["text"])
    write_generated(output, made, knobs.shards, name)
    prune(scratch, set(jobs))
    return statistics(made)


def work(dataset: str, model: Path, knobs: GenerateKnobs, share: float) -> list:
    """The rows to generate. Raises UserError for a prompt that leaves no room for the answer."""
    from stages.engines.pool import Row
    from stages.support.files import read_json, read_jsonl, verify_manifest
    from stages.support.hashing import stable_integer, stable_unit
    from stages.support.prompts import Template
    from stages.support.tokenizer import TextCodec
    from stages.tasks.queries import render

    verify_manifest(layout.corpus(dataset))
    fields = ("id", "title", "text", "metadata", "split")
    documents = read_jsonl(layout.corpus(dataset) / "documents.jsonl", fields)
    chosen = [d for d in documents if d["split"] == "test" or stable_unit("share", d["id"]) < share]
    if not chosen:
        raise UserError(
            f"{layout.corpus(dataset)}: no held-out document and none by share; raise either share"
        )
    template, codec = Template(layout.prompt(dataset, "student")), TextCodec(model)
    prompts = [render(template, document) for document in chosen]
    context = read_json(model / "config.json")["max_position_embeddings"]
    for document, ids in zip(chosen, codec.prompts(prompts), strict=True):
        if len(ids) + knobs.max_new_tokens > context:
            raise UserError(
                f"document {document['id']!r}: its prompt has {len(ids)} tokens, which with max_new_tokens "
                f"{knobs.max_new_tokens} is more than the model's context of {context}; cut the text in "
                f"{template.path} (`document.text | words(n)`) or lower max_new_tokens"
            )
    return [
        Row(document["id"], sample, prompt, stable_integer("sample", knobs.seed, document["id"], sample) >> 1)
        for document, prompt in zip(chosen, prompts, strict=True)
        for sample in range(knobs.n)
    ]


def prune(scratch: Path, used: set[Path]) -> None:
    """Remove this stage's scratch of other fingerprints, and shards that are no longer in the output."""
    pattern = re.compile(re.escape(scratch.name[:-16]) + "[0-9a-f]{16}")
    for other in scratch.parent.iterdir():
        if other != scratch and pattern.fullmatch(other.name):
            shutil.rmtree(other)
    for file in scratch.iterdir():
        if file not in used:
            file.unlink()


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
