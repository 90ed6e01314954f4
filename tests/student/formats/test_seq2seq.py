"""Encoder-decoder bases: what is written computes the same and tokenises alike; clear refusals."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer, BartConfig, T5ForConditionalGeneration

from stages.base_seq2seq import run
from stages.core.errors import UserError
from stages.core.files import read_object, verify_manifest
from stages.knobs import BaseSeq2seqKnobs
from tests.helpers.tiny import EOS, tiny_tokenizer
from tests.helpers.tiny_t5 import tiny_t5

NONE, SOURCE, MADE = "models/shipped/none", Path("source"), Path("models/base/m")
KNOBS = BaseSeq2seqKnobs(path="source")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_t5(SOURCE)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_directory_is_taken_over_with_all_that_it_needs():
    (SOURCE / "README.md").write_text("---\nlicense: mit\n---\n")
    (SOURCE / "spiece.model").write_bytes(b"SentencePiece's own")
    found = run("m", KNOBS)
    verify_manifest(MADE)
    assert found["family"] == "t5" and found["parity"]["load_save"] == 0 and found["layers"] == [2, 2]
    for name in ("generation_config.json", "tokenizer_config.json", "README.md", "spiece.model"):
        assert (MADE / name).is_file()
    ids = torch.tensor([[5, 6, 7, 1]])
    models = [T5ForConditionalGeneration.from_pretrained(folder) for folder in (SOURCE, MADE)]
    assert torch.equal(*(model(input_ids=ids, labels=ids).logits for model in models))
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (SOURCE, MADE)]
    one, other = (tokenizer("how to sort an array")["input_ids"] for tokenizer in tokenizers)
    assert one == other and one.count(1) == 1
    assert tokenizers[1].decode(one, skip_special_tokens=True) == "how to sort an array"
    before = (MADE / "manifest.json").read_bytes()
    run("m", KNOBS)
    assert (MADE / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_stays_one_for_every_release(tied):
    """Transformers 5 writes tie_word_embeddings: true into every config; 4 would tie and scale by it."""
    tiny_t5(Path("tied"), tied=tied)
    assert run("m", BaseSeq2seqKnobs(path="tied"))["tied"] is tied
    config, weights = read_object(MADE / "config.json"), load_file(MADE / "model.safetensors")
    assert config["tie_word_embeddings"] is config["scale_decoder_outputs"] is tied
    assert ("lm_head.weight" in weights) is not tied


def test_a_commit_of_the_hub(monkeypatch):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision))
        assert not [pattern for pattern in allow_patterns if "bin" in pattern or "py" in pattern]
        return str(SOURCE)

    monkeypatch.setattr("stages.base_hub.snapshot_download", snapshot_download)
    given = {"path": NONE, "id": "google/flan-t5-small"}
    found = run("m", BaseSeq2seqKnobs(**given, revision="a" * 40))
    assert asked == [("google/flan-t5-small", "a" * 40)] and found["hub_id"] == "google/flan-t5-small"
    assert read_object(MADE / "provenance.json") == {"hub_id": given["id"], "revision": "a" * 40}
    with pytest.raises(UserError, match=r"base_seq2seq\.m\.revision: 'main' is not a commit hash"):
        run("m", BaseSeq2seqKnobs(**given, revision="main"))


@pytest.mark.parametrize("given", [{"path": NONE}, {"path": "source", "id": "google/flan-t5-small"}])
def test_there_is_one_source(given):
    with pytest.raises(ValidationError, match=f"expected a path, or an id with path {NONE}"):
        BaseSeq2seqKnobs(**given)


def test_float16_becomes_float32_and_bfloat16_stays():
    for stored, kept in {"float16": "float32", "bfloat16": "bfloat16"}.items():
        T5ForConditionalGeneration.from_pretrained(SOURCE, dtype=stored).save_pretrained(stored)
        for file in SOURCE.glob("tokenizer*"):
            (Path(stored) / file.name).write_bytes(file.read_bytes())
        assert run("m", BaseSeq2seqKnobs(path=stored))["dtype"] == kept
        assert str(load_file(MADE / "model.safetensors")["shared.weight"].dtype) == f"torch.{kept}"


def with_blanks(lstrip: bool = False) -> None:
    """Tokens for white space, as fastchat-t5 has them."""
    core = Tokenizer.from_file(str(SOURCE / "tokenizer.json"))
    core.add_tokens([AddedToken(text, lstrip=lstrip, normalized=False) for text in ("\n", "  ")])
    core.save(str(SOURCE / "tokenizer.json"))


def test_white_space_that_has_tokens_is_kept():
    with_blanks()
    assert run("m", KNOBS)["parity"]["texts_equal"] == 7
    tokenizer = AutoTokenizer.from_pretrained(MADE)
    assert tokenizer.decode(tokenizer("how\nto  sort")["input_ids"]).count("\n") == 1


def test_a_tokenizer_of_another_kind_is_taken_as_its_file_says():
    """Transformers would build a Unigram of its vocabulary: other ids, and no blanks."""
    tokenizer = tiny_tokenizer(300)
    end = tokenizer.convert_tokens_to_ids(EOS)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, end)]
    )
    tokenizer.chat_template = None
    tokenizer.save_pretrained(SOURCE)
    edit(SOURCE / "tokenizer_config.json", tokenizer_class="T5Tokenizer")
    edit(SOURCE / "config.json", eos_token_id=end)
    (SOURCE / "generation_config.json").unlink()
    assert run("m", KNOBS)["parity"]["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(MADE)
    ids = again("how\n  to")["input_ids"]
    assert again.decode(ids[:-1]) == "how\n  to" and ids[-1] == end


def break_weights() -> None:
    weights = load_file(SOURCE / "model.safetensors")
    weights["shared.weight"][3] = torch.nan
    save_file(weights, SOURCE / "model.safetensors", {"format": "pt"})


def drop_a_weight() -> None:
    weights = load_file(SOURCE / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, SOURCE / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda: (SOURCE / "model.safetensors").rename(SOURCE / "pytorch_model.bin"),
            r"pickled weights are not read here; .*from_pretrained\(\"source\", weights_only=True\)",
        ),
        (
            lambda: (SOURCE / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "a git-lfs pointer in place of the file; fetch it with `git lfs pull`",
        ),
        (
            lambda: (SOURCE / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "tokenizer.json: a git-lfs pointer",
        ),
        (lambda: (SOURCE / "tokenizer.json").unlink(), "source: no tokenizer.json; a base model needs"),
        (
            lambda: (SOURCE / "tokenizer.json").rename(SOURCE / "spiece.model"),
            r"no tokenizer.json, only SentencePiece's file; .*AutoTokenizer.from_pretrained\(\"source\"\)",
        ),
        (lambda: BartConfig().save_pretrained(SOURCE), "model_type 'bart' is another encoder-decoder"),
        (
            lambda: edit(SOURCE / "config.json", model_type="mt5"),
            "model_type 'mt5' is another",
        ),
        (
            lambda: edit(SOURCE / "config.json", model_type="llama", is_encoder_decoder=False),
            "model_type 'llama' is no encoder-decoder; fusion-in-decoder takes T5, flan-t5 and fastchat-t5",
        ),
        (lambda: (SOURCE / "config.json").unlink(), r"no Hugging Face model .*correct base_seq2seq\.m\.path"),
        (lambda: edit(SOURCE / "config.json", decoder_start_token_id=None), "has no decoder_start_token_id"),
        (lambda: edit(SOURCE / "config.json", d_model=64), "source: weights and config.json make no T5"),
        (lambda: edit(SOURCE / "config.json", num_layers=1), "disagree: .* is unexpected"),
        (lambda: edit(SOURCE / "config.json", vocab_size=100), "weights and config.json make no T5"),
        (drop_a_weight, "disagree: lm_head.weight is missing"),
        (break_weights, "shared.weight holds NaN or infinite numbers"),
        (lambda: with_blanks(lstrip=True), ""),
    ],
)
def test_what_is_no_base_is_told_in_a_line(spoil, told):
    spoil()
    if not told:  # white space before a token is no loss
        run("m", KNOBS)
        return
    with pytest.raises(UserError, match=told) as error:
        run("m", KNOBS)
    assert "\n" not in str(error.value) and not MADE.exists()
