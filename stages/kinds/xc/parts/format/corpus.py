"""From files in the XC repository's format to the rows of a corpus, streamed."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson
from scipy.sparse import csr_matrix

from stages.core.errors import UserError
from stages.core.text import comparable, count_words
from stages.kinds.xc.knobs import CorpusXcKnobs
from stages.kinds.xc.parts.format.documents import Cutter, Document, Metadata, documents
from stages.kinds.xc.parts.format.matrices import read_filters, read_matrix
from stages.kinds.xc.parts.format.pairs import KnownQueries, RowIds, row_ids
from stages.kinds.xc.parts.format.texts import Survey, duplicates, lines_of, survey
from stages.sources.splits import split_of_group

TEXTS = ("trn_X", "tst_X", "Y")


@dataclass
class Source:
    """A dataset, but for the documents' texts: the rows of its files, its matrices (float32 csr) and filters
    (int64 (pairs, 2)), keyed by train and test. `ids` are keyed as `texts` are.
    """

    files: dict[str, Path]
    points: str
    texts: dict[str, Survey]
    trn: csr_matrix
    tst: csr_matrix
    filters: dict[str, np.ndarray]
    warnings: Counter
    ids: dict[str, RowIds]

    @property
    def documents(self) -> str:
        """The file whose rows the student writes for."""
        return "trn_X" if self.points == "documents" else "Y"

    def sizes(self) -> dict[str, int]:
        """The rows of each file of the corpus."""
        points, labels = self.texts["trn_X"].rows + self.texts["tst_X"].rows, self.texts["Y"].rows
        queries, documents = (points, labels) if self.points == "queries" else (labels, points)
        filters = sum(len(pairs) for pairs in self.filters.values())
        pairs = int(self.trn.nnz + self.tst.nnz)
        return {"queries": queries, "documents": documents, "pairs": pairs, "filters": filters}


def read_source(files: dict[str, Path], points: str, skip_share: float) -> Source:
    """Read all but the documents' texts. Raises UserError for what does not fit together; counts warnings."""
    warnings: Counter = Counter()
    texts = {name: survey(files[name]) for name in TEXTS}
    for name, surveyed in texts.items():
        warnings[f"empty_{name}"] = surveyed.empty
        first = f"{surveyed.path}, row {surveyed.first_empty}: holds no text"
        check_share(first, surveyed.empty, surveyed.rows, skip_share)
    shapes = {name: (texts[name].rows, texts["Y"].rows) for name in ("trn_X", "tst_X")}
    trn = read_matrix(files["trn_X_Y"], shapes["trn_X"], warnings)
    tst = read_matrix(files["tst_X_Y"], shapes["tst_X"], warnings)
    filters = {
        "train": read_filters(files.get("filter_train"), shapes["trn_X"], warnings),
        "test": read_filters(files.get("filter_test"), shapes["tst_X"], warnings),
    }
    warnings["duplicate_labels"] = duplicates(texts["Y"])
    warnings["weighted_pairs"] = int((trn.data != 1).sum() + (tst.data != 1).sum())
    warnings["training_points_without_labels"] = int((np.diff(trn.indptr) == 0).sum())
    warnings["test_points_without_labels"] = int((np.diff(tst.indptr) == 0).sum())
    of_labels = np.bincount(trn.indices, minlength=trn.shape[1])
    warnings["labels_without_training_points"] = int((of_labels == 0).sum())
    ids = {name: row_ids(letter, texts[name].rows) for name, letter in zip(TEXTS, "xty", strict=True)}
    return Source(files, points, texts, trn, tst, filters, warnings, ids)


def check_share(first: str, bad: int, total: int, share: float) -> None:
    if bad > share * total:
        raise UserError(f"{first} ({bad:,} of {total:,} rows are like this; skip_share is {share:g})")


def query_rows(source: Source, known: KnownQueries | None) -> Iterator[dict]:
    """The rows of queries.jsonl; the training queries pass by `known`."""
    for name in ("tst_X", "trn_X") if source.points == "queries" else ("Y",):
        texts, split = lines_of(source.files[name]), "test" if name == "tst_X" else "train"
        for row, text in enumerate(known.see(texts) if known and name == "trn_X" else texts):
            yield {"id": source.ids[name](row), "text": text, "split": split}


@dataclass
class Documents:
    """How documents are made of a source's rows: what is joined, where it is cut, which queries are shown.

    And what is counted of them while they stream by.
    """

    source: Source
    metadata: Metadata | None
    cutter: Cutter
    known: KnownQueries | None
    knobs: CorpusXcKnobs
    splits: Counter = field(default_factory=Counter)
    words: array = field(default_factory=lambda: array("i"))
    groups: bytearray = field(default_factory=bytearray)
    known_queries: int = 0
    first_empty: str = ""

    def rows(self, scratch: Path) -> Iterator[dict]:
        """The rows of documents.jsonl; `scratch` is a folder for a temporary file."""
        source = self.source
        if source.points == "documents":
            plain = documents(source.files["tst_X"], None, None, scratch, source.warnings)
            for place, (document, text) in enumerate(self.cutter.cut(plain)):
                yield self._row(source.ids["tst_X"](place), document, text, [], testing=True)
        uncut = documents(
            source.files[source.documents], self.metadata, self.knobs.join_on, scratch, source.warnings
        )
        for place, (document, text) in enumerate(self.cutter.cut(uncut)):
            queries = self.known.of(place, document.queries) if self.known else []
            yield self._row(source.ids[source.documents](place), document, text, queries, testing=False)

    def _row(self, name: str, document: Document, text: str, queries: list[str], testing: bool) -> dict:
        metadata, words = document.metadata, text.split()
        split = "xc_test" if testing else "train" if text else "empty"
        if queries:
            metadata["queries"] = queries
            self.known_queries += len(queries)
        if document.line != " ".join([document.title, *words] if document.title else words):
            metadata["line"] = document.line
        if split == "train":
            group = blake2b(comparable(" ".join(words)).encode(), digest_size=8).digest()
            metadata["group"] = group.hex()
            split = split_of_group(metadata["group"], self.knobs.val_share, self.knobs.test_share)
            self.groups += group
            self.words.append(count_words(text))
        elif split == "empty":
            self.first_empty = self.first_empty or document.if_empty
        self.splits[split] += 1
        return {"id": name, "title": document.title, "text": text, "metadata": metadata, "split": split}


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Write one JSON object a line, as rows come; returns their number.

    Straight to `path`, which may be left half-written: for a file in an `atomic_directory`.
    """
    count = 0
    with open(path, "wb", buffering=1 << 20) as stream:
        for row in rows:
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def statistics(source: Source, written: Documents, pair_splits: dict[str, int]) -> dict:
    """The metrics of the stage."""
    sizes = source.sizes()
    tests = source.texts["tst_X"].rows
    shares = {"min": 0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1}
    words = np.frombuffer(written.words, dtype=np.int32)
    _, groups = np.unique(np.frombuffer(bytes(written.groups), dtype="<u8"), return_counts=True)
    return {
        "points": source.points,
        "training_points": source.texts["trn_X"].rows,
        "test_points": tests,
        "labels": source.texts["Y"].rows,
        "documents": sizes["documents"],
        "splits": {split: written.splits[split] for split in ("train", "val", "test", "xc_test", "empty")},
        "queries": sizes["queries"],
        "test_queries": tests if source.points == "queries" else 0,
        "pairs": sizes["pairs"],
        "pair_splits": pair_splits,
        "filters": {split: len(pairs) for split, pairs in source.filters.items()},
        "known_queries": written.known_queries,
        "cut": {unit: written.cutter.counts[unit] for unit in ("by_chars", "by_tokens")},
        "words": {name: round(float(np.quantile(words, share)), 1) for name, share in shares.items()}
        if len(words)
        else None,
        "groups": len(groups),
        "largest_group": int(groups.max(initial=0)),
        "duplicate_share": round(float(groups[groups > 1].sum()) / max(len(words), 1), 4),
        "warnings": {name: count for name, count in sorted(source.warnings.items()) if count},
    }
