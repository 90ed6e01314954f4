"""Texts to unit vectors: TF-IDF with latent semantic analysis, or any sentence-transformers model.

    model = load(knobs, fit)              # knobs: stages.retrieval.knobs.Encoder; fit: texts for TF-IDF
    vectors = embeddings(model, texts, "synthetic", scratch / "synthetic.npy")

A text's side, `synthetic` (written by the student) or `observed` (what those are compared with), chooses
its prompt. `fingerprint(knobs)` covers all of an encoder that shapes vectors but the texts TF-IDF is fitted
on: name the scratch directory after it and the files that the texts come from.
"""

from collections.abc import Iterable, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from stages.core.errors import UserError
from stages.retrieval.knobs import Encoder

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096  # texts encoded between two records of progress; part of the fingerprint, it shapes the batches

Side = Literal["synthetic", "observed"]


class Model(Protocol):
    dims: int

    def encode(self, texts: list[str], side: Side) -> "np.ndarray":
        """float32 (texts, dims), rows of length 1; 0 for a text of which the model knows no word."""


def load(knobs: Encoder, fit: Iterable[str]) -> Model:
    """The encoder, fitted on the texts `fit` if it is TF-IDF, which are not read otherwise.

    Raises UserError for a model or weights that cannot be loaded, and for knobs that TF-IDF does not have.
    """
    if knobs.encoder != "tfidf":
        from stages.retrieval.transformer import Transformer

        return Transformer(knobs)
    for name in ("max_length", "synthetic_prompt", "observed_prompt", "weights"):
        if getattr(knobs, name):
            raise UserError(
                f"{name}: {getattr(knobs, name)!r} is for a model; encoder `tfidf` has no use for it"
            )
    from stages.retrieval.latent import LatentSemantic

    return LatentSemantic(knobs.dims, fit)


def fingerprint(knobs: Encoder) -> str:
    """sha256 of the knobs in use, of the files of a local model and weights, of code, versions and device.

    A hub id stands for itself: a model that is published anew under the same id is not noticed.
    """
    from importlib.metadata import version

    from stages.core import text
    from stages.core.hashing import sha256_file, sha256_json
    from stages.retrieval import latent

    if knobs.encoder == "tfidf":
        code = [sha256_file(Path(module.__file__)) for module in (latent, text)]
        versions = [version(name) for name in ("scikit-learn", "scipy", "numpy", "PyStemmer")]
        return sha256_json(["tfidf", knobs.dims, BLOCK, code, versions])
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(knobs.encoder)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()] if folder.is_dir() else []
    contents = [(file.relative_to(folder).as_posix(), sha256_file(file)) for file in files]
    weights = sha256_file(_existing(knobs.weights)) if knobs.weights else None
    versions = [version(name) for name in ("sentence-transformers", "transformers", "torch")]
    own = knobs.model_dump(include=set(Encoder.model_fields) - {"dims", "weights"})
    return sha256_json([own, contents, weights, device, BLOCK, versions])


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"weights: {path}: no such file")
    return Path(path)


def embeddings(
    model: Model, texts: Iterable[str], side: Side, path: Path, count: int | None = None
) -> "np.ndarray":
    """The vectors of `texts` as a read-only float16 memmap (texts, dims) of the file `path` (.npy).

    Written block by block; a run that was stopped goes on after the last whole block, with the same bytes.
    The caller's `path` must stand for these texts and this model. `count` is the number of texts where
    `texts` is a stream. Texts that occur again within a block are encoded once.
    """
    import numpy as np

    from stages.core.files import write_text
    from stages.core.progress import Progress

    count = len(texts) if isinstance(texts, Sized) else count
    if not count:
        return np.zeros((0, model.dims), dtype=np.float16)
    if (made := finished(path)) is not None:
        return made
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _recorded(path)
    stored = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, (count, model.dims))
    rest = islice(texts, done, None)
    with Progress(count, f"{side} texts to vectors", "text", done) as shown:
        while done < count:
            block = list(islice(rest, BLOCK))
            distinct = {text: place for place, text in enumerate(dict.fromkeys(block))}
            vectors = model.encode(list(distinct), side)
            if not np.isfinite(vectors).all():
                raise UserError(
                    f"{side} texts {done + 1} to {done + len(block)}: the encoder gave no numbers"
                )
            stored[done : done + len(block)] = vectors.astype(np.float16)[[distinct[text] for text in block]]
            stored.flush()
            done += len(block)
            write_text(path.with_suffix(".rows"), str(done))
            shown.update(len(block))
    return np.load(path, mmap_mode="r")


def finished(path: Path) -> "np.ndarray | None":
    """The vectors in `path` if they are all there."""
    import numpy as np

    if not _recorded(path):
        return None
    stored = np.load(path, mmap_mode="r")
    return stored if len(stored) == _recorded(path) else None


def _recorded(path: Path) -> int:
    record = path.with_suffix(".rows")
    return int(record.read_text()) if path.exists() and record.exists() else 0
