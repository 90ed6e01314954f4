"""Read a dataset and split it: documents, queries and observed (query, document) pairs.

Reads the installed packages (`source: pydoc`) or a folder of JSONL, JSON, Parquet or CSV files
(`source: folder`: docs/guide/datasets.md). Writes `data/<dataset>/corpus/`: documents.jsonl, queries.jsonl,
pairs.jsonl, shape.json and a manifest, sorted by id: the same bytes whatever the order of the source rows.
Near-duplicate documents share a split; a document's split is a hash of its group, so new documents do not
move old ones unless they join their group.
"""

from stages.core import layout
from stages.core.files import atomic_directory
from stages.knobs import CorpusKnobs
from stages.sources.folder import read_folder
from stages.sources.observed import Shares, split_corpus, statistics, write_corpus
from stages.sources.pydoc import read_pydoc


def run(dataset: str, knobs: CorpusKnobs) -> dict:
    shares = Shares(**knobs.model_dump(include=set(Shares._fields)))
    if knobs.source == "pydoc":
        documents, queries, pairs = read_pydoc()
        skipped = {"documents": 0, "pairs": 0}
    else:
        options = knobs.model_dump(exclude={"source", *Shares._fields})
        documents, queries, pairs, skipped = read_folder(**options)
    corpus = split_corpus(documents, queries, pairs, shares)
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", counts) as directory:
        counts |= write_corpus(directory, corpus)
    return statistics(corpus, skipped)
