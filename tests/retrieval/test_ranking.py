"""Ranking: against scores computed one by one, ties, candidates of a row's own, few and no words."""

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.retrieval import ranking
from stages.retrieval.bm25 import Bm25
from tests.helpers.retrieval_rows import ByLength

TEXTS = ["sort an array", "read a file", "sort values", "plot a histogram", "read values of a file", "sort"]
QUERIES = ["how to sort values", "read", "the of a", "sort sort array"]


def vectors(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 16))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def index() -> Bm25:
    return Bm25(TEXTS)


@pytest.mark.parametrize("k1, b", [(0.82, 0.68), (1.2, 0.75)])
def test_bm25_is_lucenes(k1, b):
    lengths = np.array([2, 2, 2, 2, 3, 1])  # without stop words
    for word in ("sort", "values"):
        counts = np.array([text.count(word) for text in TEXTS])
        idf = np.log(1 + (6 - (counts > 0).sum() + 0.5) / ((counts > 0).sum() + 0.5))
        expected = idf * counts / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
        np.testing.assert_allclose(Bm25(TEXTS, k1, b).scores(word), expected, rtol=1e-5)


def test_keys_without_a_word_of_the_query_are_no_hits_of_bm25(index):
    hits = ranking.by_bm25(index, QUERIES, 10)
    assert hits.keys.shape == (4, 6)  # more hits than keys
    assert list(hits.of(1)[0]) == [1, 4]
    assert not len(hits.of(2)[0])  # stop words only


def test_equal_scores_are_in_the_order_of_keys():
    same = Bm25(["word"] * 5)
    assert ranking.by_bm25(same, ["word"], 3).keys.tolist() == [[0, 1, 2]]
    queries, keys = vectors(1, 0), np.repeat(vectors(1, 1), 5, axis=0)
    assert ranking.by_dense(queries, keys, 3).keys.tolist() == [[0, 1, 2]]
    assert ranking.by_dense(queries, keys, 3, among=[[4, 2]]).keys.tolist() == [[2, 4, -1]]
    assert ranking.by_hybrid(queries, keys, same, ["word"], 3).keys.tolist() == [[0, 1, 2]]


def test_hybrid_is_the_sum_of_both_less_their_means_by_their_deviations(index, monkeypatch):
    monkeypatch.setattr(ranking, "CELLS", 6)  # a query a block
    queries, keys = vectors(4, 0), vectors(6, 1)
    hits = ranking.by_hybrid(queries, keys, index, QUERIES, 4, weight=0.3)
    for row, query in enumerate(QUERIES):
        parts = (keys.astype(float) @ queries[row].astype(float), index.scores(query))
        cosines, words = ((part - part.mean()) / (part.std() or 1) for part in parts)
        expected = cosines + 0.3 * words
        order = np.argsort(-expected, kind="stable")[:4]
        assert hits.keys[row].tolist() == order.tolist()
        np.testing.assert_allclose(hits.scores[row], expected[order], rtol=1e-4)


def test_a_row_chooses_among_its_own_candidates(index):
    queries, keys, among = vectors(4, 0), vectors(6, 1), [[5, 0], None, [3], []]
    for hits in (
        ranking.by_dense(queries, keys, 3, among),
        ranking.by_hybrid(queries, keys, index, QUERIES, 3, among),
    ):
        assert [sorted(hits.of(row)[0]) for row in (0, 2, 3)] == [[0, 5], [3], []]
        assert len(hits.of(1)[0]) == 3
    dense = ranking.by_dense(queries, keys, 3)
    among_all = ranking.by_dense(queries, keys, 3, [range(6)] * 4)
    assert dense.keys.tolist() == among_all.keys.tolist()
    assert sorted(ranking.by_bm25(index, QUERIES, 3, among).of(0)[0]) == [0, 5]


def test_the_first_hits_are_ranked_by_both_scores_and_the_others_follow(index):
    hits = ranking.Hits(np.array([[0, 3, 5, 1], [4, -1, -1, -1]]), np.array([[9.0, 8, 7, 6], [1, 0, 0, 0]]))
    again = ranking.reranked(ByLength(), QUERIES[:2], TEXTS, hits, 3)
    lengths = np.array([-len(TEXTS[key]) for key in (0, 3, 5)], dtype=float)
    both = np.array([1, 0, -1]) / np.sqrt(2 / 3) + (lengths - lengths.mean()) / lengths.std()
    order = np.argsort(-both)
    assert again.keys.tolist() == [[*np.array([0, 3, 5])[order], 1], [4, -1, -1, -1]]
    np.testing.assert_allclose(again.scores[0, :3], both[order])
    assert (np.diff(again.scores[0]) < 0).all()
    assert list(again.of(1)[1]) == [0]  # alone, it has no deviation


@pytest.mark.parametrize("config", [None, "{}", '{"architectures": ["BertModel"]}'])
def test_a_directory_without_a_cross_encoder_is_told(tmp_path, config):
    if config:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="reranker: .*no model for SequenceClassification"):
        ranking.load_reranker(str(tmp_path))


def test_a_damaged_cross_encoder_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    with pytest.raises(UserError, match="no cross-encoder that can be read"):
        ranking.load_reranker(str(tmp_path))


def test_the_directory_that_stands_for_none_is_none(tmp_path):
    (tmp_path / "retriever.json").write_text('{"type": "none"}')
    assert ranking.load_reranker(str(tmp_path)) is None
