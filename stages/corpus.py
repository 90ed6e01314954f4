"""Read a dataset and split it: documents, queries and observed (query, document) pairs.

Reads the installed packages (`source: pydoc`) or a folder of JSONL, JSON, Parquet or CSV files
(`source: folder`: docs/guide/datasets.md). Writes `data/<dataset>/corpus/`: documents.jsonl, queries.jsonl,
pairs.jsonl, shape.json and a manifest, sorted by id: the same bytes whatever the order of the source rows.
Near-duplicate documents share a split; a document's split is a hash of its group, so new documents do not
move old ones unless they join their group.
"""

from collections import Counter, defaultdict
from typing import Literal

from pydantic import Field

from stages.core.stage import Knobs, stage


class CorpusKnobs(Knobs):
    source: Literal["pydoc", "folder"] = Field("folder", description="installed packages or a folder")
    path: str | None = Field(None, description="the folder")
    documents: str = Field("documents.*", description="file or glob in the folder")
    queries: str | None = Field(None, description="file or glob of queries; default: queries.* if any")
    id_field: str | None = Field(None, description="default: id, else a hash of the text")
    text_field: str = Field("text", description="the document's text; dotted paths walk objects and lists")
    title_field: str | None = Field(None, description="default: title, else the first words of the text")
    query_field: str = Field("query", description="a query row's text or texts")
    document_field: str = Field("document_id", description="the documents a query row is about")
    repeated_id: Literal["error", "join", "parts"] = Field("error", description="rows with the same id")
    skip_share: float = Field(0.01, ge=0, le=1, description="largest share of unusable rows to leave out")
    val_share: float = Field(0.03, ge=0, lt=0.5)
    test_share: float = Field(0.05, ge=0, lt=0.5, description="held-out documents")
    test_queries: float = Field(0.15, ge=0, lt=1, description="share of queries kept for testing XC models")
    hidden_pairs: float = Field(
        0.1, ge=0, lt=1, description="share of the other queries' pairs kept out of training"
    )


@stage("corpus", CorpusKnobs)
def command(dataset: str, knobs: CorpusKnobs) -> dict:
    from stages.core import layout
    from stages.core.files import atomic_directory, write_json, write_jsonl
    from stages.sources.splits import near_duplicate_groups, split_of

    skipped = {"documents": 0, "pairs": 0}
    if knobs.source == "pydoc":
        from stages.sources.pydoc import read_pydoc

        documents, queries, pairs = read_pydoc()
    else:
        from stages.sources.folder import read_folder

        own = {"source", "val_share", "test_share", "test_queries", "hidden_pairs"}
        options = knobs.model_dump(exclude=own)
        documents, queries, pairs, skipped = read_folder(**options)
    documents.sort(key=lambda document: document["id"])
    groups = near_duplicate_groups(documents)
    documents = [
        {
            **{key: document[key] for key in ("id", "title", "text")},
            "metadata": {**document["metadata"], "group": group},
            "split": split_of(group, knobs.val_share, knobs.test_share),
        }
        for document, group in zip(documents, groups, strict=True)
    ]
    queries, pairs = merge_queries(queries, pairs)
    queries = split_queries(queries, knobs.test_queries)
    pairs = split_pairs(queries, pairs, knobs.hidden_pairs)
    show_known(documents, queries, pairs)
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", counts) as directory:
        for name, rows in (("documents", documents), ("queries", queries), ("pairs", pairs)):
            counts[f"{name}.jsonl"] = write_jsonl(directory / f"{name}.jsonl", rows)
        write_json(directory / "shape.json", {"points": "queries"})
    return statistics(documents, queries, pairs, skipped)


def merge_queries(queries: list[dict], pairs: list[dict]) -> tuple[list[dict], list[dict]]:
    """Queries whose text differs in case or white space only become one, with the documents of all."""
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for query in queries:
        same[" ".join(query["text"].casefold().split())].append((query["id"], query["text"]))
    merged = {name: min(alike) for alike in same.values() for name, _ in alike}
    kept = {(merged[pair["query_id"]][0], pair["document_id"]) for pair in pairs}
    return (
        [{"id": name, "text": text} for name, text in sorted(set(merged.values()))],
        [{"query_id": query, "document_id": document} for query, document in sorted(kept)],
    )


def split_queries(queries: list[dict], share: float) -> list[dict]:
    """Each query with its split: `test` for `share` of them, by hash, which no training sees, or `train`."""
    from stages.core.hashing import stable_unit

    return [
        {**query, "split": "test" if stable_unit("query", query["id"]) < share else "train"}
        for query in queries
    ]


def split_pairs(queries: list[dict], pairs: list[dict], share: float) -> list[dict]:
    """Each pair with its split: `test` for those of test queries, `hidden` for `share` of the others.

    A query keeps at least one pair for training: a hidden one is a label that is missing from a row which is
    not empty, as in a real log.
    """
    from stages.core.hashing import stable_unit

    testing = {query["id"] for query in queries if query["split"] == "test"}
    of_query: dict[str, list[tuple[float, dict]]] = defaultdict(list)
    for pair in pairs:
        of_query[pair["query_id"]].append((stable_unit("pair", pair["query_id"], pair["document_id"]), pair))
    rows = []
    for query, own in of_query.items():
        if query in testing:
            rows += [{**pair, "split": "test"} for _, pair in own]
            continue
        keep = max(unit for unit, _ in own)
        rows += [{**pair, "split": "hidden" if unit < min(share, keep) else "train"} for unit, pair in own]
    return sorted(rows, key=lambda row: (row["query_id"], row["document_id"]))


def show_known(documents: list[dict], queries: list[dict], pairs: list[dict]) -> None:
    """Leave only training queries in a document's `metadata.queries`, which prompts may show to a teacher."""
    text_of = {query["id"]: query["text"] for query in queries}
    known: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        if pair["split"] == "train":
            known[pair["document_id"]].append(text_of[pair["query_id"]])
    for document in documents:
        if "queries" in document["metadata"]:
            document["metadata"]["queries"] = known[document["id"]]


def statistics(documents: list[dict], queries: list[dict], pairs: list[dict], skipped: dict) -> dict:
    import numpy as np

    words = [len(document["text"].split()) for document in documents]
    shares = {"min": 0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1}
    groups = Counter(document["metadata"]["group"] for document in documents)
    splits = Counter(document["split"] for document in documents)
    pair_splits = Counter(pair["split"] for pair in pairs)
    return {
        "documents": len(documents),
        "splits": {split: splits[split] for split in ("train", "val", "test")},
        "queries": len(queries),
        "pairs": len(pairs),
        "test_queries": sum(query["split"] == "test" for query in queries),
        "pair_splits": {split: pair_splits[split] for split in ("train", "hidden", "test")},
        "skipped": skipped,
        "words": {name: round(float(np.quantile(words, share)), 1) for name, share in shares.items()},
        "groups": len(groups),
        "largest_group": max(groups.values()),
        "near_duplicate_share": round(sum(size for size in groups.values() if size > 1) / len(documents), 4),
    }


if __name__ == "__main__":
    command()
