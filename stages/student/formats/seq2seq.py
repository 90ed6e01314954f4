"""An encoder-decoder (T5, flan-t5, fastchat-t5) as a directory of safetensors for transformers' own class."""

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration
from transformers.utils import logging

from stages.core.errors import UserError, reason
from stages.core.files import read_object, write_json
from stages.core.tokenizer import TextCodec
from stages.student.formats.card import CARD
from stages.student.formats.hf_folder import (
    COMPANIONS,
    copy_companions,
    own_file,
    read_hf_config,
    weight_files,
)
from stages.student.formats.parity import LENGTH, TEXTS, difference

FAMILY = "t5"  # flan-t5 and fastchat-t5 are of it; mt5, umt5 and longt5 are other classes
NEEDED = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
SAFE = 'T5ForConditionalGeneration.from_pretrained("{0}", weights_only=True).save_pretrained("{0}")'
FAST = 'AutoTokenizer.from_pretrained("{0}").save_pretrained("{0}")'


def check_family(directory: Path, where: str = "") -> None:
    """Raises UserError unless config.json is that of an encoder-decoder that is supported."""
    config = read_hf_config(directory)
    family = config.get("model_type")
    if family != FAMILY:
        kind = "another encoder-decoder" if config.get("is_encoder_decoder") else "no encoder-decoder"
        raise UserError(
            f"{where}{directory}: model_type {family!r} is {kind}; fusion-in-decoder takes T5, flan-t5 and "
            "fastchat-t5 (model_type 't5')"
        )
    if lacking := [name for name in NEEDED if type(config.get(name)) is not int]:
        raise UserError(f"{where}{directory / 'config.json'}: has no {lacking[0]}; T5's own is 0, 1 and 0")


def open_seq2seq(directory: Path, where: str = "", dtype=torch.float32) -> T5ForConditionalGeneration:
    """The model of a directory, on the CPU. Raises UserError if it is none, or lacks weights."""
    check_family(directory, where)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, report = T5ForConditionalGeneration.from_pretrained(
            directory.resolve(),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # of many kinds, for files that could be anything
        raise UserError(f"{where}{directory}: weights and config.json make no T5 ({reason(error)})") from None
    for kind in ("missing", "unexpected"):  # transformers draws missing ones at random, with a warning
        if names := sorted(report[f"{kind}_keys"]):
            raise UserError(f"{where}{directory}: weights and config.json disagree: {names[0]} is {kind}")
    if read_hf_config(directory).get("tie_word_embeddings") is False and tied(model):
        raise UserError(f"{where}{directory}: weights and config.json disagree: lm_head.weight is missing")
    if broken := next((name for name, value in model.named_parameters() if not value.isfinite().all()), None):
        raise UserError(f"{where}{directory}: {broken} holds NaN or infinite numbers; take another copy")
    model.config.name_or_path = ""  # the path of this machine
    return model.eval()


def tied(model: T5ForConditionalGeneration) -> bool:
    """Is the head the embedding? transformers 5 says so of every T5, and goes by the file."""
    return model.lm_head.weight is model.shared.weight


def save_seq2seq(model: T5ForConditionalGeneration, directory: Path) -> None:
    """Save weights and config; of a head of its own the config says so, or transformers 4 would tie it."""
    model.save_pretrained(directory)
    if not tied(model):
        write_json(directory / "config.json", {**read_hf_config(directory), "tie_word_embeddings": False})


def import_seq2seq(source: Path, target: Path) -> dict:
    """Write the model of `source` in `target`, an existing directory; returns its figures.

    Raises UserError for pickled weights, another architecture, a tokenizer that is missing or does not belong
    to it, and where what was written does not compute the same or tokenise alike.
    """
    for name in ("config.json", CARD, *COMPANIONS):
        if (source / name).is_file():
            own_file(source / name, source)
    check_family(source)
    file = weight_files(source)[0]
    if file.suffix != ".safetensors":
        raise UserError(
            f"{file}: pickled weights are not read here; take the model's safetensors, or make them of a "
            f"file that you trust: {SAFE.format(source)}"
        )
    if not (source / "tokenizer.json").is_file() and any(source.glob("*.model")):
        raise UserError(
            f"{source}: no tokenizer.json, only SentencePiece's file; make it where sentencepiece is "
            f"installed: {FAST.format(source)}"
        )
    codec, model = TextCodec(source, chat=False), open_seq2seq(source, dtype="auto")
    if codec.vocabulary_size > model.config.vocab_size:
        raise UserError(
            f"{source / 'tokenizer.json'}: {codec.vocabulary_size} tokens, but the model embeds "
            f"{model.config.vocab_size}; this tokenizer belongs to another model"
        )
    if model.dtype == torch.float16:
        model = model.float()  # T5's sums overflow in it; as float32 nothing is lost
    before = probe(model, codec)
    save_seq2seq(model, target)
    copy_companions(source, target, chat=False)
    if (source / CARD).is_file():
        shutil.copyfile(source / CARD, target / CARD)
    delta = difference(before, probe(open_seq2seq(target, dtype="auto"), codec))
    if delta:
        raise UserError(f"parity: logits of {source} and of what was written differ by {delta:g}")
    config = model.config
    return {
        "family": FAMILY,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": [config.num_layers, config.num_decoder_layers],
        "width": config.d_model,
        "vocabulary": config.vocab_size,
        "tied": tied(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "parity": {"load_save": delta, **check_tokens(target, codec)},
    }


@torch.no_grad()
def probe(model: T5ForConditionalGeneration, codec: TextCodec) -> torch.Tensor:
    """Logits of a real prompt and of random ids of the whole vocabulary."""
    ids = torch.randint(model.config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    text = torch.tensor(codec.plain([TEXTS[0]])[0][:LENGTH])
    ids[0, : len(text)] = text
    return model(input_ids=ids, decoder_input_ids=ids.flip(1)).logits.float()


def check_tokens(directory: Path, codec: TextCodec) -> dict:
    """AutoTokenizer of `directory` gives the ids that are trained with and one EOS, also of white space.

    transformers 5 builds T5Tokenizer anew from the vocabulary alone, and then blanks and line ends of
    fastchat-t5, or a tokenizer of another kind, may be lost: then its class is made the general one, which
    takes tokenizer.json as it is. Returns how many texts were equal, and that class. Raises UserError.
    """
    known = codec.tokenizer.get_added_tokens_decoder()
    blanks = {token.content: number for number, token in known.items() if token.content.isspace()}
    texts = [*TEXTS, *(f"a{blank}b" for blank in blanks)]
    for blank, number in blanks.items():
        if number not in codec.plain([f"a{blank}b"])[0]:
            raise UserError(
                f"{directory / 'tokenizer.json'}: the token {blank!r} is never used: white space is taken "
                "away before it; set its lstrip, rstrip and normalized to false"
            )
    wanted = [[*ids, codec.eos_id] for ids in codec.plain(texts)]
    settings = directory / "tokenizer_config.json"
    config = read_object(settings) if settings.is_file() else {}
    for name in (config.get("tokenizer_class", "T5Tokenizer"), "PreTrainedTokenizerFast"):
        if config.get("tokenizer_class") != name:
            write_json(settings, {**config, "tokenizer_class": name})
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory.resolve(), local_files_only=True)
            found = [tokenizer(text)["input_ids"] for text in texts]
        except Exception:  # of many kinds: a vocabulary that its class cannot read
            continue
        if found == wanted:
            return {"texts_equal": len(texts), "tokenizer_class": name}
    raise UserError(
        f"{directory}: AutoTokenizer gives other tokens than tokenizer.json with one EOS at the end; make "
        "its post_processor add EOS"
    )
