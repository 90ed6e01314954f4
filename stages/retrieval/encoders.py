"""Texts to unit vectors: TF-IDF with latent semantic analysis, or any sentence-transformers model."""

from collections.abc import Sequence

from stages.retrieval.words import tokens
from stages.support.errors import UserError


def encode(encoder: str, dims: int, fit: Sequence[str], *texts: Sequence[str]) -> list:
    """A float32 (n, dims) array of unit rows for each list in `texts`; a text without known words is 0.

    `encoder` is `tfidf` (fitted on `fit`) or the directory or hub id of a sentence-transformers model, for
    which `fit` and `dims` do not matter. Raises UserError when the model cannot be loaded.
    """
    if encoder == "tfidf":
        return _latent_semantic(dims, fit, texts)
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(encoder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"params.yaml, map: encoder: {encoder!r} is neither `tfidf` nor a sentence-transformers model "
            f"({reason})"
        ) from None
    return [_unit(model.encode(list(part), convert_to_numpy=True)) for part in texts]


def _latent_semantic(dims: int, fit: Sequence[str], texts: Sequence[Sequence[str]]) -> list:
    """Deerwester et al. 1990, with sublinear TF-IDF; the same bytes on any number of cores."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    frequent = 2 if len(fit) > 100 else 1  # a word of one text alone relates it to nothing
    vectorizer = TfidfVectorizer(analyzer=tokens, min_df=frequent, sublinear_tf=True, dtype=np.float32)
    try:
        matrix = vectorizer.fit_transform(fit)
    except ValueError:
        raise UserError("map: the documents and queries share no words to build TF-IDF from") from None
    rank = min(dims, min(matrix.shape) - 1)
    if rank < 1:
        return [_unit(vectorizer.transform(part).toarray()) for part in texts]
    with threadpool_limits(1):  # sums in another order differ in the last bits
        decomposition = TruncatedSVD(rank, algorithm="randomized", random_state=0).fit(matrix)
        return [_unit(vectorizer.transform(part) @ decomposition.components_.T) for part in texts]


def _unit(vectors):
    import numpy as np

    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
