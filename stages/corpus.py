"""Read a dataset and split it: documents, queries and observed (query, document) pairs.

Reads the installed packages (`source: pydoc`) or a folder of JSONL, JSON, Parquet or CSV files
(`source: folder`: docs/guide/datasets.md). Writes `data/<dataset>/corpus/`: documents.jsonl, queries.jsonl,
pairs.jsonl, shape.json and a manifest, sorted by id: the same bytes whatever the order of the source rows.
Near-duplicate documents share a split; a document's split is a hash of its group, so new documents do not
move old ones unless they join their group. Where no document is left to train on or to hold out, that is
an error; where most are near-duplicates of each other, a warning: nothing has been paid for yet.
"""

from stages.core import layout
from stages.core.files import atomic_directory
from stages.core.messages import say
from stages.knobs import CorpusKnobs
from stages.sources.folder import read_folder
from stages.sources.markup import holds_html
from stages.sources.pydoc import read_pydoc
from stages.sources.splits import Shares, check_splits, split_corpus, statistics, told, write_corpus


def run(dataset: str, knobs: CorpusKnobs) -> dict:
    shares = Shares(**knobs.model_dump(include=set(Shares._fields)))
    if knobs.source == "pydoc":
        documents, queries, pairs = read_pydoc()
        skipped = {"documents": 0, "pairs": 0}
    else:
        options = knobs.model_dump(exclude={"source", *Shares._fields})
        documents, queries, pairs, skipped = read_folder(**options)
        if knobs.html == "keep" and (count := sum(holds_html(document["text"]) for document in documents)):
            say(
                f"corpus {dataset}: warning: {count:,} of {len(documents):,} texts hold HTML, tags or "
                "entities, which teacher and student will read as text; `html: strip` takes it out"
            )
    corpus = split_corpus(documents, queries, pairs, shares)
    figures = statistics(corpus, skipped)
    mend = f"raise near_duplicates ({knobs.near_duplicates:g}) if they are different texts"
    check_splits(figures, knobs.test_share, f"{mend}, add others, or set test_share to 0 to measure nothing")
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", counts) as directory:
        counts |= write_corpus(directory, corpus)
    say(f"corpus {dataset}: {told(figures)}")
    if (largest := figures["largest_group"]) > figures["documents"] / 2:
        say(
            f"corpus {dataset}: warning: {largest:,} documents are one group of near-duplicates, trained on "
            f"or held out as a whole; {mend}"
        )
    return figures
