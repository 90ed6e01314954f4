"""The keys of a task, by number in the order of their ids, with what is computed of them once."""

from collections.abc import Mapping
from functools import cached_property

from stages.retrieval.bm25 import Bm25
from stages.retrieval.ranking import Hits
from stages.sources.near import near_duplicate_groups


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


class Keys:
    def __init__(self, task: str, texts: Mapping[str, str]):
        self.task, self.ids, self.texts = task, list(texts), list(texts.values())
        self.number = {name: number for number, name in enumerate(self.ids)}

    @cached_property
    def folded(self) -> list[str]:
        """The texts in one case, with single spaces."""
        return list(map(folded, self.texts))

    @cached_property
    def by_text(self) -> dict[str, str]:
        """Ids by text, of equal ones the first."""
        return {text.strip(): name for name, text in zip(self.ids[::-1], self.texts[::-1], strict=True)}

    @cached_property
    def index(self) -> Bm25:
        return Bm25(self.texts)

    @cached_property
    def same(self) -> dict[str, str]:
        """For each key the name of its group of near-duplicates."""
        pairs = zip(self.ids, self.texts, strict=True)
        groups = near_duplicate_groups([{"id": name, "text": text, "metadata": {}} for name, text in pairs])
        return dict(zip(self.ids, groups, strict=True))

    def text(self, key: str) -> str:
        return self.texts[self.number[key]]

    def found(self, hits: Hits, query: int) -> list[str]:
        """The ids of the keys that a query found, best first."""
        return [self.ids[number] for number in hits.of(query)[0]]

    def ranking(self, hits: Hits, query: int) -> list[tuple[str, float]]:
        """The same with their scores."""
        return list(zip(self.found(hits, query), map(float, hits.of(query)[1]), strict=True))
