"""A base model or an encoder from files on this machine.

Reads `path` (a Hugging Face directory, a GGUF file or a sentence-transformers directory) and writes
models/base/NAME: of a language model a Hugging Face directory that is a litgpt checkpoint, too, of an
encoder a sentence-transformers directory. Promises that all that read it compute the same and tokenise alike,
or fails.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, write_json
from stages.knobs import BaseKnobs
from stages.student.formats import encoder, from_gguf, from_hf, parity


def run(dataset: str, knobs: BaseKnobs) -> dict:
    source = Path(knobs.path)
    if not (source.is_file() or (source / "config.json").is_file() or encoder.is_encoder(source)):
        raise UserError(
            f"{source}: no Hugging Face model here (no config.json), and no GGUF file; correct "
            f"base.{dataset}.path"
        )
    return import_model(source, dataset, "base", chat=knobs.chat)


def import_model(
    source: Path, name: str, producer: str, provenance: dict | None = None, chat: bool = True
) -> dict:
    """Write models/base/`name` from a directory or a GGUF file; returns its figures and the measured parity.

    Raises UserError where it is no model that can be imported, or parity is not given.
    """
    if source.is_file():
        with TemporaryDirectory() as unpacked:
            from_gguf.unpack(source, Path(unpacked))
            return import_model(Path(unpacked), name, producer, provenance, chat)
    with atomic_directory(layout.base_model(name), producer=producer) as directory:
        if encoder.is_encoder(source):
            figures = encoder.import_encoder(source, directory)
        else:
            figures = from_hf.import_base(source, directory, chat)
            figures = {**figures, "parity": parity.check_base(directory)}
        if provenance is not None:
            write_json(directory / "provenance.json", provenance)
        return figures
