"""Nearest neighbours against brute force in float64: ties, crowds, zeros, blocks, threads; faiss."""

import os

import numpy as np
import pytest
import torch

from stages.core.errors import UserError
from stages.retrieval import neighbours as module
from stages.retrieval.knobs import Search
from stages.retrieval.neighbours import nearest, neighbours


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def random(rows, dims, seed):
    return unit(np.random.default_rng(seed).normal(size=(rows, dims)))


def planted(rows, centres, dims, seed):
    """Rows around shared centres, at a cosine of about .8, in no order."""
    draw = np.random.default_rng(seed)
    spread = unit(draw.normal(size=(rows, dims))).astype(np.float32)
    middle = random(centres, dims, 99)[draw.integers(0, centres, rows)]
    return unit(0.8 * middle + 0.6 * spread)


def crowded(rows, dims, seed):
    """Rows so close to each other that 16-bit scores cannot tell them apart."""
    draw = np.random.default_rng(seed)
    return unit(random(1, dims, 98) + 0.002 * draw.normal(size=(rows, dims)))


def brute_force(queries, keys, k):
    scores = queries.astype(np.float64) @ keys.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def assert_exact(queries, keys, k):
    indices, scores = nearest(queries, keys, k)
    expected = brute_force(queries, keys, k)
    assert indices.dtype == np.int32 and scores.dtype == np.float64
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def coarse(request, monkeypatch):
    """Both number types, on whatever machine; small blocks, so that there are many."""
    monkeypatch.setattr(module, "coarse_type", lambda: request.param)
    monkeypatch.setattr(module, "ROWS", 64)
    monkeypatch.setattr(module, "TILE", 1024)
    monkeypatch.setattr(module, "PARTS", 2)
    return request.param


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("make", [random, crowded, lambda n, d, s: planted(n, 300, d, s)])
def test_exact_equals_brute_force(coarse, make, k):
    assert_exact(make(301, 32, 0), make(3001, 32, 1), k)


def test_a_crowd_is_thinned_out_before_it_fills_the_memory(coarse, monkeypatch):
    monkeypatch.setattr(module, "PENDING", 500)
    most = []
    settle = module.Candidates._settle
    monkeypatch.setattr(
        module.Candidates, "_settle", lambda part: (settle(part), most.append(len(part.gathered[0][0])))[0]
    )
    monkeypatch.setattr(module, "TILE", 256)
    keys = crowded(3000, 32, 1)
    keys[200:2600:2] = keys[3]
    assert_exact(np.concatenate([keys[:4], crowded(60, 32, 0)]), keys, 7)
    assert len(most) > 1 and max(most) <= 64 * 7  # once at the end, too


def test_a_few_keys(coarse):
    for keys, k in ((1, 1), (5, 5), (33, 33), (40, 7), (1025, 1025)):
        assert_exact(random(3, 8, 2), random(keys, 8, 3), k)


def test_equal_scores_go_by_index_also_at_the_last_place(coarse):
    keys = random(2500, 16, 4)
    keys[1300:2500] = keys[7]  # more equal keys than wanted, over several tiles
    keys[100:140:3] = keys[8]
    queries = np.concatenate([keys[[7, 8]], random(60, 16, 5)])
    assert_exact(queries, keys, 10)
    indices, scores = nearest(queries[:1], keys, 10)
    assert indices[0].tolist() == [7, *range(1300, 1309)] and len(set(scores[0])) == 1


def test_scores_that_are_not_positive(coarse):
    keys = random(1500, 8, 6)
    keys[:, 0] = np.abs(keys[:, 0]) + np.float16(0.01)
    away = np.zeros((2, 8), dtype=np.float16)
    away[0, 0] = -1
    assert_exact(away, keys, 12)  # and a row of zeros, to which all keys are as near
    keys[5:900] = 0
    assert_exact(np.concatenate([away, random(9, 8, 7)]), keys, 12)


def test_results_depend_neither_on_threads_nor_on_blocks(monkeypatch):
    queries, keys = planted(500, 50, 24, 8), planted(2000, 50, 24, 9)
    plain = nearest(queries, keys, 10)
    for rows, tile, parts, prepared, cores in ((32, 256, 1, 0, {0}), (64, 2048, 3, 1 << 30, {0, 1, 2})):
        for name, value in (("ROWS", rows), ("TILE", tile), ("PARTS", parts), ("PREPARED", prepared)):
            monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
        for part, same in zip(nearest(queries, keys, 10), plain, strict=True):
            np.testing.assert_array_equal(part, same)
    starts = [start for start, *_ in neighbours(queries, keys, 10)]
    assert starts == [0] and torch.get_num_threads() >= 1


def test_blocks_come_in_order(coarse):
    blocks = list(neighbours(random(700, 8, 0), random(50, 8, 1), 3))
    ends = [start + len(indices) for start, indices, _ in blocks]
    assert len(blocks) > 1 and [start for start, *_ in blocks] == [0, *ends[:-1]] and ends[-1] == 700


def test_no_queries():
    indices, scores = nearest(np.zeros((0, 4), np.float16), random(3, 4, 0), 2)
    assert indices.shape == scores.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 4])
def test_a_number_of_neighbours_that_cannot_be(k):
    with pytest.raises(ValueError, match=f"k = {k} neighbours of 3 keys"):
        nearest(random(2, 4, 0), random(3, 4, 0), k)


@pytest.mark.parametrize(
    "search",
    [Search(search="ivf", lists=40, probes=12), Search(search="ivf"), Search(search="hnsw", links=16, ef=64)],
    ids=["ivf", "ivf by itself", "hnsw"],
)
def test_approximate_neighbours_of_planted_rows(search):
    queries, keys = planted(400, 200, 32, 10), planted(2000, 200, 32, 11)
    indices, scores = nearest(queries, keys, 10, search)
    best, values = brute_force(queries, keys, 10)
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(indices.tolist(), best.tolist(), strict=True)]
    )
    assert recall > 0.9
    assert indices.dtype == np.int32 and scores.dtype == np.float64
    assert (np.diff(scores, axis=1) <= 0).all() and (scores <= values).all()
    own = (queries.astype(np.float64)[:, None] * keys.astype(np.float64)[indices]).sum(axis=2)
    np.testing.assert_array_equal(scores, own)


def test_approximate_neighbours_on_one_thread_and_on_two(monkeypatch):
    queries, keys = planted(300, 30, 16, 12), planted(600, 30, 16, 13)
    for search in (Search(search="ivf", lists=20, probes=2), Search(search="hnsw", links=4, ef=16)):
        found = []
        for cores in ({0}, {0, 1}):
            monkeypatch.setattr("stages.retrieval.approximate.ROWS", 64)
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores)
            found.append(nearest(queries, keys, 10, search))
        for one, two in zip(*found, strict=True):
            np.testing.assert_array_equal(one, two)


def test_one_cell_may_hold_too_few():
    keys = unit([[1, 0.1], [1, 0.2], [-1, 0.1], [-1, 0.2]])
    indices, scores = nearest(unit([[1, 0]]), keys, 3, Search(search="ivf", lists=2, probes=1))
    assert indices.tolist() == [[0, 1, -1]] and scores[0, 2] == -np.inf


@pytest.mark.parametrize(
    "given, message",
    [
        ({"search": "ivf", "lists": 51}, "lists: 51 cells are too many for 50 texts"),
        ({"search": "ivf", "lists": 8, "probes": 9}, "probes: 9 is more than the 8 cells"),
        ({"search": "hnsw", "ef": 5}, "ef: 5 nodes kept in a search cannot give 10 neighbours"),
    ],
)
def test_parameters_that_do_not_fit(given, message):
    with pytest.raises(UserError, match=message):
        nearest(random(2, 8, 0), random(50, 8, 1), 10, Search(**given))
