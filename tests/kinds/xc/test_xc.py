"""What new labels bring: measures against napkinxc's, both models on small problems, and the stage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from napkinxc import metrics as reference
from scipy.sparse import csr_matrix, random, save_npz, vstack

from stages.core import layout
from stages.core.files import atomic_directory, read_json, write_jsonl, write_manifest
from stages.kinds.xc import places, xc
from stages.kinds.xc.knobs import XcKnobs
from stages.kinds.xc.parts import measures as xc_metrics
from stages.kinds.xc.parts.models import plt, two_tower
from stages.retrieval import encoders
from tests.helpers.cli import invoke
from tests.helpers.shipped import TFIDF


def labels_of(points: int, labels: int, density: float, seed: int) -> csr_matrix:
    made = random(points, labels, density, "csr", rng=np.random.default_rng(seed))
    made.data[:] = 1
    return made


def ranked(points: int, labels: int, k: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(labels)[:k] for _ in range(points)])


class TestMeasures:
    def test_propensities(self):
        train = labels_of(300, 40, 0.05, 1)
        for a, b in ((0.55, 1.5), (0.6, 2.6), (0.5, 0.4)):
            expected = reference.Jain_et_al_inverse_propensity(train, a, b)
            np.testing.assert_allclose(xc_metrics.inverse_propensities(train, a, b), expected)

    @pytest.mark.parametrize(("labels", "density", "k"), [(200, 0.02, 100), (30, 0.3, 30), (200, 0.02, 4)])
    def test_as_napkinxc(self, labels, density, k):
        truth = labels_of(80, labels, density, 2)
        truth = truth[np.diff(truth.indptr) > 0]
        predicted = ranked(truth.shape[0], labels, k, 3)
        predicted[::3, k // 2 :] = -1  # fewer predictions than k
        inverse = xc_metrics.inverse_propensities(labels_of(500, labels, 0.02, 4))
        found = xc_metrics.ratios(*xc_metrics.sums(predicted, truth, inverse))
        lists = [[int(label) for label in row if label >= 0] for row in predicted]
        theirs = {
            "P": reference.precision_at_k(truth, lists, 100),
            "nDCG": reference.ndcg_at_k(truth, lists, 100),
            "PSP": reference.psprecision_at_k(truth, lists, inverse, 100),
            "R": reference.recall_at_k(truth, lists, 100),
        }
        for measure, value in found.items():
            name, at = measure.split("@")
            assert value == pytest.approx(theirs[name][int(at) - 1], abs=5e-5), measure

    def test_blocks_and_points_without_labels(self, monkeypatch):
        truth, inverse = labels_of(50, 60, 0.03, 5), np.linspace(1, 3, 60)
        predicted = ranked(50, 60, 20, 6)
        whole = xc_metrics.sums(predicted, truth, inverse)
        monkeypatch.setattr(xc_metrics, "BLOCK", 7)
        np.testing.assert_array_equal(xc_metrics.sums(predicted, truth, inverse), whole)
        some = np.diff(truth.indptr) > 0
        assert 0 < some.sum() < 50
        assert xc_metrics.ratios(*whole) == xc_metrics.ratios(
            *xc_metrics.sums(predicted[some], truth[some], inverse)
        )

    def test_no_point_counts(self):
        nothing = csr_matrix((4, 9))
        sums = xc_metrics.sums(ranked(4, 9, 5, 1), nothing, np.ones(9))
        assert set(xc_metrics.ratios(*sums).values()) == {None}
        assert set(xc_metrics.differences(sums[0], sums[0], sums[1], 10, 1).values()) == {None}


class TestBootstrap:
    def test_against_a_loop(self):
        truth, inverse = labels_of(40, 30, 0.1, 7), np.linspace(1, 5, 30)
        before, totals = xc_metrics.sums(ranked(40, 30, 10, 8), truth, inverse)
        after, _ = xc_metrics.sums(ranked(40, 30, 10, 9), truth, inverse)
        found = xc_metrics.differences(before, after, totals, 200, 3)
        rng = np.random.default_rng(3)
        draws = [rng.integers(40, size=40) for _ in range(200)]
        for place, measure in enumerate(xc_metrics.MEASURES):
            ratio = [(after[d, place].sum() - before[d, place].sum()) / totals[d, place].sum() for d in draws]
            low, high = np.quantile(ratio, (0.025, 0.975))
            mean = (after[:, place].sum() - before[:, place].sum()) / totals[:, place].sum()
            assert found[measure] == pytest.approx({"mean": mean, "low": low, "high": high}, abs=6e-5)

    def test_it_is_paired(self):
        """Both gain on the same points: the difference has no spread, however much the points have."""
        truth = labels_of(40, 30, 0.1, 7)
        before, totals = xc_metrics.sums(ranked(40, 30, 10, 8), truth, np.ones(30))
        shifted = before + 0.125 * totals
        for found in xc_metrics.differences(before, shifted, totals, 50, 1).values():
            assert found == {"mean": 0.125, "low": 0.125, "high": 0.125}


class TestBuckets:
    def test_thirds_of_the_pairs(self):
        frequencies = np.array([0, 1, 1, 1, 1, 2, 2, 4, 6])  # 18 pairs: 6, 4, 4 and 4
        names = [xc.BUCKETS[place] for place in xc.buckets(frequencies)]
        assert names == ["unseen", "tail", "tail", "tail", "tail", "tail", "tail", "torso", "head"]

    def test_equal_labels_are_together(self):
        assert set(xc.buckets(np.ones(9, dtype=int))) == {xc.BUCKETS.index("tail")}

    def test_only_its_own_labels_count(self):
        truth = labels_of(20, 10, 0.3, 1)
        chosen = np.arange(10) < 4
        part = xc.within(truth, chosen)
        assert (part.toarray() == truth.toarray() * chosen).all() and part.nnz == part.data.sum()


TOPICS = "sort merge plot hash parse graph matrix kernel image signal audio table".split()


def problem(repeats: int = 6):
    """Points that name their label's topic, 12 labels; the first three labels have no training point."""
    texts, rows = [], []
    for number, topic in enumerate(TOPICS):
        for n in range(repeats):
            texts.append(f"how to {topic} thing{n}")
            rows.append(number)
    known = np.array(rows) >= 3
    places = np.flatnonzero(known), np.array(rows)[known]
    train = csr_matrix((np.ones(known.sum(), dtype=np.float32), places), shape=(len(texts), len(TOPICS)))
    return texts, train, [f"{topic} of things" for topic in TOPICS]


class TestTree:
    def test_learns_and_keeps_to_known_labels(self, capfd):
        texts, train, _ = problem()
        found = plt.predict(texts, train, [f"{topic} now" for topic in TOPICS], 20, 10.0, 1)
        assert found.shape == (12, 20) and found[3:, 0].tolist() == list(range(3, 12))
        assert sorted(found[5][found[5] >= 0]) == list(range(3, 12)) and (found[:, 9:] == -1).all()
        assert capfd.readouterr() == ("", "")

    def test_blocks_of_points(self, monkeypatch):
        texts, train, _ = problem()
        whole = plt.predict(texts, train, texts, 5, 10.0, 1)
        monkeypatch.setattr(plt, "BLOCK", 7)
        np.testing.assert_array_equal(plt.predict(texts, train, texts, 5, 10.0, 1), whole)

    def test_same_on_any_number_of_threads(self, monkeypatch):
        rng = np.random.default_rng(1)
        words = [f"word{n}" for n in range(80)]
        texts = [" ".join(rng.choice(words, 6)) for _ in range(300)]
        train = labels_of(300, 150, 0.02, 3)
        found = []
        for cores in (1, 2, 2):
            monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
            found.append(plt.predict(texts, train, texts[:50], 100, 10.0, 1))
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[1], found[2])


def settings(**changes) -> XcKnobs:
    given = {"tower": TFIDF, "eval_rows": "-", "steps": 60, "batch_size": 8, "lr": 0.01, "seed": 1}
    return XcKnobs(**{**given, **changes})


def one_hot(texts: list[str], topics: list[str], dims: int) -> np.ndarray:
    """A unit vector for each text, along the axis of the first of `topics` that is in it."""
    return np.eye(dims, dtype=np.float16)[
        [next(n for n, t in enumerate(topics) if t in text) for text in texts]
    ]


class TestTower:
    def problem(self):
        """Points along the first 12 axes, labels along the next 12: untrained, none is near its points."""
        texts, train, labels = problem()
        points, pages = one_hot(texts, TOPICS, 24), np.roll(one_hot(labels, TOPICS, 24), 12, axis=1)
        return points, pages, train

    def test_learns_and_finds_what_it_has_not_seen(self):
        points, pages, train = self.problem()
        asked = points[::6]
        found = two_tower.predict(points, pages, train, train, asked, 20, settings())
        assert found.shape == (12, 12)  # no more than there are
        assert found[3:, 0].tolist() == list(range(3, 12))
        # without a pair, a label is found where its text is near: here its own vector
        found = two_tower.predict(points, pages, train, train, pages, 1, settings())
        assert found[:, 0].tolist() == list(range(12))

    def test_same_on_any_number_of_threads(self):
        points, pages, train = self.problem()
        before, found = torch.get_num_threads(), []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shares = two_tower.draws(train, train)
            found.append(two_tower.predict(points, pages, train, train, points, 12, settings()))
            assert torch.get_num_threads() == threads and shares.sum() == pytest.approx(1)
        torch.set_num_threads(before)
        np.testing.assert_array_equal(*found)

    def test_half_of_the_draws_are_known_pairs(self):
        known = csr_matrix(np.array([[1, 0, 0], [0, 1, 0]]))
        more = csr_matrix(np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0.5]]))
        shares = csr_matrix((two_tower.draws(more, known), more.nonzero()), shape=more.shape).toarray()
        assert shares[:2, :2].tolist() == pytest.approx(np.array([[1 / 4, 1 / 12], [0, 1 / 4]]))
        assert shares[2:].tolist() == pytest.approx(np.array([[0, 0, 1 / 6], [1 / 6, 0, 1 / 12]]))
        assert two_tower.draws(known, known).tolist() == [0.5, 0.5]

    def test_true_labels_are_no_negatives(self, monkeypatch):
        """The loss is given what is true of each row, its own label among it, which counts all the same."""
        points, pages, train = self.problem()
        seen, loss = [], two_tower.contrastive
        monkeypatch.setattr(two_tower, "contrastive", lambda *given: seen.append(given[1]) or loss(*given))
        two_tower.predict(points, pages, train, train, points, 12, settings(steps=1, batch_size=16))
        (true,) = seen
        assert true.shape == (16, 16 * (1 + two_tower.RANDOM))
        own = torch.arange(16) * (1 + two_tower.RANDOM)
        assert true[torch.arange(16), own].all() and (~true).sum() > 0


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """What `pack` writes; the augmented matrix knows the labels that the original one has no point of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETORT_TRACKING", "off")
    folder = places.packed("toy")
    folder.mkdir(parents=True)
    texts, original, labels = problem()
    rows = np.arange(len(texts))
    augmented = csr_matrix((np.where(rows < 18, 0.8, 1), (rows, rows // 6)), shape=original.shape)
    tests = [f"the {topic} please" for topic in TOPICS] + ["nothing is true of this"]
    truth = csr_matrix((np.ones(12), (np.arange(12), np.arange(12))), shape=(13, 12))
    # a synthetic query of each of the first three labels, as a row of its own
    synthetic = [f"{topic} at once" for topic in TOPICS[:3]]
    rows = csr_matrix((np.ones(3), (np.arange(3), np.arange(3))), shape=(3, 12))
    augmented = vstack([augmented, rows], format="csr")
    names = {"trn_X": texts, "trn_X_skim": [*texts, *synthetic], "tst_X": tests, "Y": labels}
    for name, lines in names.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    for name, matrix in (("trn_X_Y", original), ("trn_X_Y_skim", augmented), ("tst_X_Y", truth)):
        save_npz(folder / f"{name}.npz", matrix.astype(np.float32))
    (folder / "filter_labels_test.txt").write_text("")
    write_manifest(folder, "pack", {})
    with atomic_directory(layout.corpus("toy"), "corpus") as corpus:
        pages = [
            {"id": topic, "text": text, "split": "train"} for topic, text in zip(TOPICS, labels, strict=True)
        ]
        write_jsonl(corpus / "documents.jsonl", pages)
        write_jsonl(corpus / "queries.jsonl", [{"id": "q", "text": texts[0], "split": "train"}])
    Path("rows.jsonl").write_text("")
    return folder


def repack(folder):
    (folder / "manifest.json").unlink()
    write_manifest(folder, "pack", {})


def run(**knobs):
    given = {
        "tower": TFIDF,
        "eval_rows": "rows.jsonl",
        "bootstrap": 50,
        "dims": 16,
        "steps": 20,
        "batch_size": 8,
    }
    given |= knobs
    result = invoke(xc, ["toy", *(f"--{k}={v}" for k, v in given.items())])
    if result.exit_code not in (0, 2):
        raise result.exception
    return result


class TestStage:
    def test_the_gain(self, packed):
        assert run().exit_code == 0
        found = read_json(layout.figures("toy") / "xc.json")
        assert list(found) == ["plt", "two_tower"]
        tree = found["plt"]
        assert list(tree["original"]) == list(tree["augmented"]) == list(tree["difference"])
        assert set(tree["original"]) == {
            f"{m}@{k}" for m in ("P", "nDCG", "PSP", "R") for k in (1, 3, 5, 10, 100)
        }
        # 9 of the 12 labels of the tests have training points, and with the new ones all have
        assert tree["original"]["R@10"] == 0.75 and tree["augmented"]["R@100"] == 1
        assert tree["difference"]["R@100"]["mean"] == 0.25 and tree["difference"]["R@100"]["low"] > 0
        assert tree["points"] == {"original": 54, "augmented": 75, "test": 12, "test_without_labels": 1}
        unseen, tail = tree["buckets"]["unseen"], tree["buckets"]["tail"]
        assert (unseen["labels"], unseen["pairs"], unseen["frequency"]) == (3, 3, [0, 0])
        assert (tail["labels"], tail["pairs"], tail["frequency"]) == (9, 9, [6, 6])
        assert unseen["original"]["R@10"] == 0 and unseen["difference"]["R@100"]["mean"] == 1
        assert tree["buckets"]["head"]["original"]["R@10"] is None
        rows = read_json(layout.figures("toy") / "plots" / "xc.json")
        assert {"model": "plt", "measure": "R@10", "matrix": "original", "value": 0.75} in rows

    def test_queries_in_peoples_wording(self, packed):
        """Which only the augmented labels lead to: the original ones have no point of the first three."""
        write_jsonl(
            Path("rows.jsonl"), [{"query": f"{t} at will", "pos_index": [t], "kind": 1} for t in TOPICS]
        )
        assert run(models="plt").exit_code == 0
        people = read_json(layout.figures("toy") / "xc.json")["plt"]["people"]
        assert people["original"]["all"]["R@10"]["mean"] == 0.75
        assert people["augmented"]["all"]["R@1"]["mean"] == 1 and people["augmented"]["all"]["queries"] == 12
        gained = people["difference"]["how-to"]["R@10"]
        assert gained["mean"] == 0.25 and 0 <= gained["low"] < gained["high"]
        for rows, message in (
            (
                [{"query": "x", "pos_index": ["no"]}],
                "rows.jsonl, row 1: field 'pos_index': there is no page 'no'",
            ),
            ([{"query": "How to sort thing0!", "pos_index": ["sort"]}], "stands in training, too"),
        ):
            write_jsonl(Path("rows.jsonl"), rows)
            result = run(models="plt")
            assert result.exit_code == 2 and message in result.output

    def test_vectors_are_kept(self, packed, monkeypatch):
        """Another number of steps encodes nothing again; another text does."""
        run(models="two_tower")
        monkeypatch.setattr(encoders.LatentSemantic, "encode", lambda *_: pytest.fail("encoded again"))
        assert run(models="two_tower", steps=5).exit_code == 0
        with pytest.raises(pytest.fail.Exception, match="encoded again"):
            run(models="two_tower", words=2)

    def test_same_bytes(self, packed):
        run()
        names = ("xc.json", "plots/xc.json")
        first = [(layout.figures("toy") / name).read_bytes() for name in names]
        shutil.rmtree(layout.reports("toy"))
        run()
        assert [(layout.figures("toy") / name).read_bytes() for name in names] == first

    def test_one_model(self, packed):
        run(models="plt")
        assert list(read_json(layout.figures("toy") / "xc.json")) == ["plt"]

    def test_filtered_pairs_are_no_answers(self, packed):
        """The label of topic 5 is filtered for its own test point, and the next ones move up."""
        (packed / "filter_labels_test.txt").write_text("5 5\n5 4\n")
        repack(packed)
        data = xc.read(packed)
        knobs = settings(dims=16)
        for model in knobs.models:
            ranked = xc.predict("toy", model, data, ["plot"], knobs)
            assert ranked["augmented"].shape[0] == 14
            found = xc.without_filtered(ranked["augmented"], data.filtered)
            assert not {4, 5} & set(found[5]) and (found[5] >= 0).sum() == 10
            assert found[6, 0] == 6
        run(models="plt")
        recall = read_json(layout.figures("toy") / "xc.json")["plt"]["augmented"]["R@100"]
        assert recall == pytest.approx(11 / 12, abs=1e-4)

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            (lambda folder: save_npz(folder / "trn_X_Y.npz", csr_matrix((7, 12))), "trn_X_Y.npz"),
            (lambda folder: (folder / "filter_labels_test.txt").write_text("0 99\n"), "row 1: the pair 0 99"),
            (lambda folder: (folder / "Y.txt").write_text("a\nb\n"), "trn_X_Y.npz"),
        ],
    )
    def test_bad_folders(self, packed, harm, message):
        harm(packed)
        assert "edited" in run().output
        repack(packed)
        result = run()
        assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output

    @pytest.mark.parametrize(("name", "shape"), [("tst_X_Y.npz", (13, 12)), ("trn_X_Y.npz", (72, 12))])
    def test_nothing_to_measure(self, packed, name, shape):
        save_npz(packed / name, csr_matrix(shape))
        repack(packed)
        result = run()
        assert result.exit_code == 0 and "nothing is measured" in result.output
        assert read_json(layout.figures("toy") / "xc.json") == {}

    def test_bad_knobs(self, packed):
        assert "models" in run(models="bm25").output
        assert "encoder: no/such: no such directory" in run(models="two_tower", tower="no/such").output
