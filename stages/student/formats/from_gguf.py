"""A GGUF file (llama.cpp's format) as a Hugging Face directory: weights dequantised, tokenizer rebuilt.

transformers dequantises the weights (its parameter `gguf_file`), but guesses the tokenizer: of SmolLM2 it
makes one with five tokens too many. So the tokenizer is built here from the file's own fields, which are
documented as "tokenizer.ggml.*" (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from stages.core.errors import UserError, reason
from stages.core.files import write_json, write_text
from stages.student.formats.card import CARD
from stages.student.formats.hf_folder import refuse_pointer

# general.architecture, each one that from_hf imports once it is a Hugging Face directory
ARCHITECTURES = ("llama", "phi3", "qwen2", "qwen3")
MAGIC = b"GGUF"
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # ours: GGUF's

# Contractions, words, numbers (%s), signs, then blanks.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by_regex(digits: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_WORDS % digits), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


# How words are cut before BPE, by tokenizer.ggml.pre (llama.cpp's names, src/llama-vocab.cpp).
PRE_TOKENIZERS = {
    "gpt-2": _byte_level,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()]),
    "llama-bpe": lambda: _by_regex(r"\p{N}{1,3}"),
    "qwen2": lambda: _by_regex(r"\p{N}"),
}


def unpack(file: Path, target: Path) -> None:
    """Write in `target` (an existing directory) the model and tokenizer of `file` in Hugging Face's formats.

    Weights are float32. Raises UserError for what is no GGUF file, a torn one, one of another architecture
    or pre-tokenizer than those above, and one whose tokens are no BPE.
    """
    fields = read_fields(file)
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"{file}: GGUF architecture {architecture!r} is not supported; use one of {known}")
    with _telling(f"{file}: its tokenizer cannot be read"):
        write_tokenizer(fields, target, str(file))
    logging.disable_progress_bar()
    with _telling(f"{file}: its weights cannot be read"):
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent.resolve(),
            gguf_file=file.name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers draws them at random, with a warning
        raise UserError(f"{file}: has no weights {', '.join(sorted(report['missing_keys'])[:5])}")
    # special tokens are the tokenizer's business, and transformers reads them wrongly
    numbers = special_tokens(fields)
    for name in ("bos", "eos", "pad"):
        for settings in (model.config, model.generation_config):
            setattr(settings, f"{name}_token_id", numbers.get(name))
    model.config.name_or_path = ""  # the path of this machine
    model.save_pretrained(target)
    header = f"---\nlicense: {fields['general.license']}\n---\n" if "general.license" in fields else ""
    write_text(target / CARD, f"{header}The weights of {file.name}, dequantised to float32.\n")


class _Reader(GGUFReader):
    """Of a damaged count the package's own reader makes that many empty values, for minutes and gigabytes."""

    def _get(self, offset: int, *arguments: Any, **options: Any) -> Any:
        if offset >= len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, *arguments, **options)


def read_fields(file: Path) -> dict:
    """The metadata of a GGUF file by key. Raises UserError for another file, and a torn one."""
    with open(file, "rb") as stream:
        head = stream.read(len(MAGIC))
    if head != MAGIC:
        refuse_pointer(file)
        raise UserError(f"{file}: no GGUF file")
    with _telling(f"{file}: not a whole GGUF file"):
        reader = _Reader(file)
        return {name: field.contents() for name, field in reader.fields.items()}


@contextmanager
def _telling(problem: str) -> Iterator[None]:
    """Whatever another package says of a file in the block, as a UserError: damage can lead to any error.

    tokenizers raises bare Exceptions. Errors of a disk are left to the command line.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or getattr(error, "errno", None):
            raise
        raise UserError(f"{problem} ({reason(error)}); fetch the file again") from None


def special_tokens(fields: dict) -> dict[str, int]:
    """The numbers of the special tokens that a file names, by our names for them."""
    numbers = {name: fields.get(f"tokenizer.ggml.{theirs}_token_id") for name, theirs in SPECIAL.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def write_tokenizer(fields: dict, target: Path, where: str) -> None:
    """Write tokenizer.json, its config and the chat template. Raises UserError for an unknown kind."""
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model != "gpt2" or "tokenizer.ggml.merges" not in fields:
        raise UserError(
            f"{where}: tokenizer.ggml.model {model!r} is not supported, only 'gpt2' (byte-level BPE)"
        )
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UserError(f"{where}: tokenizer.ggml.pre {pre!r} is not supported; known are {known}")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = PRE_TOKENIZERS[pre](), decoders.ByteLevel()
    typed = list(zip(tokens, kinds, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, k in typed if k == CONTROL]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in typed if kind == USER_DEFINED])
    tokenizer.save(str(target / "tokenizer.json"))
    named = {f"{name}_token": tokens[number] for name, number in special_tokens(fields).items()}
    # the class that transformers 4 and 5 both read without rules of their own
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    write_json(target / "tokenizer_config.json", config)
    if template := fields.get("tokenizer.chat_template"):
        write_text(target / "chat_template.jinja", template)
