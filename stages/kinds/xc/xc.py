"""Train XC models on the original and on the augmented labels, and measure what the new ones bring.

Trains on `data/<dataset>/xc/`; of `data/<dataset>/corpus/` it reads which pages there are, to test on the
queries in people's wording of the file `eval_rows`, too. Writes `reports/<dataset>/figures/xc.json`, with the
same measures for both matrices, their difference with a paired bootstrap 95% interval over test points, and
all of it by how frequent labels are; and `plots/xc.json` beside it. Vectors of texts are kept in scratch
under a fingerprint of tower and texts. docs/kinds/xc/gain.md defines the measures.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from stages.core import layout
from stages.core.files import MANIFEST, iter_jsonl, prune, read_json, verify_manifest, write_json
from stages.core.hashing import sha256_json
from stages.core.messages import say
from stages.core.rows import lines
from stages.evaluation.people import PageQuery, by_kind, found, right_places
from stages.kinds.xc import places
from stages.kinds.xc.knobs import Model, XcKnobs
from stages.kinds.xc.parts.format.matrices import read_filters, read_matrix
from stages.kinds.xc.parts.measures import differences, holds, inverse_propensities, ratios, sums
from stages.kinds.xc.parts.models import plt, two_tower
from stages.kinds.xc.parts.people import read_queries
from stages.retrieval.encoders import embeddings, fingerprint, load
from stages.retrieval.knobs import Encoder

DEPTH = 100  # labels predicted for each test point
MATRICES = {"original": "trn_X_Y.npz", "augmented": "trn_X_Y_skim.npz"}
BUCKETS = ("head", "torso", "tail", "unseen")


class Data(NamedTuple):
    """What stage `pack` wrote; matrices are csr, (train or test points, labels)."""

    train: dict[str, list[str]]  # by matrix: the augmented one may have further points
    test: list[str]
    labels: list[str]
    matrices: dict[str, csr_matrix]
    truth: csr_matrix
    filtered: csr_matrix


class People(NamedTuple):
    """Queries in people's wording, and the labels that are right for each."""

    rows: list[PageQuery]
    right: list[list[int]]

    @property
    def queries(self) -> list[str]:
        return [row.query for row in self.rows]


def run(dataset: str, knobs: XcKnobs) -> dict:
    data = read(places.packed(dataset))
    people = read_people(dataset, Path(knobs.eval_rows))
    original = data.matrices["original"]
    inverse = inverse_propensities(original, knobs.propensity_a, knobs.propensity_b)
    frequencies = np.bincount(original.indices, minlength=len(data.labels))
    bucket_of = buckets(frequencies)
    figures = {}
    measurable = original.nnz and data.truth.nnz
    if not measurable:  # a dataset without observed queries, or with very few
        say(f"xc {dataset}: no pair to train on, or none to test; nothing is measured")
    for model in knobs.models if measurable else ():
        ranked = predict(dataset, model, data, people.queries, knobs)
        predicted = {which: without_filtered(own, data.filtered) for which, own in ranked.items()}
        figures[model] = {
            **compare(predicted, data.truth, inverse, knobs),
            "points": points(data),
            "buckets": {
                name: {
                    **compare(predicted, within(data.truth, bucket_of == place), inverse, knobs),
                    **extent(bucket_of == place, frequencies, data.truth),
                }
                for place, name in enumerate(BUCKETS)
            },
            "people": of_people(ranked, people, knobs),
        }
    write_json(layout.figures(dataset) / "plots" / "xc.json", bars(figures))
    return figures


def read(packed: Path) -> Data:
    """Raises UserError for files that are damaged or do not fit."""
    verify_manifest(packed)
    names = {"original": "trn_X", "augmented": "trn_X_skim", "test": "tst_X", "labels": "Y"}
    texts = {which: list(lines(packed / f"{name}.txt")) for which, name in names.items()}
    shape, warnings = (len(texts["test"]), len(texts["labels"])), Counter()
    matrices = {
        which: read_matrix(packed / name, (len(texts[which]), shape[1]), warnings)
        for which, name in MATRICES.items()
    }
    truth = read_matrix(packed / "tst_X_Y.npz", shape, warnings)
    pairs = read_filters(packed / "filter_labels_test.txt", shape, warnings)
    filtered = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape)
    train = {which: texts[which] for which in MATRICES}
    return Data(train, texts["test"], texts["labels"], matrices, truth, filtered)


def read_people(dataset: str, path: Path) -> People:
    """The rows of a file, none where it is empty. Raises UserError for a row that training has, too."""
    corpus = layout.corpus(dataset)
    rows = read_queries(path, corpus)
    if not rows:
        return People([], [])
    pages = {document["id"]: document["id"] for document in iter_jsonl(corpus / "documents.jsonl", ("id",))}
    return People(rows, right_places(path, rows, pages))


def predict(dataset: str, model: Model, data: Data, more: list[str], knobs: XcKnobs) -> dict[str, np.ndarray]:
    """By matrix, int (test points and the queries `more`, labels): labels, best first; -1 where none is left.

    So many are ranked that DEPTH are left of each test point when the filtered ones go.
    """
    depth = DEPTH + int(np.diff(data.filtered.indptr).max())
    asked, ranked = [*data.test, *more], {}
    if model == "plt":
        for which, matrix in data.matrices.items():
            say(f"xc {dataset}: a label tree on the {which} labels")
            ranked[which] = plt.predict(data.train[which], matrix, asked, depth, knobs.cost, knobs.seed)
        return ranked
    train, labels, queries = encoded(dataset, data, asked, knobs)
    for which, matrix in data.matrices.items():
        say(f"xc {dataset}: a retriever on the {which} labels")
        known, own = data.matrices["original"], train[: matrix.shape[0]]
        ranked[which] = two_tower.predict(own, labels, matrix, known, queries, depth, knobs)
    return ranked


def encoded(dataset: str, data: Data, asked: list[str], knobs: XcKnobs) -> list[np.ndarray]:
    """float16 (texts, dims), of length 1: vectors of the augmented matrix's points, of labels and `asked`."""
    texts = {"train": data.train["augmented"], "labels": data.labels, "asked": asked}
    cut = {name: [" ".join(text.split()[: knobs.words]) for text in own] for name, own in texts.items()}
    encoder = Encoder(encoder=knobs.tower, dims=knobs.dims)
    packed = read_json(places.packed(dataset) / MANIFEST)["files"]
    sources = [packed[f"{name}.txt"]["sha256"] for name in ("trn_X", "trn_X_skim", "Y")]
    basis = sha256_json([fingerprint(encoder), knobs.words, *sources, cut["asked"]])
    scratch = layout.SCRATCH / f"xc-{dataset}-{basis[:16]}"
    # TF-IDF is fitted without the synthetic points, to be the same for both matrices whatever was written
    model = load(encoder, [*cut["labels"], *cut["train"][: len(data.train["original"])]])
    vectors = [embeddings(model, own, "observed", scratch / f"{name}.npy") for name, own in cut.items()]
    prune(scratch, {scratch / f"{name}{suffix}" for name in cut for suffix in (".npy", ".rows")})
    return vectors


def without_filtered(ranked: np.ndarray, filtered: csr_matrix) -> np.ndarray:
    """Int (test points, at most DEPTH): the first rows of `ranked` without the filtered labels."""
    predicted = ranked[: filtered.shape[0]].copy()
    rows = np.flatnonzero(np.diff(filtered.indptr))
    gone = holds(filtered[rows], predicted[rows])
    order = np.argsort(gone, axis=1, kind="stable")
    predicted[rows] = np.take_along_axis(np.where(gone, -1, predicted[rows]), order, axis=1)
    return predicted[:, :DEPTH]


def of_people(ranked: dict[str, np.ndarray], people: People, knobs: XcKnobs) -> dict[str, dict]:
    """How well people's queries, the last rows of `ranked`, find their pages, by matrix and kind of query."""
    if not people.rows:
        return {}
    values = {}
    for which, own in ranked.items():
        asked = own[len(own) - len(people.rows) :]
        right = [np.isin(labels, pages) for labels, pages in zip(asked, people.right, strict=True)]
        values[which] = found([1 + int(hit.argmax()) if hit.any() else np.inf for hit in right])
    values["difference"] = values["augmented"] - values["original"]
    return {name: by_kind(own, people.rows, knobs.bootstrap, knobs.seed) for name, own in values.items()}


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


def bars(figures: dict) -> list[dict]:
    """Rows for `dvc plots`: one a model, measure and matrix."""
    return [
        {"model": model, "measure": measure, "matrix": which, "value": value}
        for model, own in figures.items()
        for measure in own["original"]
        for which in MATRICES
        if (value := own[which][measure]) is not None
    ]
