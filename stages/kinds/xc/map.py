"""Map synthetic texts to observed ones: new labels where the observed pairs do not know of any.

Reads data/DATASET/corpus/ and data/DATASET/filtered/. Writes data/DATASET/mapped/: trn_X_Y_skim.npz,
training points x labels with the pairs known for training (1) and those found (their similarity);
trn_X_Y.npz without the latter; X.txt and Y.txt (ids of rows and columns). Step 2 of SKIM, in either
direction: a synthetic query leads to queries like it, which are new points of its document's label; a
synthetic label to labels like it, which are new labels of its document. Vectors are kept in scratch under a
fingerprint of encoder and texts: a stopped run goes on where it was. What is counted, and how, is in
docs/kinds/xc/mapping.md.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import save_npz

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import (
    MANIFEST,
    atomic_directory,
    iter_jsonl,
    prune,
    read_json,
    verify_manifest,
    write_text,
)
from stages.core.hashing import sha256_json
from stages.core.progress import Progress
from stages.kinds.xc import places
from stages.kinds.xc.knobs import MapKnobs
from stages.kinds.xc.parts.mapping import Found, Shape, augmented, matrix, read_pairs, statistics
from stages.retrieval.encoders import embeddings, fingerprint, finished, load
from stages.retrieval.knobs import Encoder
from stages.retrieval.neighbours import neighbours


def run(dataset: str, knobs: MapKnobs) -> dict:
    corpus, filtered = layout.corpus(dataset), places.filtered(dataset)
    verify_manifest(corpus)
    verify_manifest(filtered)
    queries, documents = ids(corpus / "queries.jsonl"), ids(corpus / "documents.jsonl")
    shape = Shape(read_json(corpus / "shape.json")["points"], len(queries), len(documents))
    source = corpus / "pairs.jsonl"
    rows = iter_jsonl(source, ("query_id", "document_id", "split"))
    clicks, hidden = read_pairs(rows, queries, documents, shape, str(source))
    starts = segments(filtered, documents)
    found = Found(shape, starts, knobs.threshold)
    if queries:
        add_neighbours(found, dataset, knobs)
    else:
        print(f"map {dataset}: no observed text to map to; the matrices hold nothing", file=sys.stderr)
    pairs, values = found.pairs()
    after, weights = augmented(clicks, pairs, values)
    x, y = (queries, documents) if shape.points == "queries" else (documents, queries)
    with atomic_directory(places.mapped(dataset), "map", {"X.txt": len(x), "Y.txt": len(y)}) as directory:
        save_npz(directory / "trn_X_Y_skim.npz", matrix(after, weights, shape.matrix))
        save_npz(directory / "trn_X_Y.npz", matrix(clicks, np.ones(len(clicks)), shape.matrix))
        for name, lines in (("X.txt", x), ("Y.txt", y)):
            write_text(directory / name, "".join(f"{line}\n" for line in lines))
    figures = statistics(shape, clicks, pairs, after, starts, hidden)
    return {"threshold": knobs.threshold, **figures, **found.figures()}


def training(path: Path, fields: tuple[str, ...]) -> Iterator[dict]:
    """The rows of a corpus file that training may see: no test point of either kind."""
    unseen = "xc_test" if path.name == "documents.jsonl" else "test"
    return (row for row in iter_jsonl(path, (*fields, "split")) if row["split"] != unseen)


def ids(path: Path) -> list[str]:
    return [row["id"] for row in training(path, ("id",))]


def segments(filtered: Path, documents: list[str]) -> np.ndarray:
    """`start_indices.npy`, checked against the documents and the texts beside it."""
    starts = np.load(filtered / "start_indices.npy")
    redo = "it belongs to another corpus: run filter again"
    with open(filtered / "documents.txt", encoding="utf-8", newline="\n") as lines:
        own = [line.removesuffix("\n") for line in lines]
    if own != documents:
        place = next((n for n, (a, b) in enumerate(zip(own, documents, strict=False)) if a != b), None)
        what = f"{len(own)} documents, the corpus has {len(documents)}"
        if place is not None:
            what = f"line {place + 1} is {own[place]!r}, the corpus has {documents[place]!r}"
        raise UserError(f"{filtered / 'documents.txt'}: {what}; {redo}")
    count = sum(1 for _ in rewrites(filtered))
    whole = len(starts) == len(documents) + 1 and starts[0] == 0 and starts[-1] == count
    if not whole or (np.diff(starts) < 0).any():
        raise UserError(
            f"{filtered / 'start_indices.npy'}: expected {len(documents) + 1} places that rise from 0 to the "
            f"{count} lines of raw_rewrites.txt; run filter again"
        )
    return starts


def rewrites(filtered: Path) -> Iterator[str]:
    with open(filtered / "raw_rewrites.txt", encoding="utf-8", newline="\n") as lines:
        yield from (line.removesuffix("\n") for line in lines)


def add_neighbours(found, dataset: str, knobs: MapKnobs) -> None:
    """Encode both sides, and add the nearest queries of each synthetic text to `found`."""
    scratch, files = kept(dataset, knobs)
    observed, synthetic = vectors(dataset, knobs, files, found.shape.queries, int(found.starts[-1]))
    k = min(knobs.top_k, len(observed))
    with Progress(len(synthetic), f"map {dataset}", "text") as shown:
        for first, indices, cosines in neighbours(synthetic, observed, k, knobs):
            found.add(first, indices, cosines)
            shown.update(len(indices))
    prune(scratch, {file.with_suffix(suffix) for file in files for suffix in (".npy", ".rows")})


def kept(dataset: str, knobs: Encoder) -> tuple[Path, list[Path]]:
    """The scratch directory of this encoder and observed texts, and the files of vectors in it."""
    corpus = read_json(layout.corpus(dataset) / MANIFEST)["files"]
    fitted = ("documents.jsonl",) if knobs.encoder == "tfidf" else ()
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
        texts = (row["text"] for row in training(corpus / "queries.jsonl", ("text",)))
        made = [
            embeddings(model, texts, "observed", files[0], observed),
            embeddings(model, rewrites(places.filtered(dataset)), "synthetic", files[1], synthetic),
        ]
    return made


def texts_to_fit(corpus: Path) -> Iterator[str]:
    for document in training(corpus / "documents.jsonl", ("title", "text")):
        yield f"{document['title']}\n{document['text']}"
    for query in training(corpus / "queries.jsonl", ("text",)):
        yield query["text"]
