"""People's wording: requests and queries that come from elsewhere than a dataset, for measuring only.

No stage trains on them, chooses settings by them or shows them to a model. A file has one JSON object a line;
an empty file means that there are none. docs/guide/people.md says how to write one.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import regex
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stages.core.errors import UserError
from stages.core.rows import records
from stages.core.stage import explain
from stages.core.text import comparable
from stages.evaluation.bootstrap import Interval, grouped_intervals

RANKED = ("R@1", "R@10", "MRR@10")
KINDS = ("by name", "how-to", "key words", "detail", "use case")
# Letters with their marks (vowel signs of Indic scripts), numbers, and what these are reckoned with.
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+|[\p{Sm}*/^%]|-(?=\s*\p{N})")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Row(BaseModel):
    """Base of the rows of a file: other fields than those declared are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PageQuery(Row):
    """What somebody types to find a page: `pos_index` has the ids of the right ones, `kind` is of KINDS."""

    query: Text
    pos_index: list[str] = Field(min_length=1)
    kind: int | None = Field(None, ge=0, lt=len(KINDS))


AnyRow = TypeVar("AnyRow", bound=Row)


# Reading


def read_rows(path: Path, row: type[AnyRow]) -> list[AnyRow]:
    """The rows of a .jsonl file; the first is row 1. Raises UserError with file, row and field."""
    rows = []
    for number, values in records(path):
        try:
            rows.append(row(**values))
        except ValidationError as error:
            fields = ", ".join(row.model_fields)
            raise UserError(f"{explain(error, where(path, number))}; expected {fields}") from None
    return rows


def where(path: Path, number: int) -> str:
    return f"{path}, row {number}"


def one_spelling(text: str) -> str:
    """Letters, digits and operators in one case, apart by one space; "" for nothing but punctuation."""
    return " ".join(WORD.findall(comparable(text)))


def check_unseen(path: Path, texts: Sequence[str], training: Iterable[tuple[str, str]]) -> None:
    """Raises UserError for a text of the file that training has, too, whatever its case and punctuation.

    `texts` are those of its rows, in order; `training` has texts after what each is called.
    """
    numbers = {one_spelling(text): number for number, text in enumerate(texts, start=1)}
    numbers.pop("", None)
    for name, text in training:
        if number := numbers.get(one_spelling(text)):
            raise UserError(
                f"{where(path, number)}: {texts[number - 1]!r} stands in training, too ({name}), so it "
                "measures nothing; remove it from either"
            )


# How well pages are found


def right_places(path: Path, rows: Sequence[PageQuery], groups: Mapping[str, str]) -> list[list[int]]:
    """For each row the places of the pages that are right: those of its `pos_index`, and those like them.

    `groups` has for each page, in the order of the places, the name of its group of near-duplicates. Raises
    UserError for a page that is not in it.
    """
    places_of_group: dict[str, list[int]] = {}
    for place, group in enumerate(groups.values()):
        places_of_group.setdefault(group, []).append(place)
    for number, row in enumerate(rows, start=1):
        if unknown := [page for page in row.pos_index if page not in groups]:
            raise UserError(f"{where(path, number)}: field 'pos_index': there is no page {unknown[0]!r}")
    return [
        sorted({place for page in row.pos_index for place in places_of_group[groups[page]]}) for row in rows
    ]


def rank_of(scores: np.ndarray, right: Sequence[int]) -> int:
    """The 1-based rank of the best of the `right` places by `scores` (pages,), the higher the better.

    Ties count against it, but not those with another right one: aliases have one text.
    """
    best = scores[right].max()
    return 1 + int((scores >= best).sum() - (scores[right] >= best).sum())


def found(ranks: Sequence[int]) -> np.ndarray:
    """RANKED of each query, float64 (queries, measures), from the ranks of their pages."""
    at = np.asarray(ranks, dtype=np.float64)
    return np.stack([at <= 1, at <= 10, np.where(at <= 10, 1 / at, 0)], axis=1)


def by_kind(
    values: np.ndarray, rows: Sequence[PageQuery], resamples: int, seed: int
) -> dict[str, dict[str, int | Interval | None]]:
    """For `all` queries and for each kind: how many `queries`, and mean and interval of each of RANKED.

    `values` is what `found` gives, or the difference of two such (then the intervals are those of a paired
    test). Resampled are pages, with all queries of each: those of one page are not independent.
    """
    kinds = [None if row.kind is None else KINDS[row.kind] for row in rows]
    pages = np.array([row.pos_index[0] for row in rows])
    tables: dict[str, dict[str, int | Interval | None]] = {}
    for kind in ("all", *(kind for kind in KINDS if kind in kinds)):
        own = [place for place, other in enumerate(kinds) if kind in ("all", other)]
        intervals = grouped_intervals(values[own], pages[own], resamples, seed)
        tables[kind] = {"queries": len(own), **dict(zip(RANKED, intervals, strict=True))}
    return tables
