"""A small base model from scratch, out of a dataset's training documents.

Reads `data/<dataset>/corpus/`; writes models/base/NAME (a Hugging Face directory and a litgpt checkpoint),
with the loss curve and what made it in `provenance.json`. A killed run goes on from its last saved state.
The default knobs are the recipe of the checkpoint shipped in models/shipped/small.
"""

from pathlib import Path

from pydantic import Field

from stages.core import layout
from stages.core.stage import Knobs, stage


class ScratchKnobs(Knobs):
    corpus: str = Field(description="dataset whose training documents to learn from")
    vocabulary: int = Field(4096, ge=300, description="tokens of the byte-level BPE")
    layers: int = Field(6, ge=2, description="transformer blocks")
    width: int = Field(
        256, ge=256, multiple_of=64, description="size of the hidden states; heads are 64 wide"
    )
    context: int = Field(512, ge=32, description="longest sequence the model accepts")
    length: int = Field(256, ge=32, description="longest training sequence, in tokens")
    batch: int = Field(32, ge=1, description="sequences a step")
    steps: int = Field(2400, ge=1)
    lr: float = Field(1.5e-3, gt=0, description="peak learning rate")
    recall_share: float = Field(0.75, ge=0, le=1, description="share of rows that recall spans of a document")
    seed: int = Field(0, ge=0)


@stage("base_scratch", ScratchKnobs)
def command(dataset: str, knobs: ScratchKnobs) -> dict:
    import shutil

    from stages.base import import_directory
    from stages.core.files import read_jsonl, verify_manifest
    from stages.core.hashing import sha256_json
    from stages.student import scratch

    corpus = layout.corpus(knobs.corpus)
    manifest = verify_manifest(corpus)
    documents = scratch.training_documents(read_jsonl(corpus / "documents.jsonl", ["title", "text", "split"]))
    mark = sha256_json([knobs.model_dump(), manifest["files"]["documents.jsonl"]])[:16]
    work = layout.SCRATCH / f"base_scratch-{dataset}-{mark}"
    curve, accuracy = build(documents, knobs, work)
    provenance = {
        "recipe": knobs.model_dump(),
        "documents": len(documents),
        "corpus_sha256": manifest["files"]["documents.jsonl"]["sha256"],
        "copy_accuracy": accuracy,
        "curve": curve,
    }
    metrics = import_directory(work / "hf", dataset, "base_scratch", provenance)
    shutil.rmtree(work)
    return {**metrics, "copy_accuracy": accuracy, "loss": curve[-1]["loss"]}


def build(documents: list[dict], knobs: ScratchKnobs, work: Path) -> tuple[list[dict], dict[str, float]]:
    """Train and write `work`/hf; returns the loss curve and the copying accuracy before and after."""
    from stages.student import scratch

    tokenizer = scratch.train_tokenizer([f"{d['title']}\n{d['text']}" for d in documents], knobs.vocabulary)
    model = scratch.new_model(
        tokenizer.get_vocab_size(), knobs.layers, knobs.width, knobs.width // 64, knobs.context, knobs.seed
    )
    before = scratch.copy_accuracy(model)
    rows = scratch.Rows(documents, tokenizer, knobs.length, knobs.batch, knobs.recall_share, knobs.seed)
    curve = scratch.pretrain(model, rows, knobs.steps, knobs.lr, work / "state.pt")
    scratch.write_hf(work / "hf", model, tokenizer)
    return curve, {"untrained": round(before, 4), "trained": round(scratch.copy_accuracy(model), 4)}


if __name__ == "__main__":
    command()
