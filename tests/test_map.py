"""Nearest neighbours and the mapping against brute force in float64; encoders; refusals."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from stages import map as mapping
from stages.retrieval.encoders import encode
from stages.retrieval.neighbours import nearest, top_k
from stages.support.errors import UserError


def unit(rows, dims, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(synthetic, observed, starts, clicks, k, threshold):
    """SKIM step 2 one rewrite at a time, in float64: the whole matrix, dense."""
    made = clicks.astype(np.float64).copy()
    for document in range(len(starts) - 1):
        for rewrite in synthetic[starts[document] : starts[document + 1]].astype(np.float64):
            similar = (observed.astype(np.float64) @ rewrite + 1) / 2
            for x in sorted(range(len(observed)), key=lambda row: (-similar[row], row))[:k]:
                if similar[x] >= threshold and not clicks[x, document]:
                    made[x, document] = max(made[x, document], similar[x])
    return made


@pytest.mark.parametrize(("k", "threshold"), [(1, 0.5), (4, 0.7), (30, 0.8), (30, 0.0)])
def test_mapping_equals_brute_force(k, threshold):
    observed, synthetic = unit(30, 6, 0), unit(57, 6, 1)
    starts = np.array([0, 5, 5, 20, 21, 57])
    draw = np.random.default_rng(2)
    clicks = draw.random((30, 5)) < 0.1
    places = [tuple(place) for place in np.argwhere(clicks)]
    indices, cosines = nearest(synthetic, observed, k)
    rows, columns, values = mapping.new_pairs(indices, mapping.similarity(cosines), starts, threshold)
    made = mapping.augmented(mapping.matrix(places, np.ones(len(places)), (30, 5)), rows, columns, values)
    expected = brute_force(synthetic, observed, starts, clicks, k, threshold)
    np.testing.assert_allclose(made.toarray(), expected, atol=1e-6)
    assert made.has_canonical_format and (made.data > 0).all() and made.data.max() == 1
    assert (made.toarray()[clicks] == 1).all()


def test_neighbours_in_blocks(monkeypatch):
    queries, keys = unit(101, 8, 3), unit(37, 8, 4)
    keys[20:] = keys[:17]  # every other score is shared by two keys
    monkeypatch.setattr("stages.retrieval.neighbours.BLOCK_SCORES", 37 * 10)
    indices, scores = nearest(queries, keys, 5)
    exact = queries @ keys.T
    order = np.argsort(-exact.round(5), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, axis=1), atol=1e-6)


def test_equal_scores_go_by_index():
    scores = np.array([[1, 3, 3, 3, 2], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]], dtype=np.float32)
    indices, values = top_k(scores, 2)
    assert indices.tolist() == [[1, 2], [0, 1], [0, 1]]
    assert values.tolist() == [[3, 3], [0, 0], [5, 4]]


def test_more_neighbours_than_keys():
    with pytest.raises(ValueError, match="k = 4 neighbours of 3 keys"):
        nearest(unit(2, 4, 0), unit(3, 4, 0), 4)


TEXTS = ["sort array by axis", "read a csv file into a DataFrame", "plot a line", "sorted arrays", "zebra"]


def test_latent_semantics():
    documents = [*TEXTS, "arrays are sorted along an axis", "csv files are read", "lines in a plot"]
    asked = ["sorting of the array axis", "csv"]
    first, second, empty = encode("tfidf", 4, documents, TEXTS, asked, ["qwxyz"])
    assert first.dtype == np.float32 and first.shape == (5, 4)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert (second @ first.T).argmax(axis=1).tolist() == [0, 1]
    assert not empty.any()


@pytest.mark.slow
def test_encoding_has_the_same_bytes_on_any_number_of_threads():
    code = (
        "import hashlib\n"
        "from stages.retrieval.encoders import encode\n"
        "from stages.retrieval.neighbours import nearest\n"
        "texts = [f'w{n % 17} w{n % 23} w{n % 31} w{n % 7}' for n in range(900)]\n"
        "a, = encode('tfidf', 32, texts, texts); i, s = nearest(a, a[:200], 5)\n"
        "print(hashlib.sha256(a.tobytes() + i.tobytes() + s.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1 and len(found.pop()) == 65


@pytest.mark.slow
def test_unknown_encoder():
    with pytest.raises(UserError, match="encoder: 'no/such/model' is neither"):
        encode("no/such/model", 4, TEXTS, TEXTS)


@pytest.mark.slow
def test_a_sentence_transformers_directory(tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerFast

    from tests.tiny import tiny_model

    tiny_model(tmp_path / "llama", "llama")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "llama")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "llama")
    SentenceTransformer(str(tmp_path / "llama")).save(str(tmp_path / "encoder"))
    (first,) = encode(str(tmp_path / "encoder"), 4, [], TEXTS)
    (again,) = encode(str(tmp_path / "encoder"), 4, [], TEXTS)
    assert first.shape == (5, 32) and first.dtype == np.float32 and (first == again).all()
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)


def rows(**queries):
    return [{"document_id": name, "sample": 0, "queries": own} for name, own in queries.items()]


def test_segments():
    generated = [*rows(b=["Sort it", "read it"]), *rows(b=["sort IT", "plot"]), *rows(d=["z"])]
    rewrites, starts = mapping.segments(generated, ["a", "b", "c", "d"])
    assert rewrites == ["Sort it", "read it", "plot", "z"]
    assert starts.dtype == np.int64 and starts.tolist() == [0, 0, 3, 3, 4]


def test_segments_of_unknown_documents_or_of_nothing():
    with pytest.raises(UserError, match="document 'x' is not in the corpus"):
        mapping.segments(rows(x=["q"]), ["a"])
    with pytest.raises(UserError, match="not one synthetic query"):
        mapping.segments(rows(a=[]), ["a"])


def test_pairs_with_unknown_ids():
    pair = {"query_id": "q", "document_id": "d", "split": "train"}
    assert mapping.pair_places([pair, {**pair, "split": "test"}], ["q"], ["d"], "f") == ([(0, 0)], [(0, 0)])
    with pytest.raises(UserError, match="f, row 1: document_id 'd' is not in the corpus"):
        mapping.pair_places([pair], ["q"], ["e"], "f")


def test_statistics_by_hand():
    # 3 queries, 3 documents; known (0,0), (1,1); found (0,0) again, (0,2) and (2,2); hidden (2,2) and (1,2)
    clicks = mapping.matrix([(0, 0), (1, 1)], np.ones(2), (3, 3))
    found = np.array([0, 0, 2]), np.array([0, 2, 2]), np.array([0.9, 0.8, 0.85])
    similar = np.array([[0.9, 0.8], [0.85, 0.3]])
    skim = mapping.augmented(clicks, *found)
    starts, hidden = np.array([0, 1, 1, 2]), [(2, 2), (1, 2)]
    stats = mapping.statistics(clicks, skim, found[0], found[1], similar, starts, hidden)
    assert stats["pairs_before"] == 2 and stats["pairs_found"] == 3 and stats["pairs_after"] == 4
    assert stats["pairs_already_known"] == 1 and stats["pairs_added"] == 2
    assert stats["new_per_query"] == 0.6667 and stats["queries_with_new"] == 0.6667
    assert stats["documents_with_new"] == 0.3333 and stats["documents_with_rewrites"] == 2
    assert list(stats["kept_share"].values()) == [0.75, 0.75, 0.75, 0.5, 0.25, 0.0]
    assert sum(stats["score_histogram"]["counts"]) == 4 and stats["score_histogram"]["counts"][36] == 1
    assert stats["held_out"] == {
        "pairs": 2, "recovered": 1, "recovered_share": 0.5, "share_by_chance": 0.2857,
        "pairs_with_rewrites": 2, "recovered_share_with_rewrites": 0.5,
        "pairs_of_clicked_queries": 1, "recovered_share_of_clicked_queries": 0.0,
    }  # fmt: skip


def test_nothing_found():
    clicks = mapping.matrix([(0, 0)], [1], (2, 2))
    none = mapping.new_pairs(np.zeros((1, 1), int), np.array([[0.2]]), np.array([0, 1, 1]), 0.8)
    skim = mapping.augmented(clicks, *none)
    stats = mapping.statistics(clicks, skim, none[0], none[1], np.array([[0.2]]), np.array([0, 1, 1]), [])
    assert stats["pairs_added"] == 0 and stats["held_out"]["recovered_share"] is None
    assert (skim != clicks).nnz == 0


def test_saved_matrices_have_no_time_in_them(tmp_path, monkeypatch):
    from scipy.sparse import save_npz

    made = mapping.matrix([(0, 1), (2, 0)], [1, 0.5], (3, 2))
    save_npz(tmp_path / "a.npz", made)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)
    save_npz(tmp_path / "b.npz", made)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
