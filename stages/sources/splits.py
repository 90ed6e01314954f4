"""From what a source holds to a corpus: documents, observed queries and their pairs, each with its split."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.core.errors import UserError
from stages.core.files import write_json, write_jsonl
from stages.core.hashing import stable_unit
from stages.core.text import comparable, count_words
from stages.sources.near import near_duplicate_groups


class Shares(NamedTuple):
    """How much is held out: of the documents, of the queries, of the other queries' pairs.

    And from which similarity on documents are near-duplicates, which are held out together; 0: none is.
    """

    val_share: float
    test_share: float
    test_queries: float
    hidden_pairs: float
    near_duplicates: float


class Corpus(NamedTuple):
    """Rows sorted by id (pairs by query and document), each with its `split`."""

    documents: list[dict]
    queries: list[dict]
    pairs: list[dict]


def split_corpus(documents: list[dict], queries: list[dict], pairs: list[dict], shares: Shares) -> Corpus:
    """The corpus of what a source holds, the same whatever the order of its rows.

    Near-duplicate documents share a split; a document's split is a hash of its group, so new documents do
    not move old ones unless they join their group, or there are few groups. Raises UserError where nothing
    is left to train on or to measure with.
    """
    documents = sorted(documents, key=lambda document: document["id"])
    groups = near_duplicate_groups(documents, shares.near_duplicates)
    split_of = split_groups(Counter(groups), shares.val_share, shares.test_share)
    documents = [
        {
            **{key: document[key] for key in ("id", "title", "text")},
            "metadata": {**document["metadata"], "group": group},
            "split": split_of[group],
        }
        for document, group in zip(documents, groups, strict=True)
    ]
    queries, pairs = merge_queries(queries, pairs)
    queries = split_queries(queries, shares.test_queries)
    pairs = split_pairs(queries, pairs, shares.hidden_pairs)
    show_known(documents, queries, pairs)
    return Corpus(documents, queries, pairs)


def write_corpus(directory: Path, corpus: Corpus) -> dict[str, int]:
    """Write the files of data/<dataset>/corpus/; returns their numbers of rows."""
    write_json(directory / "shape.json", {"points": "queries"})
    rows_of = corpus._asdict()
    return {f"{name}.jsonl": write_jsonl(directory / f"{name}.jsonl", rows) for name, rows in rows_of.items()}


def merge_queries(queries: list[dict], pairs: list[dict]) -> tuple[list[dict], list[dict]]:
    """Queries of which people see the same text, in any case, become one, with the documents of all."""
    same: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for query in queries:
        same[" ".join(comparable(query["text"]).split())].append((query["id"], query["text"]))
    merged = {name: min(alike) for alike in same.values() for name, _ in alike}
    kept = {(merged[pair["query_id"]][0], pair["document_id"]) for pair in pairs}
    return (
        [{"id": name, "text": text} for name, text in sorted(set(merged.values()))],
        [{"query_id": query, "document_id": document} for query, document in sorted(kept)],
    )


def split_queries(queries: list[dict], share: float) -> list[dict]:
    """Each query with its split: `test` for `share` of them, by hash, which no training sees, or `train`."""
    return [
        {**query, "split": "test" if stable_unit("query", query["id"]) < share else "train"}
        for query in queries
    ]


def split_pairs(queries: list[dict], pairs: list[dict], share: float) -> list[dict]:
    """Each pair with its split: `test` for those of test queries, `hidden` for `share` of the others.

    A query keeps at least one pair for training: a hidden one is a label that is missing from a row which is
    not empty, as in a real log.
    """
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


def statistics(corpus: Corpus, skipped: dict[str, int]) -> dict:
    """The figures of a corpus; `skipped` counts the rows of the source that could not be used."""
    documents, queries, pairs = corpus
    words = [count_words(document["text"]) for document in documents]
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


def split_groups(sizes: Mapping[str, int], val_share: float, test_share: float) -> dict[str, str]:
    """The split of each group of documents, by hash.

    A split that stays empty, which a few groups leave to chance, gets the smallest group that another can
    spare; train the largest.
    """
    split_of = {group: split_of_group(group, val_share, test_share) for group in sizes}
    by_size = sorted(sizes, key=lambda group: (sizes[group], group))
    wanted = (("train", 1.0, by_size[::-1]), ("test", test_share, by_size), ("val", val_share, by_size))
    for split, share, order in wanted:
        filled = Counter(split_of.values())
        spare = next((group for group in order if filled[split_of[group]] > 1), None)
        if share and not filled[split] and spare is not None:
            split_of[spare] = split
    return split_of


def check_splits(figures: dict, test_share: float, mend: str) -> None:
    """Raise UserError where the documents in the `figures` of a corpus leave nothing to train on or to test.

    `mend` says which parameter to change.
    """
    splits = figures["splits"]
    if splits["train"] and (splits["test"] or not test_share):
        return
    counts = ", ".join(f"{splits[name]:,} {name}" for name in ("train", "val", "test"))
    raise UserError(
        f"no document is left for {'test' if splits['train'] else 'train'} ({counts}): those like each other "
        f"are held out together, and their groups are {figures['groups']:,}, the largest of "
        f"{figures['largest_group']:,} documents; {mend}"
    )


def told(figures: dict) -> str:
    """What a corpus holds, in a line."""
    splits = ", ".join(f"{count:,} {split}" for split, count in figures["splits"].items())
    return (
        f"{figures['documents']:,} documents ({figures['skipped']['documents']:,} skipped) in "
        f"{figures['groups']:,} groups of near-duplicates: {splits}; queries: {figures['queries']:,}, "
        f"pairs: {figures['pairs']:,}"
    )


def split_of_group(group: str, val_share: float, test_share: float) -> str:
    """train, val or test: a function of the group id only, so new documents never move old ones."""
    unit = stable_unit("split", group)
    return "test" if unit < test_share else "val" if unit < test_share + val_share else "train"
