"""Measures of rankings by hand and against ir-measures, tables with paired intervals, TREC files."""

from itertools import pairwise
from math import log2

import numpy as np
import pytest

from stages.evaluation.bootstrap import grouped_intervals, intervals
from stages.evaluation.ranking import (
    answer_rank,
    graded_ndcg,
    measured,
    ranks_of,
    table,
    write_qrels,
    write_run,
)

ALL = ("mrr", "hit", "recall", "ndcg", "map")


def test_the_oracle_of_the_specification():
    ranks = ranks_of(["b", "a", "c"], {"a", "c"})
    assert ranks == [2, 3]
    found = measured(ranks, 2, ["mrr", "recall", "ndcg"], [1, 2, 3])
    assert found[2] == 0.5 and found[3:6] == [0, 0.5, 1]
    assert found[8] == pytest.approx(0.693426, abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "cutoff", "value"),
    [
        ("mrr", 1, 0),
        ("hit", 1, 0),
        ("hit", 2, 1),
        ("recall", 4, 2 / 3),
        ("map", 4, (1 / 2 + 2 / 4) / 3),
        ("ndcg", 2, (1 / log2(3)) / (1 + 1 / log2(3))),
    ],
)
def test_measures_by_hand(measure, cutoff, value):
    assert measured([2, 4], 3, [measure], [cutoff]) == [pytest.approx(value)]


def test_a_query_without_a_hit_scores_zero_and_counts():
    assert measured([], 1, ALL, [1, 10]) == [0] * 10
    values = {"s": np.array([[1.0], [0.0]])}
    assert table(values, ["mrr@1"], [], ["a", "b"], 10, 1)["s"]["mrr@1"]["mean"] == 0.5


def test_of_near_duplicates_the_first_counts_and_only_once():
    assert ranks_of(["x", "b2", "b1"], {"b"}, {"b1": "b", "b2": "b"}) == [2]


@pytest.mark.parametrize(
    ("text", "answer", "contains"),
    [
        ("The Café opened in 1999.", "café", True),
        ("cafes open", "cafe", False),  # a part of a word is none
        ("red, then green", "red green", False),
        ("a U.S. state", "u.s.", True),
        ("anything", " ", False),
    ],
)
def test_an_answer_is_a_run_of_tokens(text, answer, contains):
    assert answer_rank(["nothing", text], [answer]) == ([2] if contains else [])


def test_gains_of_any_size():
    assert graded_ndcg([1, 0.5, 0]) == 1
    assert graded_ndcg([0, 1]) == pytest.approx(1 / log2(3))
    assert np.isnan(graded_ndcg([0, 0]))


def test_intervals_of_groups_are_those_of_rows_where_each_is_its_own_and_wider_where_rows_repeat():
    values = np.random.default_rng(0).random((60, 1))
    alone = grouped_intervals(values, [f"{n:02}" for n in range(60)], 2000, 1)[0]
    plain = intervals(values, 2000, 1)[0]
    assert alone["mean"] == plain["mean"] and alone["low"] == pytest.approx(plain["low"], abs=0.02)
    repeated = grouped_intervals(np.repeat(values, 4, axis=0), np.repeat(np.arange(60), 4), 2000, 1)[0]
    assert repeated == alone  # four times the rows say no more


def test_a_difference_is_paired():
    before = np.random.default_rng(0).random((50, 1))
    made = table({"a": before, "b": before + 0.1}, ["x"], [("b", "a"), ("c", "a")], range(50), 200, 1)
    assert made["differences"] == {"b-a": {"x": {"mean": 0.1, "low": 0.1, "high": 0.1}}}
    made = table({"a": before}, ["x"], [], range(50), 200, 1, lambda means: np.exp(means))
    assert made["a"]["x"]["mean"] == round(float(np.exp(before.mean())), 4)


def test_scores_of_a_run_fall_strictly_and_ids_have_no_blanks(tmp_path):
    write_run(tmp_path / "r", "bm25", {"q 1": [("a", 1.5), ("b c", 1.5), ("d", 1.5), ("e", 0.0)]})
    write_qrels(tmp_path / "q", {"q 1": ["b c"]})
    rows = [line.split(" ") for line in (tmp_path / "r").read_text().splitlines()]
    assert [row[2:4] for row in rows] == [["a", "1"], ["b%20c", "2"], ["d", "3"], ["e", "4"]]
    scores = [float(row[4]) for row in rows]
    assert all(one > other for one, other in pairwise(scores)) and scores[0] == 1.5
    assert (tmp_path / "q").read_text() == "q%201 0 b%20c 1\n"


def test_measures_are_those_of_ir_measures(tmp_path):
    ir_measures = pytest.importorskip("ir_measures")
    random = np.random.default_rng(3)
    right = {f"q{n}": {f"d{d}" for d in random.choice(30, 1 + n % 4, replace=False)} for n in range(20)}
    runs = {q: [f"d{d}" for d in random.permutation(30)[:15]] for q in right}
    write_run(tmp_path / "r", "x", {q: [(d, 1.0) for d in own] for q, own in runs.items()})
    write_qrels(tmp_path / "q", right)
    names = ("RR", "Success", "R", "nDCG", "AP")
    wanted = [ir_measures.parse_measure(f"{name}@{c}") for name in names for c in (1, 5, 10)]
    theirs = ir_measures.calc_aggregate(
        wanted,
        ir_measures.read_trec_qrels(str(tmp_path / "q")),
        ir_measures.read_trec_run(str(tmp_path / "r")),
    )
    ranks = {q: ranks_of(runs[q], right[q]) for q in right}
    ours = np.mean([measured(ranks[q], len(right[q]), ALL, (1, 5, 10)) for q in right], axis=0)
    assert [theirs[measure] for measure in wanted] == pytest.approx(list(ours))
