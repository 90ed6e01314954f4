"""Map synthetic queries to observed ones: new labels for queries whose documents the log does not know.

Reads `data/<dataset>/corpus/` and `data/<dataset>/generated/`; writes `data/<dataset>/mapped/`:
`trn_X_Y_skim.npz`, observed queries × documents with the pairs known for training (1) and those found
(their similarity); `trn_X_Y.npz` without the latter; `X.txt` and `Y.txt` (ids of rows and columns);
`raw_rewrites.txt` (one synthetic query a line) and `start_indices.npy` (document i owns the lines from
start[i] to start[i + 1]). Step 2 of SKIM; what is counted, and how, is in docs/mapping.md.
"""

import sys
from collections.abc import Iterable

from pydantic import Field

from stages.support import layout
from stages.support.cli import Knobs, stage
from stages.support.errors import UserError

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95)
BINS = 40


class MapKnobs(Knobs):
    encoder: str = Field("tfidf", description="tfidf, or a sentence-transformers directory or hub id")
    dims: int = Field(256, gt=0, description="dimensions of TF-IDF's latent semantic analysis")
    top_k: int = Field(10, gt=0, description="observed queries looked at for each synthetic one")
    threshold: float = Field(0.8, ge=0, le=1, description="least similarity (cosine + 1) / 2 of a new pair")


@stage("map", MapKnobs)
def command(dataset: str, knobs: MapKnobs) -> dict:
    import numpy as np
    from scipy.sparse import save_npz

    from stages.retrieval.encoders import encode
    from stages.retrieval.neighbours import nearest
    from stages.support.files import atomic_directory, read_jsonl, verify_manifest, write_text
    from stages.support.shards import read_generated

    corpus = layout.corpus(dataset)
    verify_manifest(corpus)
    documents = read_jsonl(corpus / "documents.jsonl", ("id", "title", "text"))
    queries = read_jsonl(corpus / "queries.jsonl", ("id", "text"))
    if not queries:
        print(f"map {dataset}: no observed queries to map to; the matrices have no rows", file=sys.stderr)
    x, y = [query["id"] for query in queries], [document["id"] for document in documents]
    known, hidden = pair_places(read_jsonl(corpus / "pairs.jsonl"), x, y, str(corpus / "pairs.jsonl"))
    rewrites, starts = segments(read_generated(layout.generated(dataset)), y)
    texts = [query["text"] for query in queries]
    fit = [f"{document['title']}\n{document['text']}" for document in documents] + texts
    if x:
        observed, synthetic = encode(knobs.encoder, knobs.dims, fit, texts, rewrites)
        indices, cosines = nearest(synthetic, observed, min(knobs.top_k, len(x)))
    else:
        indices = cosines = np.zeros((len(rewrites), 0))
    similar = similarity(cosines)
    rows, columns, values = new_pairs(indices, similar, starts, knobs.threshold)
    clicks = matrix(known, np.ones(len(known)), (len(x), len(y)))
    skim = augmented(clicks, rows, columns, values)
    with atomic_directory(layout.mapped(dataset), producer="map") as directory:
        save_npz(directory / "trn_X_Y_skim.npz", skim)
        save_npz(directory / "trn_X_Y.npz", clicks)
        np.save(directory / "start_indices.npy", starts)
        for name, lines in (("X.txt", x), ("Y.txt", y), ("raw_rewrites.txt", rewrites)):
            write_text(directory / name, "".join(f"{line}\n" for line in lines))
    found = statistics(clicks, skim, rows, columns, similar, starts, hidden)
    return {"threshold": knobs.threshold, **found}


def pair_places(pairs: Iterable[dict], x: list[str], y: list[str], source: str) -> tuple[list, list]:
    """(row, column) of the training pairs and of the held-out ones. Raises UserError for an unknown id."""
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (x, y))
    known, hidden = [], []
    for number, pair in enumerate(pairs, start=1):
        for field, places in (("query_id", row_of), ("document_id", column_of)):
            if pair[field] not in places:
                raise UserError(f"{source}, row {number}: {field} {pair[field]!r} is not in the corpus")
        place = (row_of[pair["query_id"]], column_of[pair["document_id"]])
        (hidden if pair["split"] == "test" else known).append(place)
    return known, hidden


def segments(generated: Iterable[dict], y: list[str]) -> tuple[list[str], "np.ndarray"]:  # noqa: F821
    """The synthetic queries document by document, each once a document, and where each segment starts.

    `generated` is sorted by document and sample; `starts` is int64 (|Y| + 1), ends at the number of rewrites,
    and a document without generated rows has an empty segment. Raises UserError for an id not in `y`.
    """
    import numpy as np

    place_of = {name: place for place, name in enumerate(y)}
    own: list[dict[str, str]] = [{} for _ in y]
    for row in generated:
        if row["document_id"] not in place_of:
            raise UserError(
                f"generated: document {row['document_id']!r} is not in the corpus; run generate again"
            )
        for query in row["queries"]:
            own[place_of[row["document_id"]]].setdefault(query.casefold(), query)
    starts = np.zeros(len(y) + 1, dtype=np.int64)
    np.cumsum([len(queries) for queries in own], out=starts[1:])
    rewrites = [query for queries in own for query in queries.values()]
    assert starts[0] == 0 and (np.diff(starts) >= 0).all() and starts[-1] == len(rewrites)
    if not rewrites:
        raise UserError("generated: not one synthetic query to map; see the generate stage's report")
    return rewrites, starts


def similarity(cosines):
    """Cosines as similarities between 0 and 1; float64."""
    import numpy as np

    return (np.clip(cosines, -1, 1, dtype=np.float64) + 1) / 2


def new_pairs(indices, similar, starts, threshold: float) -> tuple:
    """Rows (observed queries), columns (documents) and values of the pairs found; sorted, each pair once.

    `indices` and `similar` (rewrites, k) are the neighbours of each rewrite. Those at least `threshold`
    similar to any rewrite of a document are paired with it, at the similarity of the nearest rewrite.
    """
    import numpy as np

    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    kept = similar >= threshold
    rows, columns = indices[kept].astype(np.int64), np.broadcast_to(owner[:, None], kept.shape)[kept]
    values = similar[kept]
    order = np.lexsort((-values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    return rows[first], columns[first], values[first]


def matrix(places: list[tuple[int, int]], values, shape: tuple[int, int]):
    """A canonical float32 csr matrix."""
    import numpy as np
    from scipy.sparse import csr_matrix

    places = np.array(places, dtype=np.int64).reshape(-1, 2)
    made = csr_matrix((np.asarray(values, dtype=np.float32), (places[:, 0], places[:, 1])), shape=shape)
    made.sum_duplicates()
    made.data = made.data.clip(0, 1)
    made.eliminate_zeros()
    return made


def augmented(clicks, rows, columns, values):
    """Clicks and found pairs as one matrix in [0, 1]: a click stays 1."""
    import numpy as np

    made = clicks + matrix(np.stack([rows, columns], axis=1), values, clicks.shape)
    made.data = made.data.clip(0, 1)
    made.sort_indices()
    made.eliminate_zeros()
    return made


def statistics(clicks, skim, rows, columns, similar, starts, hidden: list[tuple[int, int]]) -> dict:
    """What the mapping found; `hidden` are true pairs that it was not shown."""
    import numpy as np

    points, labels = clicks.shape
    known = _holds(clicks, rows, columns)
    new = np.bincount(rows[~known], minlength=points)
    written = np.diff(starts) > 0
    points_hidden, labels_hidden = np.array(hidden, dtype=np.int64).reshape(-1, 2).T
    found = _holds(skim, points_hidden, labels_hidden)
    reachable = found[written[labels_hidden]]
    clicked = found[np.diff(clicks.indptr)[points_hidden] > 0]
    counts, _ = np.histogram(similar, bins=BINS, range=(0, 1))
    return {
        "queries": points,
        "documents": labels,
        "rewrites": int(starts[-1]),
        "documents_with_rewrites": int(written.sum()),
        "pairs_before": int(clicks.nnz),
        "pairs_found": len(rows),
        "pairs_already_known": int(known.sum()),
        "pairs_added": int((~known).sum()),
        "pairs_after": int(skim.nnz),
        "new_per_query": _share(new),
        "queries_with_new": _share(new > 0),
        "documents_with_new": _round(len(np.unique(columns[~known])) / labels),
        "kept_share": {f"{bound:.2f}": _share((similar >= bound).ravel()) for bound in THRESHOLDS},
        "score_histogram": {"edges": [_round(b / BINS) for b in range(BINS + 1)], "counts": counts.tolist()},
        "held_out": {
            "pairs": len(hidden),
            "recovered": int(found.sum()),
            "recovered_share": _share(found),
            "share_by_chance": _round((~known).sum() / max(points * labels - clicks.nnz, 1)),
            "pairs_with_rewrites": len(reachable),
            "recovered_share_with_rewrites": _share(reachable),
            "pairs_of_clicked_queries": len(clicked),
            "recovered_share_of_clicked_queries": _share(clicked),
        },
    }


def _holds(pairs, rows, columns):
    import numpy as np

    return np.asarray(pairs[rows, columns]).ravel() > 0 if len(rows) else np.zeros(0, dtype=bool)


def _share(values) -> float | None:
    return _round(values.mean()) if len(values) else None


def _round(value) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    command()
