"""A probabilistic label tree over TF-IDF of words: napkinxc's PLT, the same on any number of threads."""

import os
import tempfile
from collections.abc import Sequence

import numpy as np
from napkinxc.models import PLT
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from stages.core.text import tokens

BLOCK = 10_000  # points predicted at once: napkinxc returns Python lists


def predict(
    texts: Sequence[str], matrix: csr_matrix, queries: Sequence[str], k: int, cost: float, seed: int
) -> np.ndarray:
    """Train on `texts` and `matrix`, (texts, labels), and predict for `queries`.

    Returns int64 (queries, k): the labels of each query, most probable first, -1 where there are no more.
    Only which labels a row has is used, not their values: napkinxc's node classifiers take no weights. Rows
    without a label are left out; labels without a row are in no tree and never predicted. `cost` is
    liblinear's C: larger is less regularised. Jasinska-Kobus et al. 2020, on a tree by hierarchical k-means
    (Prabhu et al. 2018).
    """
    rows, labels = np.flatnonzero(np.diff(matrix.indptr)), np.unique(matrix.indices)
    vectorizer = TfidfVectorizer(analyzer=tokens, sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform([texts[row] for row in rows])
    asked = vectorizer.transform(queries)
    predicted = np.full((len(queries), k), -1, dtype=np.int64)
    with tempfile.TemporaryDirectory() as directory:
        model = PLT(
            directory,
            # not the default solver: dual coordinate descent draws from the C library's rand(), which threads
            # share and napkinxc's seed does not reach
            liblinear_solver="L2R_LR",
            liblinear_c=cost,
            seed=seed,
            threads=len(os.sched_getaffinity(0)),
        )
        model.fit(features, matrix[rows][:, labels])
        for start in range(0, len(queries), BLOCK):
            ranked = model.predict(asked[start : start + BLOCK], top_k=k)
            for row, best in enumerate(ranked, start=start):
                predicted[row, : len(best)] = labels[best]
    return predicted
