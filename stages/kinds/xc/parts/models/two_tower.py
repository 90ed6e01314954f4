"""A dense retriever: vectors of points and of the labels' own texts, and a linear layer learned on pairs.

The encoder stays as it is, and both sides go through one matrix: a vector v becomes v + v W, of length 1. So
each text is encoded once for all label matrices, a step takes milliseconds, and memory holds vectors alone.
On pydoc with MiniLM this reaches R@10 .90 on See-Also test points, where finetuning all of the encoder for
100 steps of 64 pairs, which takes longer, reached .86.
"""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch.nn.functional import normalize

from stages.kinds.xc.knobs import XcKnobs
from stages.retrieval.neighbours import nearest, threads
from stages.student.losses import contrastive

SCALE = 20.0  # of cosines before the softmax, the default of MultipleNegativesRankingLoss
RANDOM = 4  # labels drawn for each pair as negatives beside those of the batch: against 2, R@10 gained .004
ROWS = 1 << 16  # vectors that go through the layer at once


def predict(
    points: np.ndarray,
    labels: np.ndarray,
    matrix: csr_matrix,
    known: csr_matrix,
    queries: np.ndarray,
    k: int,
    knobs: XcKnobs,
) -> np.ndarray:
    """Train on the pairs of `matrix` (points, labels), and predict for `queries`.

    Vectors are (rows, dims), of length 1. `known` has the pairs that are observed, for the first of the
    points. Returns int32 (queries, at most k): the labels of each query, nearest first; exact neighbours.
    Labels without a pair can be found by their text. The same on any number of threads.
    """
    with threads():  # one each: PyTorch adds in another order on another number
        weights = train(points, labels, matrix, draws(matrix, known), knobs)
        queries, labels = (moved_rows(part, weights) for part in (queries, labels))
    return nearest(queries, labels, min(k, len(labels)))[0]


def draws(matrix: csr_matrix, known: csr_matrix) -> np.ndarray:
    """How likely each pair of `matrix` is drawn, float64 (pairs,): half of the draws are `known` pairs.

    New pairs are many, and of the student's making: drawn alike, 20,000 of them left 2,000 known ones a tenth
    of the steps, and R@10 on the dataset's own points fell. Among the new ones a pair counts by its value.
    """
    pairs = matrix.tocoo()
    observed = np.zeros(matrix.nnz, dtype=bool)
    early = pairs.row < known.shape[0]
    observed[early] = np.asarray(known[pairs.row[early], pairs.col[early]]).ravel() > 0
    shares = pairs.data.astype(np.float64)
    for part in (observed, ~observed):
        shares[part] /= shares[part].sum() or 1
    return shares / shares.sum()


def train(
    points: np.ndarray, labels: np.ndarray, matrix: csr_matrix, shares: np.ndarray, knobs: XcKnobs
) -> torch.Tensor:
    """W, float32 (dims, dims), after `steps` of AdamW, the rate of which falls to 0 by equal steps.

    In-batch softmax (Henderson et al. 2017, Karpukhin et al. 2020) with RANDOM labels a pair as further
    negatives.
    """
    random, pairs = np.random.default_rng(knobs.seed), matrix.tocoo()
    weights = torch.zeros(points.shape[1], points.shape[1], requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=knobs.lr, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, knobs.steps)
    for _ in range(knobs.steps):
        batch = random.choice(matrix.nnz, knobs.batch_size, p=shares)
        rows, columns = pairs.row[batch], pairs.col[batch]
        drawn = random.integers(len(labels), size=(len(rows), RANDOM))
        offered = np.column_stack([columns, drawn]).ravel()
        cosines = moved(points[rows], weights) @ moved(labels[offered], weights).T
        true = torch.from_numpy(matrix[rows][:, offered].toarray() > 0)  # labels that are no negatives
        loss = contrastive(SCALE * cosines, true)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weights.detach()


def moved(vectors: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
    """Float32 (rows, dims), of length 1: the vectors after the layer."""
    before = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
    return normalize(before + before @ weights, dim=-1)


def moved_rows(vectors: np.ndarray, weights: torch.Tensor) -> np.ndarray:
    """The same as float16, which the search takes, some rows at a time."""
    parts = (vectors[start : start + ROWS] for start in range(0, len(vectors), ROWS))
    return np.concatenate([moved(part, weights).numpy().astype(np.float16) for part in parts])
