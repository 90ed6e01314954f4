"""Choose the synthetic texts that are worth mapping, and lay them out document by document.

Reads data/DATASET/corpus/, data/DATASET/generated/ and prompts/DATASET/student.md. Writes
data/DATASET/filtered/: documents.txt (ids; those that may be written for, and the empty ones, in the order of
the corpus), raw_rewrites.txt (one text a line) and start_indices.npy (document i owns the lines from start[i]
to start[i + 1]); reports/DATASET/figures/filter_samples.json shows some of the texts that each filter
dropped. The filters work in the order of their knobs, each on what is left: docs/kinds/xc/filters.md.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import isnan
from pathlib import Path

import numpy as np

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, iter_jsonl, verify_manifest, write_json, write_text
from stages.core.prompts import Template
from stages.core.shards import iter_generated
from stages.kinds.xc import places
from stages.kinds.xc.knobs import FilterKnobs
from stages.kinds.xc.parts import filters
from stages.kinds.xc.parts.filters import Texts, answers, joined
from stages.kinds.xc.parts.tasks import TASKS
from stages.retrieval.knobs import method_of
from stages.sources.near import near_repeated

FIELDS = ("id", "title", "text", "metadata", "split")
QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def run(dataset: str, knobs: FilterKnobs) -> dict:
    written = gather(dataset, knobs)
    for name, judge in among_all(dataset, knobs).items():
        kept = written.kept()
        written.drop(name, kept[judge(written, kept)])
    kept = written.kept()
    if not len(kept):
        why = ", ".join(f"{name} {count}" for name, count in written.dropped().items())
        raise UserError(
            f"{layout.generated(dataset)}: not one of {len(written.texts)} texts is left to map ({why})"
        )
    starts = write(places.filtered(dataset), written, kept)
    write_json(layout.figures(dataset) / "filter_samples.json", written.samples())
    return statistics(written, starts, kept)


def gather(dataset: str, knobs: FilterKnobs) -> Texts:
    """Read documents and rows side by side; what one document's texts tell is decided here."""
    verify_manifest(layout.corpus(dataset))
    written, source = Texts(), layout.generated(dataset)
    rows = iter_generated(source, ["text", "logprob", "line_logprobs"])
    judges, lines = of_document(dataset, knobs), TASKS[knobs.task].lines
    needed = knobs.min_logprob is not None or knobs.logprob_share < 1
    for document, document_rows in joined(documents(dataset), rows, source):
        texts = list(answers(document_rows, lines))
        if needed and any(isnan(logprob) for _, logprob in texts):
            raise UserError(
                f"{source}: document {document['id']!r} has texts without log-probabilities, its engine gave "
                "none; leave out min_logprob and logprob_share, or generate with another engine"
            )
        if document_rows:
            written.written.append(len(written.documents))
        written.add(document, texts, judges)
    return written


def documents(dataset: str) -> Iterator[dict]:
    """Those that own a segment, empty ones among them, in the order of their ids."""
    rows = iter_jsonl(layout.corpus(dataset) / "documents.jsonl", FIELDS)
    return (document for document in rows if document["split"] != "xc_test")


def of_document(dataset: str, knobs: FilterKnobs) -> dict[str, Callable]:
    """The filters that look at one document: (its texts, itself) → for each text why it goes, or nothing."""
    chosen: dict[str, Callable] = {}
    if knobs.well_formed:
        reject = TASKS[knobs.task].reject
        chosen["malformed"] = lambda texts, document: [reject(text, document) for text in texts]
    if knobs.copies:
        template = Template(layout.prompt(dataset, "student"))
        title = knobs.task == "queries"  # an article's title may be the name of its category
        chosen["copies"] = partial(filters.copied, template=template, title=title)
    if knobs.duplicates:
        chosen["duplicates"] = lambda texts, _: filters.repeated(texts)
    if knobs.near_duplicates:
        chosen["near_duplicates"] = lambda texts, _: near_repeated(texts, knobs.near_duplicates)
    return chosen


def among_all(dataset: str, knobs: FilterKnobs) -> dict[str, Callable[[Texts, np.ndarray], np.ndarray]]:
    """The filters that compare all texts: (all, numbers of those left) → bool, which of the latter go."""
    chosen: dict[str, Callable] = {}
    if knobs.min_logprob is not None:
        chosen["min_logprob"] = lambda written, left: np.asarray(written.logprobs)[left] < knobs.min_logprob
    if knobs.logprob_share < 1:
        chosen["logprob_share"] = lambda written, left: filters.below_share(
            np.asarray(written.logprobs)[left], knobs.logprob_share
        )
    if knobs.round_trip:
        chosen["round_trip"] = partial(inconsistent, dataset, knobs)
    return chosen


def inconsistent(dataset: str, knobs: FilterKnobs, written: Texts, left: np.ndarray) -> np.ndarray:
    """Which of the texts do not lead back to their document."""
    searched, page_of = filters.pages(d for d in documents(dataset) if d["split"] != "empty")
    texts = [written.texts[number] for number in left]
    targets = [page_of[written.documents[written.places[number]]] for number in left]
    if method_of(knobs.round_trip_by, "round_trip_by", ("bm25", "tfidf")) == "bm25":
        return filters.lost_by_bm25(texts, targets, searched, knobs.round_trip)
    return filters.lost_by_vectors(texts, targets, searched, knobs.round_trip, knobs.round_trip_by)


def write(directory: Path, written: Texts, kept: np.ndarray) -> np.ndarray:
    """Write the texts that are left; returns where each document's begin."""
    places_kept = np.asarray(written.places)[kept]
    starts = np.searchsorted(places_kept, np.arange(len(written.documents) + 1)).astype(np.int64)
    files = {"documents.txt": written.documents, "raw_rewrites.txt": [written.texts[n] for n in kept]}
    with atomic_directory(directory, "filter", {name: len(own) for name, own in files.items()}) as temporary:
        np.save(temporary / "start_indices.npy", starts)
        for name, lines in files.items():
            write_text(temporary / name, "".join(f"{line}\n" for line in lines))
    return starts


def statistics(written: Texts, starts: np.ndarray, kept: np.ndarray) -> dict:
    counts, logprobs = np.diff(starts), np.asarray(written.logprobs)
    return {
        "documents": len(written.documents),
        "documents_written_for": len(written.written),
        "documents_with_texts": int((counts > 0).sum()),
        "lines": len(written.texts),
        "dropped": written.dropped(),
        "kept": len(kept),
        "malformed_by_reason": dict(sorted(written.reasons.items())),
        "kept_per_document": quantiles(counts[np.asarray(written.written)]),
        "logprob": {"kept": quantiles(logprobs[kept]), "dropped": quantiles(np.delete(logprobs, kept))},
    }


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """Mean and QUANTILES of those that are known; None if none is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    found = {"mean": known.mean(), **{name: np.quantile(known, share) for name, share in QUANTILES.items()}}
    return {name: round(float(value), 4) for name, value in found.items()}
