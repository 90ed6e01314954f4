"""An encoder-decoder base: T5, flan-t5 or fastchat-t5, from a directory or from the Hugging Face hub.

Reads `path`, or downloads `id` at the commit `revision`, and writes models/base/NAME, a Hugging Face
directory of safetensors. Promises that it computes the same and tokenises alike, or fails.
"""

from pathlib import Path

from stages.base_hub import download
from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_json
from stages.knobs import BaseHubKnobs, BaseSeq2seqKnobs
from stages.student.formats.seq2seq import import_seq2seq


def run(dataset: str, knobs: BaseSeq2seqKnobs) -> dict:
    source, provenance = Path(knobs.path), {}
    if knobs.id:
        provenance = {"hub_id": knobs.id, "revision": knobs.revision}
        source = download(
            dataset, BaseHubKnobs(id=knobs.id, revision=knobs.revision, chat=False), "base_seq2seq"
        )
    if not (source / "config.json").is_file():
        raise UserError(
            f"{source}: no Hugging Face model here (no config.json); correct base_seq2seq.{dataset}.path"
        )
    with atomic_directory(layout.base_model(dataset), producer="base_seq2seq") as directory:
        figures = import_seq2seq(source, directory)
        if provenance:
            write_json(directory / "provenance.json", provenance)
    return {**figures, **provenance}
