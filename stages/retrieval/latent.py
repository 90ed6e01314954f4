"""TF-IDF with latent semantic analysis (Deerwester et al. 1990)."""

from collections.abc import Iterable
from itertools import chain, islice

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from stages.core.errors import UserError
from stages.core.text import tokens

FEW = 100  # texts; among more, a word of one text alone relates it to nothing
NOISE = 1e-5  # of the largest singular value; float32 leaves less than 1e-6 where there is none


class LatentSemantic:
    """Sublinear TF-IDF over stems and identifier parts, reduced to `dims` by a truncated SVD."""

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
                found = TruncatedSVD(rank, algorithm="randomized", random_state=0).fit(matrix)
            # axes without a value are noise: texts said twice have fewer axes than texts
            own = found.singular_values_ > found.singular_values_[0] * NOISE
            self.components, self.dims = np.ascontiguousarray(found.components_[own].T), int(own.sum())

    def encode(self, texts: list[str], side: str) -> np.ndarray:
        """float32 (texts, dims): rows of length 1, or 0 without a known word; sides are alike."""
        found = self.vectorizer.transform(texts)
        vectors = found.toarray() if self.components is None else found @ self.components
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
