"""Texts to unit vectors: TF-IDF with latent semantic analysis, or any sentence-transformers directory.

    model = load(knobs, fit)              # knobs: stages.retrieval.knobs.Encoder; fit: texts for TF-IDF
    vectors = embeddings(model, texts, "synthetic", scratch / "synthetic.npy")

A text's side, `synthetic` (written by the student) or `observed` (what those are compared with), chooses
its prompt. `fingerprint(knobs)` covers all of an encoder that shapes vectors but the texts TF-IDF is fitted
on: name the scratch directory after it and the files that the texts come from.
"""

from collections.abc import Iterable, Sized
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from stages.core import text
from stages.core.errors import UserError
from stages.core.files import reserve, write_text
from stages.core.hashing import sha256_file, sha256_folder, sha256_json
from stages.core.progress import Progress
from stages.core.text import tokens
from stages.retrieval.knobs import Encoder

BLOCK = 4096  # texts encoded between two records of progress; part of the fingerprint, it shapes the batches
FEW = 100  # texts; among more, a word of one text alone relates it to nothing
NOISE = 1e-5  # of the largest singular value; float32 leaves less than 1e-6 where there is none

Side = Literal["synthetic", "observed"]


class Model(Protocol):
    dims: int

    def encode(self, texts: list[str], side: Side) -> np.ndarray:
        """float32 (texts, dims), rows of length 1; 0 for a text of which the model knows no word."""


class LatentSemantic:
    """Sublinear TF-IDF over stems and identifier parts, reduced to `dims` by a truncated SVD.

    Latent semantic analysis (Deerwester et al. 1990).
    """

    def __init__(self, dims: int, fit: Iterable[str]):
        """Fit on the stream `fit`: the same bytes on any number of cores.

        Raises UserError if its texts have no words, or more than FEW of them share none.
        """
        rest = iter(fit)
        head = list(islice(rest, FEW + 1))
        least = 2 if len(head) > FEW else 1
        self.vectorizer = TfidfVectorizer(analyzer=tokens, min_df=least, sublinear_tf=True, dtype=np.float32)
        try:
            matrix = self.vectorizer.fit_transform(chain(head, rest))
        except ValueError:
            raise UserError("the documents and queries share no words to build TF-IDF from") from None
        # all of a small matrix's rank: with less, few texts may have a word that no axis keeps
        rank = min(dims, *matrix.shape)
        self.components, self.dims = None, matrix.shape[1]
        if rank > 1:
            with threadpool_limits(1):  # sums in another order differ in the last bits
                svd = TruncatedSVD(rank, algorithm="randomized", random_state=0).fit(matrix)
            # axes without a value are noise: texts said twice have fewer axes than texts
            real = svd.singular_values_ > svd.singular_values_[0] * NOISE
            self.components, self.dims = np.ascontiguousarray(svd.components_[real].T), int(real.sum())

    def encode(self, texts: list[str], side: str) -> np.ndarray:
        """float32 (texts, dims): rows of length 1, or 0 without a known word; sides are alike."""
        weights = self.vectorizer.transform(texts)
        vectors = weights.toarray() if self.components is None else weights @ self.components
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def load(knobs: Encoder, fit: Iterable[str]) -> Model:
    """The encoder, fitted on the texts `fit` if it is TF-IDF, which are not read otherwise.

    Raises UserError for a model or weights that cannot be loaded, and for knobs that TF-IDF does not have.
    """
    if knobs.is_model:
        # PyTorch, which TF-IDF does without
        from stages.retrieval.transformer import Transformer

        return Transformer(knobs)
    for name in ("max_length", "synthetic_prompt", "observed_prompt", "weights"):
        if getattr(knobs, name):
            raise UserError(
                f"{name}: {getattr(knobs, name)!r} is for a model; {knobs.encoder} has no use for it"
            )
    return LatentSemantic(knobs.dims, fit)


def fingerprint(knobs: Encoder) -> str:
    """sha256 of the knobs in use, of the files of a model and weights, of code, versions and device."""
    if not knobs.is_model:
        code = [sha256_file(Path(file)) for file in (__file__, text.__file__)]
        versions = [version(name) for name in ("scikit-learn", "scipy", "numpy", "PyStemmer")]
        return sha256_json(["tfidf", knobs.dims, BLOCK, code, versions])
    import torch  # as above

    from stages.retrieval.neighbours import coarse_type

    device = "cuda" if torch.cuda.is_available() else str(coarse_type())
    contents = sha256_folder(Path(knobs.encoder))
    weights = sha256_file(_existing(knobs.weights)) if knobs.weights else None
    versions = [version(name) for name in ("sentence-transformers", "transformers", "torch")]
    shaping = knobs.model_dump(include=set(Encoder.model_fields) - {"dims", "weights"})
    return sha256_json([shaping, contents, weights, device, BLOCK, versions])


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"weights: {path}: no such file")
    return Path(path)


def embeddings(
    model: Model, texts: Iterable[str], side: Side, path: Path, count: int | None = None
) -> np.ndarray:
    """The vectors of `texts` as a read-only float16 memmap (texts, dims) of the file `path` (.npy).

    Written block by block; a run that was stopped goes on after the last whole block, with the same bytes.
    The caller's `path` must stand for these texts and this model. `count` is the number of texts where
    `texts` is a stream. Texts that occur again within a block are encoded once.
    """
    count = len(texts) if isinstance(texts, Sized) else count
    if not count:
        return np.zeros((0, model.dims), dtype=np.float16)
    if (stored := finished(path)) is not None:
        return stored
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _recorded(path)
    stored = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, (count, model.dims))
    reserve(path)
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


def finished(path: Path) -> np.ndarray | None:
    """The vectors in `path` if they are all there."""
    if not _recorded(path):
        return None
    stored = np.load(path, mmap_mode="r")
    return stored if len(stored) == _recorded(path) else None


def _recorded(path: Path) -> int:
    record = path.with_suffix(".rows")
    return int(record.read_text()) if path.exists() and record.exists() else 0
