"""Step 2 of SKIM: the neighbours of synthetic texts become pairs of points and labels.

A pair is one number, row * columns + column of the matrix of points and labels, so that pairs sort and
compare as arrays: 10^8 of them are 0.8 GB. Segment i of the synthetic texts is that of document i.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from stages.core.errors import UserError
from stages.core.rows import lines, records

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}
BINS = 40

Points = Literal["queries", "documents"]


@dataclass(frozen=True)
class Shape:
    """Which of the two are the points, the rows of the matrix; the others are the labels, its columns."""

    points: Points
    queries: int
    documents: int

    @property
    def matrix(self) -> tuple[int, int]:
        both = (self.queries, self.documents)
        return both if self.points == "queries" else both[::-1]

    def pairs(self, queries, documents):
        """int64 pairs of places of queries and documents."""
        rows, columns = (queries, documents) if self.points == "queries" else (documents, queries)
        return np.asarray(rows, dtype=np.int64) * self.matrix[1] + columns

    def places(self, pairs) -> tuple:
        """The places of the queries and of the documents of `pairs`."""
        both = np.divmod(pairs, max(self.matrix[1], 1))
        return both if self.points == "queries" else both[::-1]


def similarity(cosines: np.ndarray) -> np.ndarray:
    """Cosines as similarities between 0 and 1; float64."""
    return (np.clip(cosines, -1, 1, dtype=np.float64) + 1) / 2


class NeighbourPairs:
    """Pairs at least `threshold` similar, gathered from blocks of neighbours, and counts of all seen.

    `starts` int64 (documents + 1): document i owns the synthetic texts from starts[i] to starts[i + 1].
    """

    def __init__(self, shape: Shape, starts: np.ndarray, threshold: float):
        self.shape, self.starts, self.threshold = shape, starts, threshold
        self.histogram, self.kept, self.seen = np.zeros(BINS, dtype=np.int64), dict.fromkeys(THRESHOLDS, 0), 0
        self.blocks: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, first: int, indices: np.ndarray, cosines: np.ndarray) -> None:
        """The neighbours (n, k) of the synthetic texts from `first` on: places of queries, -1 for none."""
        owners = np.searchsorted(self.starts, first + np.arange(len(indices)), side="right") - 1
        texts, ranks = np.nonzero(indices >= 0)
        similar = similarity(cosines[texts, ranks])
        self.seen += len(similar)
        self.histogram += np.histogram(similar, bins=BINS, range=(0, 1))[0]
        for bound in THRESHOLDS:
            self.kept[bound] += int((similar >= bound).sum())
        kept = (similar >= self.threshold) & (similar > 0)  # a pair of similarity 0 would be an explicit zero
        texts, ranks = texts[kept], ranks[kept]
        pairs = self.shape.pairs(indices[texts, ranks], owners[texts])
        self.blocks.append(strongest(pairs, similar[kept].astype(np.float32)))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs, sorted, each once, and float32 similarities: those of the document's nearest text."""
        empty = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        blocks, self.blocks = self.blocks, []
        return strongest(*(np.concatenate(part) for part in zip(empty, *blocks, strict=True)))

    def figures(self) -> dict:
        return {
            "kept_share": {
                f"{bound:.2f}": _round(count / self.seen) if self.seen else None
                for bound, count in self.kept.items()
            },
            "score_histogram": {
                "edges": [_round(edge / BINS) for edge in range(BINS + 1)],
                "counts": self.histogram.tolist(),
            },
        }


def strongest(pairs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted pairs, each once, at the largest of its values."""
    if not len(pairs):
        return pairs, values
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    return pairs[first], np.maximum.reduceat(values, first)


def matrix(pairs: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """Canonical float32 csr of sorted pairs that occur once."""
    rows, columns = np.divmod(pairs, max(shape[1], 1))
    pointers = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    canonical = csr_matrix((values.astype(np.float32), columns, pointers), shape=shape)
    canonical.has_canonical_format = True
    return canonical


def augmented(clicks: np.ndarray, pairs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted clicks and found pairs as one: their values added and cut at 1, so that a click stays 1."""
    new = ~among(pairs, clicks)
    joined = np.concatenate([clicks, pairs[new]])
    order = np.argsort(joined)
    ones = np.ones(len(clicks), dtype=np.float32)
    return joined[order], np.concatenate([ones, values[new].clip(0, 1)])[order]


def among(numbers: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Bool (numbers,): which of them occur in `ascending`; np.isin would sort both again."""
    if not len(ascending):
        return np.zeros(len(numbers), dtype=bool)
    places = np.searchsorted(ascending, numbers).clip(max=len(ascending) - 1)
    return ascending[places] == numbers


def check_ids(path: Path, ids: list[str], corpus: Path, stage: str) -> None:
    """Raise UserError where the lines of a file that `stage` made are not the `ids` of the corpus."""
    written = list(lines(path))
    for row, (one, other) in enumerate(zip(written, ids, strict=False), start=1):
        if one != other:
            raise UserError(
                f"{path}, row {row}: {one!r}, but {corpus} has {other!r} there; run the {stage} stage again"
            )
    if len(written) != len(ids):
        raise UserError(
            f"{path}: {len(written):,} rows, but {corpus} has {len(ids):,}; run the {stage} stage again"
        )


def read_pairs(
    path: Path, queries: Sequence[str], documents: Sequence[str], shape: Shape, splits: Sequence[str]
) -> list[np.ndarray]:
    """The pairs of each of `splits` in a file of rows; sorted, each once.

    `queries` and `documents` are the ids of what is in the matrix. Raises UserError for the first pair of
    another one.
    """
    place_of = {
        "query_id": {name: place for place, name in enumerate(queries)},
        "document_id": {name: place for place, name in enumerate(documents)},
    }
    places: dict = {split: {field: array("q") for field in place_of} for split in splits}
    for number, row in records(path):
        for field, columns in places.get(row["split"], {}).items():
            if row[field] not in place_of[field]:
                raise UserError(
                    f"{path}, row {number}: {field} {row[field]!r} of a {row['split']} pair is no point or "
                    "label of this split; run corpus again"
                )
            columns.append(place_of[field][row[field]])
    return [
        np.unique(shape.pairs(np.asarray(columns["query_id"]), np.asarray(columns["document_id"])))
        for columns in places.values()
    ]


def statistics(
    shape: Shape,
    clicks: np.ndarray,
    pairs: np.ndarray,
    after: np.ndarray,
    starts: np.ndarray,
    hidden: np.ndarray,
) -> dict:
    """What the mapping found: `pairs`, and `after`, with the clicks; `hidden` true pairs it was not shown."""
    new = pairs[~among(pairs, clicks)]
    queries, documents = shape.places(new)
    per_query = np.bincount(queries, minlength=shape.queries)
    per_document = np.bincount(documents, minlength=shape.documents)
    per_point = per_query if shape.points == "queries" else per_document
    written = np.diff(starts) > 0
    recovered = among(hidden, after)
    reachable = recovered[written[shape.places(hidden)[1]]]
    unknown = shape.queries * shape.documents - len(clicks)
    return {
        "points": shape.points,
        "queries": shape.queries,
        "documents": shape.documents,
        "rewrites": int(starts[-1]),
        "documents_with_rewrites": int(written.sum()),
        "pairs_before": len(clicks),
        "pairs_found": len(pairs),
        "pairs_already_known": len(pairs) - len(new),
        "pairs_added": len(new),
        "pairs_after": len(after),
        "new_per_query": _share(per_query),
        "queries_with_new": _share(per_query > 0),
        "documents_with_new": _share(per_document > 0),
        "new_per_point": {
            "mean": _share(per_point),
            **{
                name: _round(np.quantile(per_point, at)) if len(per_point) else None
                for name, at in QUANTILES.items()
            },
        },
        "hidden": {
            "pairs": len(hidden),
            "recovered": int(recovered.sum()),
            "recovered_share": _share(recovered),
            "share_by_chance": _round(len(new) / max(unknown, 1)),
            "pairs_with_rewrites": len(reachable),
            "recovered_share_with_rewrites": _share(reachable),
        },
    }


def _share(values: np.ndarray) -> float | None:
    return _round(values.mean()) if len(values) else None


def _round(value) -> float:
    return round(float(value), 4)
