"""The parity gate: what is delivered computes what was trained.

transformers and PEFT are imported by the functions that need them: `export` imports them in a thread while
it writes the weights.
"""

from pathlib import Path

import torch

from stages.core.errors import UserError
from stages.core.files import verify_manifest
from stages.core.tokenizer import TextCodec
from stages.student.formats.from_hf import mapped_model
from stages.student.formats.hf_folder import read_hf_config
from stages.student.formats.litgpt import GPT, Config
from stages.student.formats.merge import Compared, compared
from stages.student.formats.weights import Float32, load_state, release_as_it_runs

TEXTS = (
    "How to compute the singular value decomposition of a matrix?",
    "numpy.linalg.svd(a, full_matrices=True)\n\n    Returns\n    -------\n    u : { (..., M, M) } array",
    "  leading, trailing and   inner   blanks\t and\ttabs  ",
    "Größe, naïve café, Ωmega, 数据, данные, 🙂 ½ ﬁ",
    "0123456789 3.14e-10 __init__ CamelCase snake_case UPPER <|not_a_token|> #!?;:",
)

LENGTH = 16  # tokens: a wrong weight or setting shows in a few, and the work grows with them


def probe(codec: TextCodec, config: Config) -> torch.Tensor:
    """The input (1, T) to compare logits on: half a real prompt, half random ids of the whole vocabulary."""
    limit = min(config.block_size, LENGTH)
    ids = torch.randint(0, config.vocab_size, (1, limit), generator=torch.Generator().manual_seed(0))
    text = torch.tensor([id for ids in codec.prompts(list(TEXTS)) for id in ids][: limit // 2])
    ids[0, : len(text)] = text
    return ids


@torch.no_grad()
def litgpt_logits(model, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, vocabulary) in float32, whatever the weights are stored in."""
    with Float32():
        return model.eval()(ids)


@torch.no_grad()
def hf_logits(model, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, vocabulary) in float32, whatever the weights are stored in."""
    with Float32():
        return model.eval()(input_ids=ids).logits


def reload(directory: Path):
    """The directory as a user loads it; transformers maps weights that keep their dtype into memory."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        Path(directory).resolve(), dtype="auto", local_files_only=True, trust_remote_code=False
    )
    release_as_it_runs(model, directory)
    return model


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference of two logits; infinite if shapes differ or one is not finite."""
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float(f"{(a - b).abs().max().item():.2e}")


def _gate(name: str, value: float, tolerance: float) -> None:
    """Raises UserError where a difference of logits is more than the tolerance, or is no number."""
    if not value <= tolerance:
        raise UserError(
            f"parity: {name} logits differ by {value:g}, more than {tolerance:g}; nothing was written. The "
            "base model has a setting that is lost, or what was merged is not up to date: run merge again"
        )


def check_tokens(directory: Path, codec: TextCodec) -> int:
    """Texts that AutoTokenizer of `directory` encodes exactly as training did. Raises UserError otherwise.

    Each as it is and, if the model has a chat template, as the message of a chat.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        Path(directory).resolve(), local_files_only=True, trust_remote_code=False
    )
    if len(tokenizer) != codec.vocabulary_size:
        raise UserError(
            f"{directory}: AutoTokenizer has {len(tokenizer)} tokens, trained with {codec.vocabulary_size}"
        )
    for text, plain, prompt in zip(TEXTS, codec.plain(list(TEXTS)), codec.prompts(list(TEXTS)), strict=True):
        ids = tokenizer(text)["input_ids"]
        ids = ids[: len(ids) - codec.suffix_length]
        if ids != plain:
            raise UserError(
                f"{directory}: AutoTokenizer gives {ids[:6]}… for {text[:30]!r}, training used {plain[:6]}…"
                "; make add_bos_token and tokenizer_class of tokenizer_config.json agree with tokenizer.json"
            )
        if codec.chat is None:
            continue
        chat = [{"role": "user", "content": text}]
        if tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] != prompt:
            raise UserError(
                f"{directory}: AutoTokenizer's chat template gives other tokens for {text[:30]!r} than "
                "training used; fix the template, or import the base with `chat: false`"
            )
    return len(TEXTS)


def check_base(directory: Path, tolerance: float = 1e-3) -> dict:
    """A base directory read by litgpt and by transformers computes the same. Raises UserError."""
    config = Config.from_file(Path(directory) / "model_config.yaml")
    codec = TextCodec(directory)
    ids = probe(codec, config)
    ours = litgpt_logits(mapped_model(GPT, config, load_state(directory)), ids)
    delta = difference(ours, hf_logits(reload(directory), ids))
    _gate("litgpt and transformers", delta, tolerance)
    return {"litgpt_transformers": delta, "texts_equal": check_tokens(directory, codec)}


def _reloaded_logits(hf: Path, ids: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Logits, and whether head and embedding are one tensor once loaded."""
    model = reload(hf)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return hf_logits(model, ids), head.data_ptr() == embedding.data_ptr()


def _peft_logits(base: Path, peft: Path, ids: torch.Tensor) -> torch.Tensor:
    from peft import PeftModel

    return hf_logits(PeftModel.from_pretrained(reload(base), str(peft)), ids)


def check_export(base: Path, adapter: Path, merged: Path, hf: Path, peft: Path, tolerance: float) -> dict:
    """Adapter = merged = reloaded = PEFT, and token ids equal. Raises UserError naming the broken link.

    Logits are compared in float32, those of adapter, merged and PEFT with the float32 sum; that the stored
    model is this sum, cast once, is checked for each weight, so a stale or damaged one cannot pass. Returns
    the differences, the tolerance, how many texts were encoded alike, and whether the head is tied.
    """
    # One model at a time is mapped, and gives back the pages of each layer: 771 MiB for the first pass of a
    # 1.1B model in place of 2,781. One pass has a row for each way: 4.1 s, where a pass for each took 6.5.
    codec = TextCodec(base)
    ids = probe(codec, Config.from_file(base / "model_config.yaml"))
    model = compared(base, adapter, merged)
    adapted, summed, stored = litgpt_logits(model, ids.expand(3, -1)).split(1)
    if any(layer.rounded for layer in model.modules() if isinstance(layer, Compared)):
        verify_manifest(merged)
    differences = {"adapter_merged": difference(adapted, summed)}
    reloaded, tied = _reloaded_logits(hf, ids)
    differences["merged_reloaded"] = difference(stored, reloaded)
    differences["adapter_peft"] = difference(adapted, _peft_logits(base, peft, ids))
    for name, value in differences.items():
        _gate(name.replace("_", " and "), value, tolerance)
    if tied != bool(read_hf_config(hf)["tie_word_embeddings"]):
        raise UserError(
            f"{hf}: config.json says tie_word_embeddings = {not tied}, but the loaded model does not"
        )
    return {**differences, "tolerance": tolerance, "texts_equal": check_tokens(hf, codec), "tied": tied}
