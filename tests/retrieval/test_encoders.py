"""Texts to vectors: TF-IDF, sentence-transformers, checkpoints around them, and files that can be resumed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.core.errors import UserError
from stages.retrieval import encoders
from stages.retrieval.encoders import embeddings, fingerprint, finished, load
from stages.retrieval.knobs import Encoder
from tests.helpers.shipped import BM25, TFIDF

TEXTS = ["sort array by axis", "read a csv file into a DataFrame", "plot a line", "sorted arrays", "zebra"]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] sort array by axis read csv file plot a line query : page".split()


def tfidf(**knobs) -> Encoder:
    return Encoder(encoder=TFIDF, **knobs)


def test_latent_semantics():
    documents = [*TEXTS, "arrays are sorted along an axis", "csv files are read", "lines in a plot"]
    model = load(tfidf(dims=4), documents)
    first, second = (
        model.encode(texts, "observed") for texts in (TEXTS, ["sorting of the array axis", "csv"])
    )
    assert first.dtype == np.float32 and first.shape == (5, 4) == (len(TEXTS), model.dims)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert (second @ first.T).argmax(axis=1).tolist() == [0, 1]
    assert not model.encode(["qwxyz"], "synthetic").any()


def test_one_text_is_too_few_to_reduce():
    model = load(tfidf(), ["sort an array"])
    assert model.dims == 3 and model.encode(["array"], "observed").max() == 1


def test_a_word_of_one_text_is_left_out_where_texts_are_many():
    shared = [f"sort w{n % 7}" for n in range(100)]
    assert load(tfidf(), [*shared, "zebra"]).encode(["zebra"], "observed").any() == np.False_
    assert load(tfidf(), [*shared[:99], "zebra"]).encode(["zebra"], "observed").any()


@pytest.mark.parametrize("again", [0, 3], ids=["distinct", "one text said four times"])
def test_few_texts_keep_their_cosines(again):
    texts = ["sort arrays", "read files", "read a file and sort it", *["sort arrays"] * again]
    encoder = load(tfidf(), texts)
    full = encoder.vectorizer.transform(texts).toarray()
    found = encoder.encode(texts, "observed")
    assert encoder.dims == 3
    np.testing.assert_allclose(found @ found.T, full @ full.T, atol=1e-6)


def test_a_rare_word_among_many_texts_keeps_its_axis():
    encoder = load(tfidf(), ["common"] * 60_000 + ["rare"] * 2)
    assert encoder.dims == 2
    assert encoder.encode(["rare"], "observed") @ encoder.encode(["common"], "observed").T < 1e-3


def test_texts_without_words():
    with pytest.raises(UserError, match="share no words"):
        load(tfidf(), ["?", "!"])


@pytest.mark.parametrize("given", [{"weights": "a.pt"}, {"max_length": 8}, {"observed_prompt": "query: "}])
def test_knobs_that_tfidf_has_no_use_for(given):
    with pytest.raises(UserError, match=f"{next(iter(given))}: .* is for a model; .*tfidf has no use for it"):
        load(tfidf(**given), TEXTS)


@pytest.mark.slow
def test_tfidf_has_the_same_bytes_on_any_number_of_threads():
    code = (
        "import hashlib\n"
        "from stages.retrieval.encoders import load\n"
        "from stages.retrieval.knobs import Encoder\n"
        "texts = [f'w{n % 17} w{n % 23} w{n % 31} w{n % 7}' for n in range(900)]\n"
        f"vectors = load(Encoder(encoder={TFIDF!r}, dims=32), texts).encode(texts, 'observed')\n"
        "print(hashlib.sha256(vectors.tobytes()).hexdigest())"
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


# Files of vectors


class Letters:
    """Counts letters, and the texts it was asked for; stops after `blocks` calls."""

    dims = 4

    def __init__(self, blocks=100):
        self.blocks, self.asked = blocks, []

    def encode(self, texts, side):
        if len(self.asked) == self.blocks:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(encoders, "BLOCK", 10)


def letters(count):
    draw = np.random.default_rng(0)
    return ["".join(draw.choice(list("abcd"), 12)) + f"-{n}" for n in range(count)]


def test_a_stopped_run_goes_on_with_the_same_bytes(tmp_path, small_blocks):
    texts = letters(47)
    whole = embeddings(Letters(), texts, "synthetic", tmp_path / "whole.npy")
    with pytest.raises(KeyboardInterrupt):
        embeddings(Letters(blocks=2), iter(texts), "synthetic", tmp_path / "part.npy", len(texts))
    assert finished(tmp_path / "part.npy") is None
    later = Letters()
    part = embeddings(later, iter(texts), "synthetic", tmp_path / "part.npy", len(texts))
    assert [text for block in later.asked for text in block] == texts[20:]
    assert (tmp_path / "part.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert whole.dtype == part.dtype == np.float16 and part.shape == (47, 4)
    assert isinstance(part, np.memmap) and not part.flags.writeable
    np.testing.assert_allclose(part[::10], Letters().encode(texts[::10], "synthetic"), atol=1e-3)


def test_what_is_there_is_not_made_again(tmp_path, small_blocks):
    made = embeddings(Letters(), letters(13), "observed", tmp_path / "a.npy")
    again = embeddings(Letters(blocks=0), letters(13), "observed", tmp_path / "a.npy")
    assert (made == again).all() and (finished(tmp_path / "a.npy") == made).all()


def test_a_text_that_occurs_again_is_encoded_once(tmp_path, small_blocks):
    model = Letters()
    made = embeddings(model, ["ab", "c", "ab", "ab"], "observed", tmp_path / "a.npy")
    assert model.asked == [["ab", "c"]] and (made[0] == made[2:]).all() and (made[0] != made[1]).any()


def test_no_texts(tmp_path):
    assert embeddings(Letters(), [], "observed", tmp_path / "a.npy").shape == (0, 4)


# sentence-transformers


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Two tiny Bert encoders of different weights, with mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoders")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    for seed, name in enumerate(("one", "two")):
        BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(
            folder / "bert"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            config = BertConfig(
                vocab_size=len(WORDS), intermediate_size=32, max_position_embeddings=64, **shape
            )
            BertModel(config).save_pretrained(folder / "bert")
        bert = Transformer(str(folder / "bert"))
        SentenceTransformer(modules=[bert, Pooling(16)], device="cpu").save(str(folder / name))
    return {name: folder / name for name in ("one", "two")}


def encoded(model: Path, texts=TEXTS[:3], side="observed", **knobs):
    return load(Encoder(encoder=str(model), **knobs), []).encode(list(texts), side)


def checkpoint(model: Path, file: Path, **more) -> str:
    """Save the model's tensors as the wrapper of NGAME's code calls them."""
    import torch
    from sentence_transformers import SentenceTransformer

    tensors = SentenceTransformer(str(model), device="cpu").state_dict()
    names = {
        f"encoder.encoder.transformer.{name.replace('0.model.', '0.auto_model.')}": name for name in tensors
    }
    torch.save({**{name: tensors[own] for name, own in names.items()}, **more}, file)
    return str(file)


def test_a_directory(models):
    first = encoded(models["one"])
    assert first.dtype == np.float32 and first.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(first, encoded(models["one"]))
    np.testing.assert_allclose(first, encoded(models["one"], batch_size=1), atol=1e-5)
    assert np.abs(first - encoded(models["two"])).max() > 0.1


def test_prompts_go_before_the_texts_of_their_side(models):
    knobs = {"synthetic_prompt": "query : ", "observed_prompt": "page : "}
    for side, prompt in (("synthetic", "query : "), ("observed", "page : ")):
        given = encoded(models["one"], side=side, **knobs)
        written = encoded(models["one"], [prompt + text for text in TEXTS[:3]])
        np.testing.assert_allclose(given, written, atol=1e-5)
        assert np.abs(given - encoded(models["one"])).max() > 1e-2


def test_a_text_is_cut_to_its_first_tokens(models):
    texts = ["sort array by axis", "sort array plot line"]
    whole, cut = encoded(models["one"], texts), encoded(models["one"], texts, max_length=4)
    assert np.abs(whole[0] - whole[1]).max() > 1e-2
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)  # [CLS] sort array [SEP]
    with pytest.raises(UserError, match="max_length: 65 is more than the 64 tokens"):
        encoded(models["one"], max_length=65)


def test_weights_of_a_checkpoint(models, tmp_path):
    given = encoded(models["one"], weights=checkpoint(models["two"], tmp_path / "w.pt"))
    np.testing.assert_array_equal(given, encoded(models["two"]))


def test_a_checkpoint_with_a_projection(models, tmp_path, capsys):
    import torch

    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn((8, 16), generator=draw), torch.randn(8, generator=draw)
    more = {"encoder.transform.weight": weight, "encoder.transform.bias": bias, "classifier.weight": bias}
    file = checkpoint(models["two"], tmp_path / "w.pt", **more)
    given = encoded(models["one"], weights=file)

    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(models["two"]), device="cpu").encode(TEXTS[:3])  # not of length 1
    expected = plain @ weight.numpy().T + bias.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, atol=1e-2)  # in bfloat16 where the processor has it
    assert load(Encoder(encoder=str(models["one"]), weights=file), []).dims == 8
    assert "1 tensors are none of the encoder's: classifier.weight" in capsys.readouterr().err


def test_checkpoints_that_do_not_fit(models, tmp_path):
    import torch

    whole = torch.load(checkpoint(models["two"], tmp_path / "w.pt"), weights_only=True)
    name = next(name for name in whole if name.endswith("pooler.dense.bias"))
    first = next(iter(whole))

    class Code:
        def __reduce__(self):
            return print, ("run",)

    cases = {
        "another model.* Missing key.*pooler.dense.bias": {n: t for n, t in whole.items() if n != name},
        r"size mismatch for .*pooler.dense.bias: .*\[3\].*\[16\]": {**whole, name: torch.zeros(3)},
        "expected one tensor called .*, found 0": {"a": torch.zeros(1)},
        "expected one tensor called .*, found 2": {
            **whole,
            f"other.{first.partition('transformer.')[2]}": whole[first],
        },
        "projects 5 dimensions, the model has 16": {**whole, "transform.weight": torch.zeros(2, 5)},
        "holds more than tensors": {"state_dict": whole},
        "not a file of tensors alone": Code(),
    }
    for message, stored in cases.items():
        torch.save(stored, tmp_path / "bad.pt")
        with pytest.raises(UserError, match=f"weights: .*bad.pt: .*{message}"):
            encoded(models["one"], weights=str(tmp_path / "bad.pt"))
    with pytest.raises(UserError, match="none.pt: no such file"):
        encoded(models["one"], weights="none.pt")


def test_directories_that_are_no_encoder(tmp_path):
    stray = tmp_path / "stray"
    stray.mkdir()
    for path, message in (
        ("sentence-transformers/all-MiniLM-L6-v2", "no such directory; expected models/shipped/tfidf or a"),
        (str(stray), "holds neither retriever.json nor modules.json"),
        (BM25, "type 'bm25' is of no use here"),
    ):
        with pytest.raises(UserError, match=f"encoder: .*{message}"):
            load(Encoder(encoder=path), TEXTS)
    (stray / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="stray: holds no tokenizer"):
        load(Encoder(encoder=str(stray)), TEXTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", '[{"idx": 0'),
        ("modules.json", '{"a": 1}'),
        ("config.json", "[]"),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", None),
    ],
)
def test_an_encoder_that_is_not_whole_is_one_line(models, tmp_path, name, content):
    """The last of them cannot pad, as those made of a language model often cannot."""
    import json

    broken = shutil.copytree(models["one"], tmp_path / "broken")
    file = broken / name
    if content is None:
        settings = json.loads(file.read_text()) | {"pad_token": None}
        content = json.dumps(settings)
    file.write_text(content)
    with pytest.raises(UserError, match="broken' is no sentence-transformers model .") as caught:
        load(Encoder(encoder=str(broken)), TEXTS)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_covers_files_and_knobs_in_use(models, tmp_path):
    plain = Encoder(encoder=str(models["one"]))
    weights = checkpoint(models["one"], tmp_path / "w.pt")
    found = [fingerprint(plain), fingerprint(Encoder(encoder=str(models["two"])))]
    found += [fingerprint(plain.model_copy(update={"weights": weights}))]
    found += [fingerprint(plain.model_copy(update={"synthetic_prompt": "query : "}))]
    checkpoint(models["two"], tmp_path / "w.pt")
    found += [fingerprint(plain.model_copy(update={"weights": weights}))]
    found += [fingerprint(tfidf()), fingerprint(tfidf(dims=8))]
    assert len(set(found)) == 7
    assert fingerprint(plain) == found[0] == fingerprint(plain.model_copy(update={"dims": 8}))
    assert fingerprint(tfidf()) == fingerprint(tfidf(batch_size=1))


def test_the_fingerprint_leaves_out_the_knobs_of_a_stage(models):
    from stages.kinds.xc.knobs import MapKnobs

    name = str(models["one"])
    assert fingerprint(MapKnobs(encoder=name, threshold=0.5)) == fingerprint(Encoder(encoder=name))
