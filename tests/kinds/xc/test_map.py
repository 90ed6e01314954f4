"""The mapping against brute force in float64, both directions by hand, and what the stage refuses."""

import json
import time

import numpy as np
import pytest
from scipy.sparse import load_npz, save_npz

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import atomic_directory, read_json, write_json, write_jsonl, write_text
from stages.kinds.xc import map as stage
from stages.kinds.xc import places as data_of
from stages.kinds.xc.knobs import MapKnobs
from stages.kinds.xc.parts import mapping
from stages.kinds.xc.parts.mapping import NeighbourPairs, Shape
from stages.retrieval.neighbours import nearest
from tests.helpers.cli import invoke
from tests.helpers.shipped import TFIDF


def unit(rows, dims, seed, centres=0):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(rows, dims))
    if centres:
        vectors += (
            2.5 * np.random.default_rng(99).normal(size=(centres, dims))[draw.integers(0, centres, rows)]
        )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(synthetic, observed, starts, clicks, k, threshold):
    """SKIM step 2, one rewrite at a time, in float64: a dense matrix, observed x documents."""
    made = clicks.astype(np.float64).copy()
    for document in range(len(starts) - 1):
        for rewrite in synthetic[starts[document] : starts[document + 1]].astype(np.float64):
            similar = (observed.astype(np.float64) @ rewrite + 1) / 2
            for x in sorted(range(len(observed)), key=lambda row: (-similar[row], row))[:k]:
                if similar[x] >= threshold and not clicks[x, document]:
                    made[x, document] = max(made[x, document], min(similar[x], 1))
    return made


def mapped(synthetic, observed, starts, clicks, k, threshold, points="queries"):
    """The same by the code under test; also its `NeighbourPairs`."""
    shape = Shape(points, len(observed), len(starts) - 1)
    found = NeighbourPairs(shape, starts, threshold)
    half = len(synthetic) // 2
    for first, part in ((0, synthetic[:half]), (half, synthetic[half:])):
        found.add(first, *nearest(part, observed, k))
    known = np.sort(shape.pairs(*np.nonzero(clicks)))
    after, values = mapping.augmented(known, *found.pairs())
    return mapping.matrix(after, values, shape.matrix), found


@pytest.mark.parametrize("points", ["queries", "documents"])
@pytest.mark.parametrize(("k", "threshold"), [(1, 0.5), (4, 0.7), (30, 0.8), (30, 0.0)])
def test_mapping_equals_brute_force(k, threshold, points):
    observed, synthetic = unit(30, 6, 0), unit(57, 6, 1)
    synthetic[20:24] = observed[3]
    starts = np.array([0, 5, 5, 20, 21, 57])
    clicks = np.random.default_rng(2).random((30, 5)) < 0.1
    made, found = mapped(synthetic, observed, starts, clicks, k, threshold, points)
    expected = brute_force(synthetic, observed, starts, clicks, k, threshold)
    dense = made.toarray() if points == "queries" else made.toarray().T
    np.testing.assert_allclose(dense, expected, atol=1e-6)
    assert (dense[clicks] == 1).all() and made.dtype == np.float32
    assert made.data.max() == 1 and (made.data > 0).all()
    checked = made.copy()
    checked.has_canonical_format = False
    checked.sum_duplicates()
    assert checked.nnz == made.nnz and (checked.indices == made.indices).all()
    assert found.figures()["score_histogram"]["counts"] and found.seen == 57 * k


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_mapping_equals_brute_force_on_twenty_thousand():
    size, k, threshold = 20_000, 10, 0.8
    observed, synthetic = unit(size, 128, 0, centres=3000), unit(size, 128, 1, centres=3000)
    observed[15_000:16_000] = observed[:1000]
    starts = np.arange(0, size + 1, 5)
    made, _ = mapped(synthetic, observed, starts, np.zeros((0, 2)), k, threshold)
    best: dict[tuple[int, int], float] = {}
    wide = observed.astype(np.float64).T
    for start in range(0, size, 500):
        scores = synthetic[start : start + 500].astype(np.float64) @ wide
        near = np.argpartition(-scores, k + 20, axis=1)[:, : k + 20]
        for row, places in enumerate(near):
            for x in sorted(places, key=lambda x: (-scores[row, x], x))[:k]:
                similar = (scores[row, x] + 1) / 2
                if similar >= threshold:
                    pair = (int(x), (start + row) // 5)
                    best[pair] = max(best.get(pair, 0), min(similar, 1))
    rows, columns = made.nonzero()
    assert len(best) > 50_000
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == set(best)
    expected = [best[pair] for pair in zip(rows.tolist(), columns.tolist(), strict=True)]
    np.testing.assert_allclose(made.data, expected, atol=1e-6)


def test_strongest():
    pairs, values = mapping.strongest(np.array([5, 2, 5, 2, 9]), np.array([0.8, 0.9, 0.95, 0.85, 1]))
    assert pairs.tolist() == [2, 5, 9] and values.tolist() == [0.9, 0.95, 1]


def test_neighbours_that_an_index_did_not_find():
    found = NeighbourPairs(Shape("queries", 2, 1), np.array([0, 1]), 0.0)
    found.add(0, np.array([[1, -1]]), np.array([[1.0, -np.inf]]))
    assert found.pairs()[0].tolist() == [1] and found.seen == 1


def test_a_similarity_of_zero_is_no_entry():
    found = NeighbourPairs(Shape("queries", 2, 1), np.array([0, 1]), 0.0)
    found.add(0, np.array([[0, 1]]), np.array([[0.5, -1.0]]))
    assert found.pairs()[0].tolist() == [0]


def test_statistics_by_hand():
    # 3 queries, 4 documents; known (0,0), (1,1); found (0,0) again, (0,2), (2,2); hidden (2,2), (1,3)
    shape = Shape("queries", 3, 4)
    clicks, hidden = shape.pairs([0, 1], [0, 1]), shape.pairs([1, 2], [3, 2])
    found = NeighbourPairs(shape, np.array([0, 1, 1, 2, 2]), 0.8)
    found.add(0, np.array([[0, 1], [2, 0]]), np.array([[0.8, 0.4], [0.7, 0.6]]))
    pairs, values = found.pairs()
    after, _ = mapping.augmented(clicks, pairs, values)
    assert pairs.tolist() == [0, 2, 10] and after.tolist() == [0, 2, 5, 10]
    assert mapping.statistics(shape, clicks, pairs, after, found.starts, hidden) == {
        "points": "queries", "queries": 3, "documents": 4, "rewrites": 2, "documents_with_rewrites": 2,
        "pairs_before": 2, "pairs_found": 3, "pairs_already_known": 1, "pairs_added": 2, "pairs_after": 4,
        "new_per_query": 0.6667, "queries_with_new": 0.6667, "documents_with_new": 0.25,
        "new_per_point": {"mean": 0.6667, "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0},
        "hidden": {
            "pairs": 2, "recovered": 1, "recovered_share": 0.5, "share_by_chance": 0.2,
            "pairs_with_rewrites": 1, "recovered_share_with_rewrites": 1.0,
        },
    }  # fmt: skip
    figures = found.figures()
    assert list(figures["kept_share"].values()) == [1.0, 0.75, 0.75, 0.5, 0.25, 0.0]
    counts = figures["score_histogram"]["counts"]
    assert sum(counts) == 4 and counts[36] == 1 and len(figures["score_histogram"]["edges"]) == 41


def test_saved_matrices_have_no_time_in_them(tmp_path, monkeypatch):
    made = mapping.matrix(np.array([1, 4]), np.array([1, 0.5]), (3, 2))
    save_npz(tmp_path / "a.npz", made)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)
    save_npz(tmp_path / "b.npz", made)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


# The stage. A text "a30" is a vector 30 degrees from "a0"; letters have planes of their own.


class Angles:
    dims = 6

    def __init__(self):
        self.asked = []

    def encode(self, texts, side):
        self.asked += [(side, text) for text in texts]
        vectors = np.zeros((len(texts), 6), dtype=np.float32)
        for row, text in enumerate(texts):
            plane, angle = 2 * "abc".index(text[0]), np.radians(float(text[1:]))
            vectors[row, plane : plane + 2] = np.cos(angle), np.sin(angle)
        return vectors


def write(dataset, points, documents, queries, pairs, segments):
    """A corpus and filtered texts. `documents`, `queries`: id → (text, split); `pairs`: (q, d) → split."""
    with atomic_directory(layout.corpus(dataset), "corpus") as directory:
        rows = [
            {"id": name, "title": "", "text": t, "metadata": {}, "split": s} for name, (t, s) in documents
        ]
        write_jsonl(directory / "documents.jsonl", rows)
        rows = [{"id": name, "text": text, "split": split} for name, (text, split) in queries]
        write_jsonl(directory / "queries.jsonl", rows)
        rows = [{"query_id": q, "document_id": d, "split": split} for (q, d), split in pairs.items()]
        write_jsonl(directory / "pairs.jsonl", rows)
        write_json(directory / "shape.json", {"points": points})
    filtered(dataset, [name for name, (_, split) in documents if split != "xc_test"], segments)


def filtered(dataset, documents, segments):
    with atomic_directory(data_of.filtered(dataset), "filter") as directory:
        write_text(directory / "documents.txt", "".join(f"{name}\n" for name in documents))
        write_text(directory / "raw_rewrites.txt", "".join(f"{text}\n" for own in segments for text in own))
        np.save(directory / "start_indices.npy", np.cumsum([0, *map(len, segments)]))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    model = Angles()
    monkeypatch.setattr("stages.kinds.xc.map.load", lambda knobs, fit: model)
    return model


def of_queries():
    documents = {"d1": ("", "train"), "d2": ("", "test"), "d3": ("", "empty"), "d4": ("", "val")}
    queries = {"q1": ("a0", "train"), "q2": ("a90", "train"), "q3": ("b0", "train"), "q4": ("b1", "test")}
    pairs = {("q1", "d1"): "train", ("q2", "d4"): "train", ("q3", "d4"): "hidden", ("q4", "d2"): "test"}
    write(
        "d",
        "queries",
        documents.items(),
        queries.items(),
        pairs,
        [["a10", "a80"], ["b2"], [], ["b40", "b30"]],
    )


def of_documents():
    documents = {"d1": ("", "train"), "d2": ("", "xc_test"), "d3": ("", "empty"), "d4": ("", "test")}
    queries = {"y1": ("a0", "train"), "y2": ("b0", "train"), "y3": ("c0", "train")}
    pairs = {("y1", "d1"): "train", ("y3", "d3"): "train", ("y2", "d4"): "hidden", ("y2", "d2"): "test"}
    write("d", "documents", documents.items(), queries.items(), pairs, [["a3", "b20"], [], ["b60", "b30"]])


def similar(angle):
    return (np.cos(np.radians(angle)) + 1) / 2


def lines(name):
    return (data_of.mapped("d") / name).read_text().split()


def run(**knobs):
    return stage.run("d", MapKnobs(encoder=TFIDF, top_k=2, **knobs))


def test_synthetic_queries_lead_to_points(project):
    of_queries()
    figures = run(threshold=0.8)
    assert lines("X.txt") == ["q1", "q2", "q3"] and lines("Y.txt") == ["d1", "d2", "d3", "d4"]
    made = load_npz(data_of.mapped("d") / "trn_X_Y_skim.npz")
    expected = [[1, 0, 0, 0], [similar(10), 0, 0, 1], [0, similar(2), 0, similar(30)]]
    np.testing.assert_allclose(made.toarray(), expected, atol=1e-3)
    assert made.toarray()[0, 0] == 1 and made.dtype == np.float32 and made.nnz == 5
    clicks = load_npz(data_of.mapped("d") / "trn_X_Y.npz")
    assert clicks.toarray().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert (figures["queries"], figures["documents"], figures["points"]) == (3, 4, "queries")
    assert figures["pairs_found"] == 4 and figures["pairs_already_known"] == 1
    assert figures["hidden"]["pairs"] == figures["hidden"]["recovered"] == 1
    assert ("observed", "b1") not in project.asked  # a test query


def test_synthetic_labels_lead_to_labels(project):
    of_documents()
    figures = run(threshold=0.8)
    assert lines("X.txt") == ["d1", "d3", "d4"] and lines("Y.txt") == ["y1", "y2", "y3"]
    made = load_npz(data_of.mapped("d") / "trn_X_Y_skim.npz").toarray()
    np.testing.assert_allclose(made, [[1, similar(20), 0], [0, 0, 1], [0, similar(30), 0]], atol=1e-3)
    assert made[0, 0] == made[1, 2] == 1
    assert (figures["points"], figures["queries"], figures["documents"]) == ("documents", 3, 3)
    assert figures["new_per_point"]["mean"] == 0.6667 and figures["queries_with_new"] == 0.3333
    assert figures["hidden"] == {
        "pairs": 1, "recovered": 1, "recovered_share": 1.0, "share_by_chance": 0.2857,
        "pairs_with_rewrites": 1, "recovered_share_with_rewrites": 1.0,
    }  # fmt: skip


def test_the_same_bytes_again_and_vectors_once(project):
    of_queries()
    run()
    before = {file.name: file.read_bytes() for file in data_of.mapped("d").iterdir()}
    asked = len(project.asked)
    figures = run(threshold=0.95)
    assert len(project.asked) == asked and figures["pairs_found"] == 3
    run()
    assert {file.name: file.read_bytes() for file in data_of.mapped("d").iterdir()} == before
    filtered("d", ["d1", "d2", "d3", "d4"], [["a11"], [], [], []])
    run()
    assert project.asked[asked:] == [("synthetic", "a11")]
    names = [sorted(file.suffix for file in folder.iterdir()) for folder in layout.SCRATCH.iterdir()]
    assert names == [[".npy", ".npy", ".rows", ".rows"]]


def test_other_observed_texts_are_encoded_anew_and_the_old_pruned(project):
    of_queries()
    run()
    before = list(layout.SCRATCH.iterdir())
    of_documents()
    run()
    after = list(layout.SCRATCH.iterdir())
    assert len(before) == len(after) == 1 and before != after


def test_what_the_encoder_is_fitted_on(project, monkeypatch):
    of_queries()
    seen = []
    monkeypatch.setattr("stages.kinds.xc.map.load", lambda knobs, fit: seen.extend(fit) or project)
    run()
    assert seen == ["\n"] * 4 + ["a0", "a90", "b0"]
    of_documents()
    run()
    assert len(seen) == 7 + 3 + 3


@pytest.mark.parametrize("knobs", [{"search": "ivf", "lists": 1, "probes": 1}, {"search": "hnsw", "ef": 8}])
def test_other_searches_find_the_same_among_few(project, knobs):
    of_queries()
    exact = run()
    assert run(**knobs) == exact


def test_no_observed_texts(project):
    write("d", "queries", {"d1": ("", "train")}.items(), {"q": ("a0", "test")}.items(), {}, [["a1"]])
    figures = run()
    assert load_npz(data_of.mapped("d") / "trn_X_Y_skim.npz").shape == (0, 1)
    assert figures["pairs_added"] == 0 and figures["hidden"]["recovered_share"] is None
    assert figures["kept_share"]["0.80"] is None and not project.asked


def test_no_labels_at_all(project):
    write("d", "documents", {"d1": ("", "train")}.items(), {}.items(), {}, [["a1"]])
    run()
    assert load_npz(data_of.mapped("d") / "trn_X_Y_skim.npz").shape == (1, 0)


def test_the_real_encoder_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    documents = {"d1": ("sort an array", "train"), "d2": ("read a csv file", "train")}
    queries = {"q1": ("sorting arrays", "train"), "q2": ("csv reading", "train"), "q3": ("xyz", "test")}
    pairs = {("q1", "d1"): "train", ("q2", "d2"): "hidden"}
    write("d", "queries", documents.items(), queries.items(), pairs, [["sorted array"], ["reads csv files"]])
    result = invoke(stage, ["d", "--encoder", TFIDF, "--dims", "4", "--top_k", "1"])
    assert result.exit_code == 0, result.output
    figures = read_json(layout.figures("d") / "map.json")
    assert figures["pairs_after"] == 2 and figures["hidden"]["recovered"] == 1
    assert json.dumps(figures).count("nan") == 0


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda: filtered("d", ["d1", "d2", "d4"], [["a1"]] * 3),
            "row 3: 'd4', but .* has 'd3' there; run the filter stage",
        ),
        (lambda: filtered("d", ["d1", "d2", "d3"], [["a1"]] * 3), "documents.txt: 3 rows, but .* has 4"),
        (lambda: (data_of.filtered("d") / "raw_rewrites.txt").write_text("a1"), "torn or edited"),
        (lambda: (layout.corpus("d") / "pairs.jsonl").unlink(), "pairs.jsonl: listed in manifest.json but"),
    ],
)
def test_inputs_that_do_not_belong_together(project, spoil, message):
    of_queries()
    spoil()
    with pytest.raises(UserError, match=message):
        run()
    assert not data_of.mapped("d").exists()


def test_pairs_of_points_that_are_not_there(tmp_path):
    pair, shape = {"query_id": "q", "document_id": "d", "split": "train"}, Shape("queries", 1, 1)
    path, splits = tmp_path / "f.jsonl", ("train", "hidden")
    write_jsonl(path, [pair, {**pair, "split": "hidden"}, pair, {**pair, "query_id": "t", "split": "test"}])
    known, hidden = mapping.read_pairs(path, ["q"], ["d"], shape, splits)
    assert known.tolist() == hidden.tolist() == [0]
    write_jsonl(path, [pair, {**pair, "document_id": "e", "split": "hidden"}])
    with pytest.raises(UserError, match="row 2: document_id 'e' of a hidden pair is no point or label"):
        mapping.read_pairs(path, ["q"], ["d"], shape, splits)
