"""What new labels bring: measures against napkinxc's, both models on small problems, and the stage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from napkinxc import metrics as reference
from scipy.sparse import csr_matrix, random, save_npz

from stages.core import layout
from stages.core.errors import UserError
from stages.core.files import read_json, write_manifest
from stages.kinds.xc import places, xc
from stages.kinds.xc.knobs import XcKnobs
from stages.kinds.xc.parts import measures as xc_metrics
from stages.kinds.xc.parts.models import plt, two_tower
from tests.helpers.cli import invoke
from tests.helpers.shipped import STATIC


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


def transformer_of(texts: list[str], folder: Path) -> str:
    """A small BERT that knows the words of `texts`, as a sentence-transformers directory."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in texts for w in t.split()})]
    (folder / "vocab.txt").write_text("\n".join(words))
    bert = str(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(bert)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)).save_pretrained(bert)
    path = str(folder / "model")
    SentenceTransformer(modules=[Transformer(bert), Pooling(32)], device="cpu").save(path)
    return path


def settings(**changes) -> XcKnobs:
    given = {"tower": STATIC, "dims": 64, "words": 8, "epochs": 6, "batch_size": 8, "lr": 0.03, "seed": 1}
    return XcKnobs(**{**given, **changes})


class TestTower:
    def test_finds_labels_by_their_text(self):
        texts, train, labels = problem()
        found = two_tower.predict(texts, train, labels, [f"to {topic}" for topic in TOPICS], 20, settings())
        assert found.shape == (12, 12)  # no more than there are
        assert found[:, 0].tolist() == list(range(12))  # the first three have no point in training

    def test_same_on_any_number_of_threads(self):
        texts, train, labels = problem()
        before, found = torch.get_num_threads(), []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(two_tower.predict(texts, train, labels, texts, 12, settings()))
            assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
        np.testing.assert_array_equal(*found)

    def test_true_labels_are_no_negatives(self):
        train = csr_matrix(np.array([[1, 0.5, 0], [0, 1, 0], [0, 1, 0]]))
        found = two_tower.true_elsewhere(train, np.array([0, 1, 2]), np.array([0, 1, 1]))
        assert found.tolist() == [[False, True, True], [False, False, True], [False, True, False]]

    def test_loss(self):
        rng = np.random.default_rng(1)
        cosines, values = rng.uniform(-1, 1, (4, 4)), rng.uniform(0.5, 1, 4)
        out = rng.random((4, 4)) < 0.4
        np.fill_diagonal(out, False)
        each = []
        for row in range(4):
            logits = two_tower.SCALE * cosines[row]
            each.append(np.log(np.exp(logits[~out[row]]).sum()) - logits[row])
        found = two_tower.in_batch_loss(*(torch.from_numpy(x) for x in (cosines, values, out)))
        assert float(found) == pytest.approx(np.average(each, weights=values))

    def test_word_vectors_of_ones_own(self, tmp_path):
        """Over plain words, which would know none of their stems."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer, models, pre_tokenizers

        texts, train, labels = problem()
        vocabulary = {word: n for n, word in enumerate(["?", *TOPICS])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        start = np.random.default_rng(1).normal(size=(13, 8)).astype(np.float32)
        path = str(tmp_path / "model")
        SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=start)]).save(path)
        found = two_tower.predict(texts, train, labels, [f"the {t}" for t in TOPICS], 3, settings(tower=path))
        assert found.shape == (12, 3) and found[:, 0].tolist() == list(range(12))

    def test_a_transformer_is_finetuned(self, tmp_path):
        texts, train, labels = problem()
        path = transformer_of(texts, tmp_path)
        how = settings(tower=path, lr=3e-3, epochs=12)
        first, second = (two_tower.predict(texts, train, labels, texts[18:], 3, how) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert (first[:, 0] == np.arange(18, 72) // 6).mean() > 0.8  # by chance 1 in 12

    def test_parts_of_a_batch_have_the_gradients_of_the_whole(self, tmp_path, monkeypatch):
        texts, _, _ = problem()
        model = two_tower.pretrained(transformer_of(texts, tmp_path)).eval()
        found = []
        for parts in (1000, 5):
            monkeypatch.setattr(two_tower, "AT_ONCE", parts)
            vectors = two_tower.embed(model, texts)
            model.zero_grad()
            (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
            found.append([vectors.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(found[0]) == len(found[1]) > 10
        for whole, part in zip(*found, strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)

    def test_no_such_model(self, tmp_path):
        texts, train, labels = problem()
        with pytest.raises(UserError, match="tower: .*nowhere: no such directory"):
            two_tower.predict(texts, train, labels, texts, 3, settings(tower=str(tmp_path / "nowhere")))


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
    for name, lines in (("trn_X", texts), ("tst_X", tests), ("Y", labels)):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    for name, matrix in (("trn_X_Y", original), ("trn_X_Y_skim", augmented), ("tst_X_Y", truth)):
        save_npz(folder / f"{name}.npz", matrix.astype(np.float32))
    (folder / "filter_labels_test.txt").write_text("")
    write_manifest(folder, "pack", {})
    return folder


def repack(folder):
    (folder / "manifest.json").unlink()
    write_manifest(folder, "pack", {})


def run(**knobs):
    given = {"tower": STATIC, "bootstrap": 50, "dims": 16, "epochs": 4, "batch_size": 8, **knobs}
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
        assert tree["points"] == {"original": 54, "augmented": 72, "test": 12, "test_without_labels": 1}
        unseen, tail = tree["buckets"]["unseen"], tree["buckets"]["tail"]
        assert (unseen["labels"], unseen["pairs"], unseen["frequency"]) == (3, 3, [0, 0])
        assert (tail["labels"], tail["pairs"], tail["frequency"]) == (9, 9, [6, 6])
        assert unseen["original"]["R@10"] == 0 and unseen["difference"]["R@100"]["mean"] == 1
        assert tree["buckets"]["head"]["original"]["R@10"] is None
        rows = read_json(layout.figures("toy") / "plots" / "xc.json")
        assert {"model": "plt", "measure": "R@10", "matrix": "original", "value": 0.75} in rows

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
        knobs = XcKnobs(tower=STATIC, dims=16)
        for model in knobs.models:
            found = xc.predict(model, data, data.matrices["augmented"], knobs)
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
        assert "tower" in run(models="two_tower", tower="no/such").output
