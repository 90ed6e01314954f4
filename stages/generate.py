"""Let the student write for the documents: shards, worker processes, rows that do not depend on either.

Reads models/DATASET/hf/, the corpus and prompts/DATASET/student.md; with `grammar` the one beside the corpus.
Writes data/DATASET/generated/: K Parquet shards, a document's shard being a hash of its id, and a manifest.
Held-out documents always, those for training and validation by `share`; `n` samples each, a seed for every
(document, sample). Finished rows are kept in scratch under a fingerprint of model, decoding and the shard's
own prompts: a killed run goes on where it was, and a new document renews its shard alone. With runner ray the
shards are finished on a Ray cluster (docs/guide/machines.md).
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl, prune, read_text, verify_manifest
from stages.core.hashing import model_fingerprint, sha256_json, stable_integer, stable_unit
from stages.core.messages import say
from stages.core.prompts import Template, render
from stages.core.records import Document, choose
from stages.core.shards import write_shards
from stages.core.tokenizer import TextCodec
from stages.engines.jobs import items, on_ray, pool, shared
from stages.engines.load import check_model, context_of, engine_versions, prepare, resolve
from stages.kinds import registry
from stages.kinds.kind import Task
from stages.knobs import GenerateKnobs

BLOCK = 1024  # documents whose prompts are token ids at one time


def run(dataset: str, knobs: GenerateKnobs) -> dict:
    return generate("generate", dataset, layout.model(dataset, "hf"), layout.generated(dataset), knobs)


def generate(name: str, dataset: str, model: Path, output: Path, knobs: GenerateKnobs) -> dict:
    """Generate with the Hugging Face directory `model` into `output`; returns the metrics."""
    scratch, job = plan(name, dataset, model, knobs)
    place = shared.place_of(scratch)
    shared.collect(scratch, place, job)
    todo = [item for item in job.items if not items.is_finished(scratch, item)]
    # On stderr and no metric: what scratch holds is a fact of this machine.
    made = len(job.items) - len(todo)
    say(f"{name}: {len(job.items)} shards, {made} of them made before")
    if todo:
        finish(scratch, place, job, todo, knobs, f"{name} {dataset}")
    own = {item.shard: item for item in job.items}
    shards = (items.rows(scratch, own[shard]) if shard in own else [] for shard in range(knobs.shards))
    task = registry.task(knobs.task)
    counts: Counter[str] = Counter()
    write_shards(output, (parsed(rows, task, counts) for rows in shards), name, task.column)
    prune(scratch, {scratch / items.finished_name(item) for item in job.items})
    return statistics(counts)


def plan(name: str, dataset: str, model: Path, knobs: GenerateKnobs) -> tuple[Path, items.Job]:
    """Lay the shards out as items (stages/engines/jobs/items.py); returns (their directory, the job).

    Raises UserError where something that the job needs is missing, or a prompt leaves no room for the answer.
    """
    check(f"params.yaml, {name}.{dataset}", model, knobs)
    fingerprint = model_fingerprint(model)
    decoding = resolve(knobs)
    versions, grammar = engine_versions(decoding), grammar_of(dataset) if knobs.grammar else None
    basis = [fingerprint, decoding.identity(), versions, grammar, items.Row.model_json_schema()]
    scratch = layout.SCRATCH / f"{name}-{dataset}-{sha256_json(basis)[:16]}"
    found = items.spill(scratch, work(dataset, model, knobs), knobs.shards)
    if not found:
        raise UserError(
            f"{layout.corpus(dataset)}: no held-out document and none by share; raise test_share in the "
            "block of the corpus stage, or share here"
        )
    job = items.Job(
        model=model.as_posix(),
        fingerprint=fingerprint,
        decoding=decoding,
        versions=versions,
        grammar=grammar,
        items=found,
    )
    items.write_job(scratch / items.JOB, job)
    return scratch, job


def check(where: str, model: Path, knobs: GenerateKnobs) -> None:
    if knobs.n > 1 and knobs.temperature == 0:
        raise UserError(f"{where}: samples at temperature 0 are equal; raise it, or set n to 1")
    check_model(model)


def grammar_of(dataset: str) -> str:
    path = layout.corpus(dataset) / "grammar.lark"
    if not path.is_file():
        raise UserError(f"{path}: no such file; this dataset has no grammar, leave the knob out")
    return read_text(path)


def work(dataset: str, model: Path, knobs: GenerateKnobs) -> Iterator[dict]:
    """A row for each document to write for: document_id, prompt and the seeds of its samples."""
    template, codec = Template(layout.prompt(dataset, "student")), TextCodec(model)
    context = context_of(model)
    documents = chosen(dataset, knobs.share, knobs.test_documents)
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
            seeds = [stable_integer("sample", knobs.seed, name, sample) >> 1 for sample in range(knobs.n)]
            yield {"document_id": name, "prompt": prompt, "seeds": seeds}


def chosen(dataset: str, share: float, test_documents: int) -> Iterator[Document]:
    """The documents to write for: held-out ones, and of those for training and validation a share by hash.

    Of the held-out ones the first `test_documents` (0: all), as `prompt` chooses them.
    """
    verify_manifest(layout.corpus(dataset))
    path, fields = layout.corpus(dataset) / "documents.jsonl", ("id", "title", "text", "metadata", "split")
    asked = None
    if test_documents:
        asked = choose(iter_jsonl(path, fields), {"test": test_documents})[0]["test"]
    for document in iter_jsonl(path, fields):
        if document["split"] == "test":
            taken = asked is None or document["id"] in asked
        else:
            taken = document["split"] in ("train", "val") and stable_unit("share", document["id"]) < share
        if taken:
            yield document


def finish(scratch: Path, place: str, job: items.Job, todo: list, knobs: GenerateKnobs, label: str) -> None:
    """Finish the items `todo`, here or on a Ray cluster."""
    if knobs.runner == "local":
        prepare(Path(job.model), job.decoding)
        pool.run_items(scratch, job, todo, knobs.workers, label)
        return

    shared.publish(scratch, place, job)
    num_cpus = knobs.threads if knobs.num_cpus is None else knobs.num_cpus
    on_ray.run_items(place, todo, num_cpus, knobs.num_gpus, label)
    shared.collect(scratch, place, job)


def parsed(rows: list[dict], task: Task, counts: Counter) -> list[dict]:
    """The rows of a shard with the texts of their answers; adds to the `counts` of `statistics`."""
    for row in rows:
        texts = row[task.column] = task.parse(row["text"])
        counts["prompt_tokens"] += row["prompt_tokens"]
        counts["generated_tokens"] += row["generated_tokens"]
        counts["stopped"] += row["finish_reason"] == "stop"
        counts["empty"] += not texts
        counts["lines"] += len(texts)
    counts["rows"] += len(rows)
    counts["documents"] += len({row["document_id"] for row in rows})
    return rows


def statistics(counts: Counter) -> dict:
    return {
        **{name: counts[name] for name in ("documents", "rows", "prompt_tokens", "generated_tokens")},
        "stop_share": round(counts["stopped"] / counts["rows"], 4),
        "empty_share": round(counts["empty"] / counts["rows"], 4),
        "lines_per_page": round(counts["lines"] / counts["documents"], 3),
    }
