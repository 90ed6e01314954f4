"""How well pages are found by what people type: queries from elsewhere, which no stage learns from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.core.files import iter_jsonl
from stages.core.records import Document
from stages.evaluation.people import PageQuery, by_kind, check_unseen, found, rank_of, read_rows, right_places
from stages.retrieval.bm25 import Bm25


def read_queries(path: Path, corpus: Path) -> list[PageQuery]:
    """The rows of a file, none where it is empty. Raises UserError for a row that training has, too."""
    rows = read_rows(path, PageQuery)
    if rows:
        check_unseen(path, [row.query for row in rows], training_texts(corpus))
    return rows


def training_texts(corpus: Path) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of all in a corpus that models learn from or settings are chosen by."""
    for name, splits in (("documents", ("train", "val")), ("queries", ("train",))):
        for row in iter_jsonl(corpus / f"{name}.jsonl", ("id", "text", "split")):
            if row["split"] in splits:
                yield f"{corpus / name}.jsonl, {row['id']!r}", row["text"]


def found_by_bm25(
    path: Path,
    rows: Sequence[PageQuery],
    documents: Sequence[Document],
    index: Bm25,
    resamples: int,
    seed: int,
) -> dict[str, dict]:
    """How well the rows of a file find their pages by an index over `documents`, by kind of query.

    `page` counts a query's own pages alone; `near_duplicate` also those of their groups, which hold aliases,
    but families of a hundred pages, too. Raises UserError for an unknown page.
    """
    groups = {
        "page": {document["id"]: document["id"] for document in documents},
        "near_duplicate": {
            document["id"]: document["metadata"].get("group", document["id"]) for document in documents
        },
    }
    right = {name: right_places(path, rows, own) for name, own in groups.items()}
    ranks: dict[str, list[int]] = {name: [] for name in groups}
    for place, row in enumerate(rows):
        scores = index.scores(row.query)
        for name, places in right.items():
            ranks[name].append(rank_of(scores, places[place]))
    return {name: by_kind(found(own), rows, resamples, seed) for name, own in ranks.items()}
