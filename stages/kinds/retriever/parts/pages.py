"""Documents as keys: questions about them (qa), and questions that follow from another page (convsearch)."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import iter_jsonl
from stages.core.hashing import stable_unit
from stages.core.records import Document
from stages.core.shards import iter_generated
from stages.core.text import clip_words, letters
from stages.evaluation.people import read_rows
from stages.kinds.retriever.parts.made import key_id, same_query
from stages.kinds.retriever.parts.rows import SPLITS, Asked, Row, Split, Splits

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n")
ANSWER_WORDS = 40
VAL_SHARE = 0.1  # of the queries that the corpus leaves for training


class Pages:
    """The documents of a dataset, and the queries that were observed for them, each with its split."""

    def __init__(self, dataset: str) -> None:
        folder = layout.corpus(dataset)
        self.dataset = dataset
        self.documents: dict[str, Document] = {
            row["id"]: row for row in iter_jsonl(folder / "documents.jsonl")
        }
        self.queries: dict[str, dict] = {row["id"]: row for row in iter_jsonl(folder / "queries.jsonl")}
        self.about: dict[str, list[str]] = defaultdict(list)  # a query's documents
        for pair in iter_jsonl(folder / "pairs.jsonl"):
            self.about[pair["query_id"]].append(pair["document_id"])
        self.splits: dict[str, Split] = {}
        for name, query in self.queries.items():
            own: Split = "val" if stable_unit("val", name) < VAL_SHARE else "train"
            own = "test" if query["split"] == "test" else own
            spelling = same_query(query["text"])
            self.splits[spelling] = max(own, self.splits.get(spelling, own), key=SPLITS.index)

    def keys(self, words: int) -> dict[str, str]:
        """Each document's title and first words, once where it begins with its title."""
        texts = {}
        for name, document in self.documents.items():
            body, title = clip_words(document["text"], words), document["title"]
            texts[name] = body if body.startswith(title) else f"{title}\n{body}"
        return texts

    def answer(self, name: str) -> str:
        """What a page says of itself: its first sentence."""
        return clip_words(SENTENCE.split(self.documents[name]["text"].strip(), maxsplit=1)[0], ANSWER_WORDS)

    def split_of(self, query_id: str) -> Split:
        """The corpus's own, less a part of train for validation; one spelling is in one split."""
        return self.splits[same_query(self.queries[query_id]["text"])]

    def row(self, name: str, query: str, documents: Iterable[str], group: str) -> Row:
        pos = sorted(set(documents))
        return {"id": name, "query": query, "pos": pos, "answers": [self.answer(pos[0])], "group": group}

    def observed(self) -> Splits:
        """The observed queries as rows. A pair that is hidden from other stages is a positive here, too."""
        splits: Splits = {split: [] for split in SPLITS}
        for name, query in self.queries.items():
            if self.about[name]:
                splits[self.split_of(name)].append(self.row(name, query["text"], self.about[name], name))
        return splits

    def synthetic(self, people: Path) -> Splits:
        """The queries that the student wrote, as rows in the split of their documents.

        A query of several documents has all of them, and the most held out of their splits. Those that equal
        an observed query, or one of the file `people`, are left out: they would bring what is measured into
        training. Raises UserError where the student writes no queries, and for a file that cannot be read.
        """
        measured = [row.query for row in read_rows(people, Asked)]
        known = {letters(text) for text in (*measured, *(query["text"] for query in self.queries.values()))}
        asked: dict[str, tuple[str, list[str]]] = {}
        for written in iter_generated(layout.generated(self.dataset)):
            if "queries" not in written:
                raise UserError(
                    f"{layout.generated(self.dataset)}: no queries; name a dataset of queries in `of`"
                )
            for query in written["queries"]:
                if letters(query) and letters(query) not in known:
                    asked.setdefault(same_query(query), (query, []))[1].append(written["document_id"])
        splits: Splits = {split: [] for split in SPLITS}
        for query, names in asked.values():
            group = min(self.documents[name]["metadata"].get("group", name) for name in names)
            split = max((self.documents[name]["split"] for name in names), key=SPLITS.index)
            splits[split].append(self.row(f"s-{key_id(query)}", query, names, group))
        return splits

    def following(self, links: Iterable[tuple[str, str, str]]) -> Splits:
        """For (page, what it says of another, that other): the first page was read, the description is asked.

        A description's split is that of the same query in `observed`, so that no task trains on what another
        is measured with.
        """
        ids = {same_query(query["text"]): name for name, query in self.queries.items()}
        targets: dict[tuple[str, str], set[str]] = defaultdict(set)
        for source, text, target in links:
            if {source, target} <= self.documents.keys() and same_query(text) in ids:
                targets[source, ids[same_query(text)]].add(target)
        splits: Splits = {split: [] for split in SPLITS}
        for (source, name), found in sorted(targets.items()):
            last = self.queries[name]["text"]
            query = f"{self.documents[source]['title']}: {self.answer(source)}\n{last}"
            row = self.row(key_id(f"{source} {name}"), query, found, name)
            splits[self.split_of(name)].append({**row, "last": last})
        return splits
