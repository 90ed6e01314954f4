"""Rows in people's wording: what is refused, and how well pages are found, against figures by hand."""

import random

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.evaluation.people import (
    KINDS,
    RANKED,
    PageQuery,
    by_kind,
    check_unseen,
    found,
    rank_of,
    read_rows,
    right_places,
)
from tests.helpers.workspace import ROOT

GOOD = '{"query": "sort a list", "pos_index": ["sort"], "kind": 1}\n'
GROUPS = {"sort": "sort", "svd": "svd", "sorted": "sort"}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "eval_rows.jsonl"


def test_rows_are_read(file):
    file.write_text(GOOD + '{"query": " svd ", "pos_index": ["svd", "sort"]}\n')
    rows = read_rows(file, PageQuery)
    assert rows[0] == PageQuery(query="sort a list", pos_index=["sort"], kind=1)
    assert (rows[1].query, rows[1].kind) == ("svd", None)
    assert right_places(file, rows, GROUPS) == [[0, 2], [0, 1, 2]]


def test_the_rows_of_pydoc_are_in_order():
    rows = read_rows(ROOT / "prompts/pydoc/eval_rows.jsonl", PageQuery)
    assert len(rows) > 1000 and {row.kind for row in rows} == set(range(len(KINDS)))


def test_an_empty_file_has_no_rows(file):
    file.write_text("")
    assert read_rows(file, PageQuery) == []
    check_unseen(file, [], [("page", "")])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"query": "a"}', "row 2: pos_index: Field required; expected query, pos_index, kind"),
        ('{"query": "a", "pos_index": ["sort"], "page": 1}', "row 2: unknown key 'page'; expected query"),
        ('{"query": "a", "pos_index": "sort"}', "row 2: pos_index: Input should be a valid list"),
        ('{"query": "a", "pos_index": []}', "row 2: pos_index: List should have at least 1 item"),
        ('{"query": " ", "pos_index": ["sort"]}', "row 2: query: String should have at least 1 char"),
        ('{"query": "a", "pos_index": ["sort"], "kind": 5}', "row 2: kind: Input should be less than 5"),
        ("[]", "row 2: expected an object"),
        ("{", "row 2: not valid JSON"),
        (r'{"query": "\ud800", "pos_index": ["sort"]}', "row 2: not valid JSON"),
    ],
)
def test_a_bad_row_is_named(file, row, told):
    file.write_text(GOOD + row + "\n")
    with pytest.raises(UserError) as error:
        read_rows(file, PageQuery)
    assert str(error.value).startswith(f"{file}, {told}")


def test_an_unknown_page_is_named(file):
    file.write_text(GOOD + GOOD.replace('"sort"', '"sort", "sor"'))
    with pytest.raises(UserError, match=r"row 2: field 'pos_index': there is no page 'sor'"):
        right_places(file, read_rows(file, PageQuery), GROUPS)


def test_a_row_that_stands_in_training_is_named(file):
    texts = ["what is 2 + 2", "Play some jazz!", "?!"]
    check_unseen(file, texts, [("a", "what is 2 * 2"), ("b", "play jazz"), ("c", "...")])
    with pytest.raises(UserError, match=r"row 2: 'Play some jazz!' stands in training, too \(request b\)"):
        check_unseen(file, texts, [("request a", "x"), ("request b", "play  some JAZZ")])


@pytest.mark.parametrize(
    "text", ["Tra\u0309 ha\u0300ng?", "ｔｒả　ｈàｎｇ", "trả hà\u00adng", "\u200ftrả\u200b hàng"]
)
def test_a_row_stands_in_training_in_whatever_characters(file, text):
    with pytest.raises(UserError, match="row 1: 'trả hàng' stands in training, too"):
        check_unseen(file, ["trả hàng"], [("a", text)])


def test_ranks_count_ties_against_a_page_but_not_its_aliases():
    scores = np.array([1.0, 3.0, 3.0, 3.0, 0.5])
    assert rank_of(scores, [1]) == 3 and rank_of(scores, [1, 2]) == 2 and rank_of(scores, [1, 2, 3]) == 1
    assert rank_of(scores, [0, 4]) == 4
    assert found([1, 2, 10, 11]).tolist() == [[1, 1, 1], [0, 1, 0.5], [0, 1, 0.1], [0, 0, 0]]


def test_measures_by_kind_resample_pages():
    draw = random.Random(0)
    rows = [PageQuery(query="q", pos_index=[f"p{n % 40}"], kind=n % 2) for n in range(200)]
    ranks = [1 if n % 40 < 20 else draw.choice((5, 20)) for n in range(200)]
    tables = by_kind(found(ranks), rows, 500, 1)
    assert list(tables) == ["all", "by name", "how-to"] and tables["how-to"]["queries"] == 100
    assert tables["all"]["queries"] == 200 and list(tables["all"]) == ["queries", *RANKED]
    first = tables["all"]["R@1"]
    assert first["mean"] == 0.5
    # The standard error of a share of 40 pages, not of 200 queries: .079 in place of .035.
    assert (first["high"] - first["low"]) / 3.92 == pytest.approx(0.079, rel=0.15)
    worse = by_kind(found(ranks) - found([rank + 1 for rank in ranks]), rows, 50, 1)
    assert worse["all"]["R@1"]["mean"] == 0.5 and worse["all"]["R@1"]["low"] > 0
