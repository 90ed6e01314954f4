"""The gate: what is delivered computes what was trained. Differences are measured, not assumed."""

from pathlib import Path

import torch

from stages.student import merge
from stages.student.convert import float32_model, load_state, read_hf_config
from stages.student.litgpt_import import GPT, Config
from stages.support.errors import UserError
from stages.support.tokenizer import TextCodec

TEXTS = (
    "How to compute the singular value decomposition of a matrix?",
    "numpy.linalg.svd(a, full_matrices=True)\n\n    Returns\n    -------\n    u : { (..., M, M) } array",
    "  leading, trailing and   inner   blanks\t and\ttabs  ",
    "Größe, naïve café, Ωmega, 数据, данные, 🙂 ½ ﬁ",
    "0123456789 3.14e-10 __init__ CamelCase snake_case UPPER <|not_a_token|> #!?;:",
)


def probe(codec: TextCodec, config: Config) -> list[torch.Tensor]:
    """Inputs (1, T) to compare logits on: real texts, and random ids from the whole vocabulary."""
    random = torch.Generator().manual_seed(0)
    limit = min(config.block_size, 64)
    rows = [ids[:limit] for ids in codec.prompts(list(TEXTS)) if ids]
    rows += torch.randint(0, config.vocab_size, (4, limit), generator=random).tolist()
    return [torch.tensor([row]) for row in rows]


@torch.no_grad()
def litgpt_logits(model, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [model.eval()(ids) for ids in inputs]


@torch.no_grad()
def hf_logits(model, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [model.eval()(input_ids=ids).logits for ids in inputs]


def reload(directory: Path):
    """The directory as a user loads it, but computed in float32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        Path(directory).resolve(), dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )


def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest absolute difference of two sets of logits; infinite if shapes differ or one is not finite."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        if left.shape != right.shape or not (left.isfinite().all() and right.isfinite().all()):
            return float("inf")
        worst = max(worst, (left - right).abs().max().item())
    return float(f"{worst:.2e}")


def _gate(name: str, value: float, tolerance: float) -> None:
    if not value <= tolerance:
        raise UserError(
            f"parity: {name} logits differ by {value:g}, more than parity_tolerance {tolerance:g}; "
            "nothing was exported (run merge again; if it stays, the base model has a setting that is lost)"
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
        found = tokenizer(text)["input_ids"]
        found = found[: len(found) - codec.suffix_length]
        if found != plain:
            raise UserError(
                f"{directory}: AutoTokenizer gives {found[:6]}… for {text[:30]!r}, training used {plain[:6]}…"
                "; make add_bos_token and tokenizer_class of tokenizer_config.json agree with tokenizer.json"
            )
        if codec.chat is None:
            continue
        chat = [{"role": "user", "content": text}]
        if tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] != prompt:
            raise UserError(
                f"{directory}: AutoTokenizer's chat template gives other tokens for {text[:30]!r} than "
                "training used; mend the template, or import the base with `chat: false`"
            )
    return len(TEXTS)


def check_base(directory: Path, tolerance: float = 1e-3) -> dict:
    """A base directory read by litgpt and by transformers computes the same. Raises UserError."""
    config = Config.from_file(Path(directory) / "model_config.yaml")
    codec = TextCodec(directory)
    inputs = probe(codec, config)
    ours = litgpt_logits(float32_model(GPT, config, load_state(directory)), inputs)
    delta = difference(ours, hf_logits(reload(directory), inputs))
    _gate("litgpt and transformers", delta, tolerance)
    return {"litgpt_transformers": delta, "texts_equal": check_tokens(directory, codec)}


def check_export(base: Path, adapter: Path, merged: Path, hf: Path, peft: Path, tolerance: float) -> dict:
    """Adapter = merged = reloaded = PEFT, and token ids equal. Raises UserError naming the broken link.

    Logits are compared in float32 of the float32 merge; that the stored model is this merge, cast once, is
    checked exactly, so a stale or damaged merged model cannot pass.
    """
    from peft import PeftModel

    codec, model = TextCodec(base), merge.adapted_model(base, adapter)
    inputs = probe(codec, model.config)
    adapted = litgpt_logits(model, inputs)
    full, stored = merge.merged_state(model), load_state(merged)
    merged_logits = litgpt_logits(model, inputs)
    for name, value in full.items():
        if name not in stored or not torch.equal(value.to(stored[name].dtype), stored[name]):
            raise UserError(
                f"{merged / 'lit_model.pth'}: {name} is not base + adapter; run the merge stage again"
            )
    config = Config.from_file(merged / "model_config.yaml")
    stored_logits = litgpt_logits(float32_model(GPT, config, stored), inputs)
    reloaded = reload(hf)
    head, embedding = reloaded.get_output_embeddings().weight, reloaded.get_input_embeddings().weight
    tied = head.data_ptr() == embedding.data_ptr()
    found = {
        "adapter_merged": difference(adapted, merged_logits),
        "merged_reloaded": difference(stored_logits, hf_logits(reloaded, inputs)),
    }
    del reloaded
    found["adapter_peft"] = difference(
        adapted, hf_logits(PeftModel.from_pretrained(reload(base), str(peft)), inputs)
    )
    for name, value in found.items():
        _gate(name.replace("_", " and "), value, tolerance)
    if tied != bool(read_hf_config(hf)["tie_word_embeddings"]):
        raise UserError(
            f"{hf}: config.json says tie_word_embeddings = {not tied}, but the loaded model does not"
        )
    return {**found, "tolerance": tolerance, "texts_equal": check_tokens(hf, codec), "tied": tied}
