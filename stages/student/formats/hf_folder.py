"""A Hugging Face directory as people bring it: the files that transformers would read, each a whole one."""

import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from stages.core.errors import UserError, reason
from stages.core.files import read_object, write_json

# Besides the weights and config.json, everything transformers may need beside them. Of these, litgpt's own
# copying leaves out the chat template and half of the tokenizer files.
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHTS, WEIGHT_SHARDS = "model.safetensors", "model-*.safetensors"
PICKLED, PICKLED_SHARDS = "pytorch_model.bin", "pytorch_model-*.bin"
INDEX = ".index.json"  # after the name of the whole file: which shard has which tensor
POINTER = b"version https://git-lfs"


def own_file(file: Path, directory: Path) -> Path:
    """`file` of a model directory. Raises UserError where it leads out of it, or is a git-lfs pointer.

    Links of the hub's cache, from snapshots/<commit>/ to blobs/, are its own way to keep files.
    """
    home, place = directory.resolve(), file.resolve()
    cache = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (place.is_relative_to(home) or place.is_relative_to(cache)):
        raise UserError(
            f"{file}: leads to {place}, outside of the model's directory; put the file itself there"
        )
    refuse_pointer(file)
    return file


def refuse_pointer(file: Path) -> None:
    """Raises UserError for what git leaves in place of a large file that was not fetched."""
    with open(file, "rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise UserError(f"{file}: a git-lfs pointer in place of the file; fetch it with `git lfs pull`")


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers reads: one, or the shards of an index; safetensors before pickles.

    Shards are taken without an index, too. What else lies there (an adapter, the publisher's own format) is
    left alone. Raises UserError where there are none, or not all.
    """
    for whole, shards in ((WEIGHTS, WEIGHT_SHARDS), (PICKLED, PICKLED_SHARDS)):
        index, files = directory / f"{whole}{INDEX}", sorted(directory.glob(shards))
        if (directory / whole).is_file():
            files = [directory / whole]
        elif index.is_file():
            files = [directory / name for name in sorted(_shards_of(own_file(index, directory)))]
            for file in files:
                if not file.is_file():
                    raise UserError(f"{file}: not there, but {index.name} names it; fetch it, too")
        if files:
            return [own_file(file, directory) for file in files]
    raise UserError(f"{directory}: no {WEIGHTS} or {PICKLED}; copy the weights there")


def _shards_of(index: Path) -> set[str]:
    by_tensor = read_object(index).get("weight_map")
    if not isinstance(by_tensor, dict) or not all(isinstance(name, str) for name in by_tensor.values()):
        raise UserError(f"{index}: has no weight_map of tensors and file names; fetch it again")
    return set(by_tensor.values())


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    """All weights of a directory, memory-mapped. Raises UserError for a file that is not of tensors alone."""
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(Path(directory)):
        try:
            held = load_file(file) if file.suffix == ".safetensors" else _load_pickled(file)
        except Exception as error:  # of many kinds, for bytes that could be anything
            raise UserError(
                f"{file}: not a whole file of weights ({reason(error)}); fetch it again"
            ) from None
        if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
            raise UserError(f"{file}: holds more than tensors by name; save the state dict alone")
        weights |= held
    return weights


def _load_pickled(file: Path) -> dict[str, torch.Tensor]:
    # files of before torch 1.6 are no zip archives, and cannot be mapped
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def read_hf_config(directory: Path) -> dict:
    return read_object(Path(directory) / "config.json")


def copy_companions(source: Path, target: Path, chat: bool = True) -> None:
    """Copy tokenizer files and generation_config.json; a missing generation_config.json is made.

    tokenizer_config.json becomes one that transformers 4 and 5 read alike. Without `chat`, any chat template
    is left behind.
    """
    for name in COMPANIONS:
        if (Path(source) / name).is_file() and (chat or not name.startswith("chat_template")):
            shutil.copyfile(Path(source) / name, target / name)
    settings = target / "tokenizer_config.json"
    if settings.is_file():
        config = read_object(settings)
        wanted = _for_all_releases(config, target / "tokenizer.json")
        if not chat:
            wanted.pop("chat_template", None)
        if wanted != config:
            write_json(settings, wanted)
    if not (target / "generation_config.json").is_file():
        hf = read_hf_config(source)
        ids = {key: hf[key] for key in ("bos_token_id", "eos_token_id") if hf.get(key) is not None}
        write_json(target / "generation_config.json", {"_from_model_config": True, **ids})


def _for_all_releases(config: dict, tokenizer: Path) -> dict:
    """A tokenizer_config.json that transformers 4 reads, too, where release 5 has other names.

    Of a tokenizer without a class of its own, release 4 also takes no blank before the text for what
    tokenizer.json says, and makes an input that no language model here has.
    """
    config = dict(config)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = ["input_ids", "attention_mask"]
        if (read_object(tokenizer).get("pre_tokenizer") or {}).get("add_prefix_space"):
            config["add_prefix_space"] = True
    return config
