"""Read a dataset in the format of the extreme classification repository: documents, queries and pairs.

Reads a folder (trn_X.txt, tst_X.txt, Y.txt, label matrices, metadata: docs/kinds/xc/format.md); writes
`data/<dataset>/corpus/` as the corpus stage does, with filters.jsonl where the source has filter pairs. Ids
are row numbers, so that sorted by id is the source's order. Everything is streamed; the texts of documents
are cut with the tokenizer of the model that will read them. Exact duplicates share a split; near-duplicates,
which the corpus stage looks for, would cost too much at this size.
"""

from pathlib import Path

from stages.core import layout
from stages.core.files import atomic_directory, write_json
from stages.core.messages import say
from stages.core.progress import progress
from stages.kinds.xc.knobs import CorpusXcKnobs
from stages.kinds.xc.parts.format import corpus as xc_corpus
from stages.kinds.xc.parts.format import pairs as xc_pairs
from stages.kinds.xc.parts.format.documents import Cutter, Metadata
from stages.kinds.xc.parts.format.texts import check_files
from stages.sources.splits import check_splits


def check_source(knobs: CorpusXcKnobs) -> dict[str, Path]:
    """The source's files. Raises UserError with all that are missing, and where the data is published."""
    return check_files(Path(knobs.path), knobs.points, knobs.metadata)


def run(dataset: str, knobs: CorpusXcKnobs) -> dict:
    files, cutter = check_source(knobs), Cutter(Path(knobs.tokenizer), knobs.max_chars, knobs.max_tokens)
    source = xc_corpus.read_source(files, knobs.points, knobs.skip_share)
    hidden = xc_pairs.hidden_pairs(source.trn, knobs.hidden_pairs)
    known = None
    if knobs.points == "queries" and knobs.known_queries:
        hashes = (source.texts[name].hashes for name in ("trn_X", "tst_X"))
        known = xc_pairs.KnownQueries(source.trn, hidden, *hashes, knobs.known_queries)
    metadata = Metadata(files["metadata"], knobs.max_chars + 1) if "metadata" in files else None
    made = xc_corpus.Documents(source, metadata, cutter, known, knobs)
    counts: dict[str, int] = {}
    with atomic_directory(layout.corpus(dataset), "corpus", counts) as directory:
        rows = {
            "queries": xc_corpus.query_rows(source, known),
            "documents": made.rows(directory),
            "pairs": xc_pairs.pair_rows(source.trn, hidden, source.tst, knobs.points, source.ids),
            "filters": xc_pairs.filter_rows(source.filters, knobs.points, source.ids),
        }
        for name, size in source.sizes().items():
            if size or name != "filters":
                shown = progress(rows[name], f"corpus {dataset}: {name}", total=size)
                counts[f"{name}.jsonl"] = xc_corpus.write_rows(directory / f"{name}.jsonl", shown)
        write_json(directory / "shape.json", {"points": knobs.points, "lines": True})
        source.warnings["empty_documents"] = empty = made.splits["empty"]
        xc_corpus.check_share(made.first_empty, empty, source.texts[source.documents].rows, knobs.skip_share)
        source.warnings["withheld_known_queries"] = known.withheld if known else 0
        figures = xc_corpus.statistics(source, made, xc_pairs.split_counts(hidden, source.tst))
        check_splits(figures, knobs.test_share, "change val_share or test_share, or add documents")
    for name, count in sorted(source.warnings.items()):
        if count:
            say(f"corpus {dataset}: {name.replace('_', ' ')}: {count:,}")
    return figures
