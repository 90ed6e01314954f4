"""Train XC models on the original and on the augmented labels, and measure what the new ones bring.

Reads `data/<dataset>/xc/` and nothing else; writes `reports/<dataset>/figures/xc.json`, with the same
measures for both matrices, their difference with a paired bootstrap 95% interval over test points, and all of
it by how frequent labels are; and `plots/xc.json` beside it. docs/kinds/xc/gain.md defines both.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from stages.core import layout
from stages.core.files import verify_manifest, write_json
from stages.core.rows import lines
from stages.kinds.xc import places
from stages.kinds.xc.knobs import Model, XcKnobs
from stages.kinds.xc.parts.format.matrices import read_filters, read_matrix
from stages.kinds.xc.parts.measures import differences, holds, inverse_propensities, ratios, sums
from stages.kinds.xc.parts.models import plt, two_tower

DEPTH = 100  # labels predicted for each test point
MATRICES = {"original": "trn_X_Y.npz", "augmented": "trn_X_Y_skim.npz"}
BUCKETS = ("head", "torso", "tail", "unseen")


class Data(NamedTuple):
    """What stage `pack` wrote; matrices are csr, (train or test points, labels)."""

    train: list[str]
    test: list[str]
    labels: list[str]
    matrices: dict[str, csr_matrix]
    truth: csr_matrix
    filtered: csr_matrix


def run(dataset: str, knobs: XcKnobs) -> dict:
    data = read(places.packed(dataset))
    original = data.matrices["original"]
    inverse = inverse_propensities(original, knobs.propensity_a, knobs.propensity_b)
    frequencies = np.bincount(original.indices, minlength=len(data.labels))
    bucket_of = buckets(frequencies)
    found = {}
    measurable = original.nnz and data.truth.nnz
    if not measurable:  # a dataset without observed queries, or with very few
        print(f"xc {dataset}: no pair to train on, or none to test; nothing is measured", file=sys.stderr)
    for model in knobs.models if measurable else ():
        predicted = {}
        for which, matrix in data.matrices.items():
            print(f"xc {dataset}: {model} on the {which} labels", file=sys.stderr)
            predicted[which] = predict(model, data, matrix, knobs)
        found[model] = {
            **compare(predicted, data.truth, inverse, knobs),
            "points": points(data),
            "buckets": {
                name: {
                    **compare(predicted, within(data.truth, bucket_of == place), inverse, knobs),
                    **extent(bucket_of == place, frequencies, data.truth),
                }
                for place, name in enumerate(BUCKETS)
            },
        }
    write_json(layout.figures(dataset) / "plots" / "xc.json", bars(found))
    return found


def read(packed: Path) -> Data:
    """Raises UserError for files that are damaged or do not fit."""
    verify_manifest(packed)
    train, test, labels = (list(lines(packed / f"{name}.txt")) for name in ("trn_X", "tst_X", "Y"))
    shape, warnings = (len(test), len(labels)), Counter()
    matrices = {
        which: read_matrix(packed / name, (len(train), len(labels)), warnings)
        for which, name in MATRICES.items()
    }
    truth = read_matrix(packed / "tst_X_Y.npz", shape, warnings)
    pairs = read_filters(packed / "filter_labels_test.txt", shape, warnings)
    filtered = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape)
    return Data(train, test, labels, matrices, truth, filtered)


def predict(model: Model, data: Data, matrix: csr_matrix, knobs: XcKnobs) -> np.ndarray:
    """Int (test points, at most DEPTH): labels, best first, less filtered ones; -1 where there are none."""
    depth = DEPTH + int(np.diff(data.filtered.indptr).max())  # so many are left when the filtered ones go
    if model == "plt":
        found = plt.predict(data.train, matrix, data.test, depth, knobs.cost, knobs.seed)
    else:
        found = two_tower.predict(data.train, matrix, data.labels, data.test, depth, knobs)
    rows = np.flatnonzero(np.diff(data.filtered.indptr))
    gone = holds(data.filtered[rows], found[rows])
    order = np.argsort(gone, axis=1, kind="stable")
    found[rows] = np.take_along_axis(np.where(gone, -1, found[rows]), order, axis=1)
    return found[:, :DEPTH]


def compare(predicted: dict[str, np.ndarray], truth: csr_matrix, inverse, knobs: XcKnobs) -> dict:
    before, totals = sums(predicted["original"], truth, inverse)
    after, _ = sums(predicted["augmented"], truth, inverse)
    return {
        "original": ratios(before, totals),
        "augmented": ratios(after, totals),
        "difference": differences(before, after, totals, knobs.bootstrap, knobs.seed),
    }


def buckets(frequencies: np.ndarray) -> np.ndarray:
    """Int (labels,): the place in BUCKETS of each label, by its number of original training points.

    A label is in the head if the labels at least as frequent, itself among them, hold at most a third of all
    training pairs; in the torso if at most two thirds; in the tail otherwise. Labels of one frequency are
    always together.
    """
    known, place, count = np.unique(frequencies, return_inverse=True, return_counts=True)
    held = np.cumsum((known * count)[::-1])[::-1][place] * 3
    total = frequencies.sum()
    tail = np.where(held <= total, 0, np.where(held <= 2 * total, 1, 2))
    return np.where(frequencies == 0, BUCKETS.index("unseen"), tail)


def within(truth: csr_matrix, chosen: np.ndarray) -> csr_matrix:
    """`truth` with the labels in `chosen` alone."""
    made = truth.copy()
    made.data = made.data * chosen[made.indices]
    made.eliminate_zeros()
    return made


def extent(chosen: np.ndarray, frequencies: np.ndarray, truth: csr_matrix) -> dict:
    own = frequencies[chosen]
    return {
        "labels": len(own),
        "pairs": int(chosen[truth.indices].sum()),
        "frequency": [int(own.min()), int(own.max())] if len(own) else None,
    }


def points(data: Data) -> dict[str, int]:
    """Training points with a label in each matrix, and test points: those scored and those without labels."""
    labelled = {which: int((np.diff(matrix.indptr) > 0).sum()) for which, matrix in data.matrices.items()}
    scored = int((np.diff(data.truth.indptr) > 0).sum())
    return {**labelled, "test": scored, "test_without_labels": len(data.test) - scored}


def bars(found: dict) -> list[dict]:
    """Rows for `dvc plots`: one a model, measure and matrix."""
    return [
        {"model": model, "measure": measure, "matrix": which, "value": value}
        for model, own in found.items()
        for measure in own["original"]
        for which in MATRICES
        if (value := own[which][measure]) is not None
    ]
