"""A base model from a local Hugging Face directory.

Reads `path` (config.json, weights, tokenizer files) and writes models/base/NAME, which is both a Hugging Face
directory and a litgpt checkpoint. Promises that both compute the same and tokenise alike, or fails.
"""

from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_json
from stages.knobs import BaseKnobs
from stages.student.formats import from_hf, parity


def run(dataset: str, knobs: BaseKnobs) -> dict:
    source = Path(knobs.path)
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no Hugging Face model here (no config.json); mend base.{dataset}.path")
    return import_directory(source, dataset, "base", chat=knobs.chat)


def import_directory(
    source: Path, name: str, producer: str, provenance: dict | None = None, chat: bool = True
) -> dict:
    """Write models/base/`name` from a Hugging Face directory; returns its figures and the measured parity."""
    with atomic_directory(layout.base_model(name), producer=producer) as directory:
        found = from_hf.import_base(source, directory, chat)
        if provenance is not None:
            write_json(directory / "provenance.json", provenance)
        return {**found, "parity": parity.check_base(directory)}
