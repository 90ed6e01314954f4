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
from stages.core.files import atomic_directory, iter_jsonl, verify_manifest, write_json
from stages.core.prompts import Template
from stages.core.shards import iter_generated
from stages.kinds.xc import places
from stages.kinds.xc.knobs import FilterKnobs
from stages.kinds.xc.parts import filters
from stages.kinds.xc.parts.filters import Sieve, answers, joined
from stages.kinds.xc.parts.tasks import TASKS
from stages.sources.near import near_repeated

FIELDS = ("id", "title", "text", "metadata", "split")
QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def run(dataset: str, knobs: FilterKnobs) -> dict:
    sieve = Sieve()
    gather(dataset, knobs, sieve)
    for name, judge in among_all(dataset, knobs).items():
        sieve.drop_all(name, judge(sieve))
    if not sieve.texts:
        why = ", ".join(f"{name} {count}" for name, count in sieve.dropped.items())
        raise UserError(f"{layout.generated(dataset)}: not one of {sieve.lines} texts is left to map ({why})")
    starts = write(places.filtered(dataset), sieve)
    write_json(layout.figures(dataset) / "filter_samples.json", sieve.samples())
    return statistics(sieve, starts)


def gather(dataset: str, knobs: FilterKnobs, sieve: Sieve) -> None:
    """Read documents and rows side by side; what one document's texts tell is decided here."""
    verify_manifest(layout.corpus(dataset))
    source = layout.generated(dataset)
    rows = iter_generated(source, ["text", "logprob", "line_logprobs"])
    judges, lines = of_document(dataset, knobs), TASKS[knobs.task].lines
    needed = knobs.min_logprob is not None or knobs.logprob_share < 1
    for document, own in joined(documents(dataset), rows, source):
        found = list(answers(own, lines))
        if needed and any(isnan(logprob) for _, logprob in found):
            raise UserError(
                f"{source}: document {document['id']!r} has texts without log-probabilities, its engine gave "
                "none; leave out min_logprob and logprob_share, or generate with another engine"
            )
        if own:
            sieve.written.append(len(sieve.documents))
        sieve.lines += len(found)
        for name, judge in judges.items():
            verdicts = judge([text for text, _ in found], document) if found else []
            for one, why in zip(found, verdicts, strict=True):
                if why:
                    sieve.drop(name, document["id"], *one, why)
            found = [one for one, why in zip(found, verdicts, strict=True) if not why]
        sieve.add(document["id"], found)


def documents(dataset: str) -> Iterator[dict]:
    """Those that own a segment, empty ones among them, in the order of their ids."""
    path, last = layout.corpus(dataset) / "documents.jsonl", ""
    for document in iter_jsonl(path, FIELDS):
        if document["id"] <= last:
            raise UserError(
                f"{path}: document {document['id']!r} is not in the order of ids; run corpus again"
            )
        last = document["id"]
        if document["split"] != "xc_test":
            yield document


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


def among_all(dataset: str, knobs: FilterKnobs) -> dict[str, Callable[[Sieve], np.ndarray]]:
    """The filters that compare all texts: a Sieve → which of its texts go."""

    chosen: dict[str, Callable] = {}
    if knobs.min_logprob is not None:
        chosen["min_logprob"] = lambda sieve: np.asarray(sieve.logprobs) < knobs.min_logprob
    if knobs.logprob_share < 1:
        chosen["logprob_share"] = lambda sieve: filters.below_share(
            np.asarray(sieve.logprobs), knobs.logprob_share
        )
    if knobs.round_trip:
        chosen["round_trip"] = partial(inconsistent, dataset, knobs)
    return chosen


def inconsistent(dataset: str, knobs: FilterKnobs, sieve: Sieve) -> np.ndarray:
    """Which texts do not lead back to their document."""
    searched, page_of = filters.pages(d for d in documents(dataset) if d["split"] != "empty")
    targets = [page_of[sieve.documents[place]] for place in sieve.places]
    if knobs.round_trip_by == "bm25":
        return filters.lost_by_bm25(sieve.texts, targets, searched, knobs.round_trip)
    scratch, encoder = layout.SCRATCH / f"filter-{dataset}", knobs.round_trip_by
    return filters.lost_by_vectors(sieve.texts, targets, searched, knobs.round_trip, encoder, scratch)


def write(directory: Path, sieve: Sieve) -> np.ndarray:
    """Write the texts that are left; returns where each document's begin."""

    starts = np.searchsorted(sieve.places, np.arange(len(sieve.documents) + 1)).astype(np.int64)
    files = {"documents.txt": sieve.documents, "raw_rewrites.txt": sieve.texts}
    rows = {name: len(lines) for name, lines in files.items()}
    with atomic_directory(directory, "filter", rows) as temporary:
        np.save(temporary / "start_indices.npy", starts)
        for name, lines in files.items():
            with open(temporary / name, "w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(f"{line}\n" for line in lines)
    return starts


def statistics(sieve: Sieve, starts: np.ndarray) -> dict:
    counts = np.diff(starts)
    return {
        "documents": len(sieve.documents),
        "documents_written_for": len(sieve.written),
        "documents_with_texts": int((counts > 0).sum()),
        "lines": sieve.lines,
        "dropped": sieve.dropped,
        "kept": len(sieve.texts),
        "malformed_by_reason": dict(sorted(sieve.reasons.items())),
        "kept_per_document": quantiles(counts[np.asarray(sieve.written)]),
        "logprob": {
            "kept": quantiles(np.asarray(sieve.logprobs)),
            "dropped": quantiles(np.asarray(sieve.dropped_logprobs)),
        },
    }


def quantiles(values: np.ndarray) -> dict[str, float] | None:
    """Mean and QUANTILES of those that are known; None if none is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    found = {"mean": known.mean(), **{name: np.quantile(known, share) for name, share in QUANTILES.items()}}
    return {name: round(float(value), 4) for name, value in found.items()}
