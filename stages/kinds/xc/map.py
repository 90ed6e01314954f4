"""Map synthetic texts to observed ones: new labels where the observed pairs do not know of any.

Reads data/DATASET/corpus/ and data/DATASET/filtered/. Writes data/DATASET/mapped/: trn_X_Y_skim.npz,
training points x labels with the pairs known for training (1) and those found (their similarity);
trn_X_Y.npz without the latter; X.txt and Y.txt (ids of rows and columns). Step 2 of SKIM, in either
direction: a synthetic query leads to queries like it, which are new points of its document's label; a
synthetic label to labels like it, which are new labels of its document. Vectors are kept in scratch under a
fingerprint of encoder and texts: a stopped run goes on where it was. What is counted, and how, is in
docs/kinds/xc/mapping.md.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import save_npz

from stages.core import layout
from stages.core.files import (
    MANIFEST,
    atomic_directory,
    prune,
    read_json,
    verify_manifest,
    write_text,
)
from stages.core.hashing import sha256_json
from stages.core.messages import say
from stages.core.progress import Progress
from stages.core.rows import lines, records
from stages.kinds.xc import places
from stages.kinds.xc.knobs import MapKnobs
from stages.kinds.xc.parts.mapping import (
    NeighbourPairs,
    Shape,
    augmented,
    check_ids,
    matrix,
    read_pairs,
    statistics,
)
from stages.retrieval.encoders import embeddings, fingerprint, finished, load
from stages.retrieval.knobs import Encoder
from stages.retrieval.neighbours import neighbours


def run(dataset: str, knobs: MapKnobs) -> dict:
    corpus, filtered = layout.corpus(dataset), places.filtered(dataset)
    verify_manifest(corpus)
    verify_manifest(filtered)
    queries, documents = ids(corpus / "queries.jsonl"), ids(corpus / "documents.jsonl")
    shape = Shape(read_json(corpus / "shape.json")["points"], len(queries), len(documents))
    clicks, hidden = read_pairs(corpus / "pairs.jsonl", queries, documents, shape, ("train", "hidden"))
    check_ids(filtered / "documents.txt", documents, corpus, "filter")
    starts = np.load(filtered / "start_indices.npy")
    collected = NeighbourPairs(shape, starts, knobs.threshold)
    if queries:
        add_neighbours(collected, dataset, knobs)
    else:
        say(f"map {dataset}: no observed text to map to; the matrices hold nothing")
    pairs, values = collected.pairs()
    after, weights = augmented(clicks, pairs, values)
    x, y = (queries, documents) if shape.points == "queries" else (documents, queries)
    with atomic_directory(places.mapped(dataset), "map", {"X.txt": len(x), "Y.txt": len(y)}) as directory:
        save_npz(directory / "trn_X_Y_skim.npz", matrix(after, weights, shape.matrix))
        save_npz(directory / "trn_X_Y.npz", matrix(clicks, np.ones(len(clicks)), shape.matrix))
        for name, ids_of_axis in (("X.txt", x), ("Y.txt", y)):
            write_text(directory / name, "".join(f"{line}\n" for line in ids_of_axis))
    figures = statistics(shape, clicks, pairs, after, starts, hidden)
    return {"threshold": knobs.threshold, **figures, **collected.figures()}


def training(path: Path) -> Iterator[dict]:
    """The rows of a corpus file that training may see: no test point of either kind."""
    unseen = "xc_test" if path.name == "documents.jsonl" else "test"
    return (row for _, row in records(path) if row["split"] != unseen)


def ids(path: Path) -> list[str]:
    return [row["id"] for row in training(path)]


def add_neighbours(collected: NeighbourPairs, dataset: str, knobs: MapKnobs) -> None:
    """Encode both sides, and add the nearest queries of each synthetic text to `collected`."""
    scratch, files = kept(dataset, knobs)
    observed, synthetic = vectors(dataset, knobs, files, collected.shape.queries, int(collected.starts[-1]))
    k = min(knobs.top_k, len(observed))
    with Progress(len(synthetic), f"map {dataset}", "text") as shown:
        for first, indices, cosines in neighbours(synthetic, observed, k, knobs):
            collected.add(first, indices, cosines)
            shown.update(len(indices))
    prune(scratch, {file.with_suffix(suffix) for file in files for suffix in (".npy", ".rows")})


def kept(dataset: str, knobs: Encoder) -> tuple[Path, list[Path]]:
    """The scratch directory of this encoder and observed texts, and the files of vectors in it."""
    corpus = read_json(layout.corpus(dataset) / MANIFEST)["files"]
    fitted = ("documents.jsonl",) if not knobs.is_model else ()
    basis = [fingerprint(knobs), *(corpus[name]["sha256"] for name in ("queries.jsonl", *fitted))]
    scratch = layout.SCRATCH / f"map-{dataset}-{sha256_json(basis)[:16]}"
    texts = read_json(places.filtered(dataset) / MANIFEST)["files"]["raw_rewrites.txt"]["sha256"]
    return scratch, [scratch / "observed.npy", scratch / f"synthetic-{texts[:16]}.npy"]


def vectors(
    dataset: str, knobs: Encoder, files: list[Path], observed: int, synthetic: int
) -> list[np.ndarray]:
    """float16 unit rows of the observed and of the synthetic texts."""
    made = [finished(file) for file in files]
    if any(one is None for one in made):
        corpus = layout.corpus(dataset)
        model = load(knobs, texts_to_fit(corpus))
        texts = (row["text"] for row in training(corpus / "queries.jsonl"))
        made = [
            embeddings(model, texts, "observed", files[0], observed),
            embeddings(
                model, lines(places.filtered(dataset) / "raw_rewrites.txt"), "synthetic", files[1], synthetic
            ),
        ]
    return made


def texts_to_fit(corpus: Path) -> Iterator[str]:
    for document in training(corpus / "documents.jsonl"):
        yield f"{document['title']}\n{document['text']}"
    for query in training(corpus / "queries.jsonl"):
        yield query["text"]
