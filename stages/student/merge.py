"""Base + adapter = merged model: added in float32, cast once."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from stages.student.convert import EMBEDDING, HEAD, float32_model, load_state, read_hf_config
from stages.student.litgpt_import import LoRAConfig, LoRAGPT, lora_filter, merge_lora_weights
from stages.support.errors import UserError
from stages.support.files import read_json


def lora_config(base: Path, adapter: Path) -> LoRAConfig:
    """litgpt's config of the base with exactly the adapter's rank, scale and targets.

    Raises UserError when the adapter was trained on another base.
    """
    lora = read_json(Path(adapter) / "lora.json")
    if lora["base"] != Path(base).name:
        raise UserError(f"{adapter}: trained on {lora['base']}, but params.yaml says base: {Path(base).name}")
    return LoRAConfig.from_file(
        Path(base) / "model_config.yaml",
        lora_r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        **{f"lora_{name}": True for name in lora["targets"]},
    )


def adapted_model(base: Path, adapter: Path) -> LoRAGPT:
    """The base with its adapter beside it, in float32, ready to run or to merge.

    litgpt's merge adds in place. A tied head shares its memory with the embedding, so an adapted head is
    copied first; otherwise its update would land in the embedding too.
    """
    config = lora_config(base, adapter)
    state = {name: value.float() for name, value in load_state(base).items()}
    if config.lora_head:
        state[HEAD] = state[HEAD].clone()
    state.update(load_file(Path(adapter) / "adapter.safetensors"))
    return float32_model(LoRAGPT, config, state)


def merged_state(model: LoRAGPT) -> dict[str, torch.Tensor]:
    """Merge in place; returns the float32 state under the base's names."""
    merge_lora_weights(model)
    return {k.replace("linear.", ""): v for k, v in model.state_dict().items() if not lora_filter(k, v)}


def merge(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The merged state, every tensor in the base's own dtype; the head stays tied unless it was adapted."""
    model = adapted_model(base, adapter)
    dtypes = {name: value.dtype for name, value in load_state(base).items()}
    state = {name: value.to(dtypes[name]) for name, value in merged_state(model).items()}
    if read_hf_config(base).get("tie_word_embeddings") and not model.config.lora_head:
        state[HEAD] = state[EMBEDDING]
    return state


def largest_update(base: Path, state: dict[str, torch.Tensor]) -> float:
    """Largest absolute change of a weight: 0 would mean an adapter that did nothing."""
    before = load_state(base)
    return round(max((state[k].float() - v.float()).abs().max().item() for k, v in before.items()), 6)
