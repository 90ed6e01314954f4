"""A litgpt model as directories that Hugging Face and PEFT load: weights, config, tokenizer files."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stages.core.files import read_json, read_object, write_json
from stages.student.formats.card import provenance
from stages.student.formats.from_hf import (
    EMBEDDING,
    HEAD,
    dtype_name,
    for_all_releases,
    head_key,
)
from stages.student.formats.hf_folder import copy_companions, read_hf_config
from stages.student.formats.litgpt import Config, LoRAConfig, to_hf
from stages.student.formats.lora import block_diagonal, by_projection, sizes_of
from stages.student.formats.weights import blocks, release, write_safetensors

# Of a generation_config.json: what has a meaning only where answers are drawn, and the other limit.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "max_length")

# Of the modules that LoRA adapts, litgpt's names and those of transformers; all families but these are alike.
MODULES = {
    "gpt_neox": {
        "attn.proj": "attention.dense",
        "mlp.fc": "mlp.dense_h_to_4h",
        "mlp.proj": "mlp.dense_4h_to_h",
    },
    "phi": {"attn.proj": "self_attn.dense", "mlp.fc": "mlp.fc1", "mlp.proj": "mlp.fc2"},
}
LLAMAS_MODULES = {
    "attn.proj": "self_attn.o_proj",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}


def hf_weights(state: dict[str, torch.Tensor], hf: dict, config: Config) -> dict[str, torch.Tensor]:
    """Hugging Face's names and layout of a litgpt state, or of some of its `blocks`.

    A tied head is left out, as transformers does.
    """
    weights: dict[str, torch.Tensor] = {}
    copy = {
        "gpt_neox": to_hf.copy_weights_gpt_neox,
        "llama": to_hf.copy_weights_llama,
        "mistral": to_hf.copy_weights_llama,
        "phi": to_hf.copy_weights_phi,
        "phi3": to_hf.copy_weights_phi,
        "qwen2": to_hf.copy_weights_qwen_2_5,
        "qwen3": to_hf.copy_weights_qwen_3,
    }
    copy[hf["model_type"]](config, weights, state)
    if hf["tie_word_embeddings"]:
        weights.pop(head_key(hf), None)
    return weights


def _hf_blocks(
    state: dict[str, torch.Tensor], hf: dict, config: Config, mapped: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """`hf_weights` one by one, converted a block at a time."""
    for block in blocks(state):
        yield from hf_weights({name: state[name] for name in block}, hf, config).items()
        for name in block if mapped else ():
            release(state[name])


def write_hf(
    target: Path,
    state: dict[str, torch.Tensor],
    hf: dict,
    config: Config,
    companions: Path | None,
    mapped: bool = False,
) -> str:
    """Write config.json, model.safetensors and, from the directory `companions`, the tokenizer files.

    `tie_word_embeddings` and `dtype` are written as the weights are: loaders that tie by the flag would
    otherwise drop an adapted head, and transformers 5 loads in the dtype that config.json states. Of a state
    that is `mapped` by `load_state`, what was written is given back.
    Returns the sha256 of model.safetensors.
    """
    tied = bool(hf.get("tie_word_embeddings")) and torch.equal(state[HEAD], state[EMBEDDING])
    hf = {key: value for key, value in hf.items() if key != "torch_dtype"}
    hf |= {"tie_word_embeddings": tied, "dtype": dtype_name(state)}
    layout = dict(_hf_blocks({name: value.to("meta") for name, value in state.items()}, hf, config))
    sha256 = write_safetensors(target / "model.safetensors", layout, _hf_blocks(state, hf, config, mapped))
    write_json(target / "config.json", for_all_releases(hf))
    if companions is not None:
        copy_companions(companions, target)
    return sha256


def write_generation_config(target: Path, end: int, longest: int) -> None:
    """How loaders answer unless they are told otherwise: greedily, and no longer than any answer in training.

    `end` is the token that ends an answer, `longest` counts it.
    """
    file = target / "generation_config.json"
    config = {name: value for name, value in read_object(file).items() if name not in SAMPLING}
    usual = {
        name: end if config.get(name) is None else config[name] for name in ("eos_token_id", "pad_token_id")
    }
    write_json(file, {**config, **usual, "do_sample": False, "max_new_tokens": longest})


def write_peft(target: Path, base: Path, adapter: Path, config: LoRAConfig) -> None:
    """The adapter in PEFT's format, for `PeftModel.from_pretrained(base, target)`."""
    from peft import LoraConfig  # takes seconds; `export` has it imported meanwhile

    base_model, origin = read_hf_config(base), provenance(base)
    tensors, ranks = peft_tensors(load_file(Path(adapter) / "adapter.safetensors"), base_model, config)
    lora = read_json(Path(adapter) / "lora.json")
    wide = {name: rank for name, rank in ranks.items() if rank != config.lora_r}
    settings = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        rank_pattern=wide,
        # PEFT scales by alpha / rank; litgpt by alpha / r, whatever the rank of a joint projection.
        alpha_pattern={name: config.lora_alpha * rank // config.lora_r for name, rank in wide.items()},
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=origin.get("hub_id") or f"models/base/{lora['base']}",
        revision=origin.get("revision"),
    )
    settings.target_modules = sorted(ranks)  # given above, it would become a set, and be written in any order
    settings.save_pretrained(target)
    save_file(tensors, target / "adapter_model.safetensors", {"format": "pt"})


def peft_tensors(
    adapter: dict[str, torch.Tensor], hf: dict, config: LoRAConfig
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """PEFT's tensors of litgpt's, and the rank of each adapted module (by the end of its name).

    litgpt adapts q, k and v together (formats/lora.py). Where Hugging Face has separate projections they are
    taken apart. GPT-NeoX has one, with q, k and v of a head
    side by side: there B becomes block-diagonal, of rank enabled · r, and its rows are interleaved. Phi-3
    has one, too, with q, k and v one after the other, and another one for both halves of the MLP's input.
    """
    neox, phi3 = hf["model_type"] == "gpt_neox", hf["model_type"] == "phi3"
    names = MODULES.get(hf["model_type"], LLAMAS_MODULES)
    stem = "gpt_neox.layers" if neox else "model.layers"
    sizes, enabled = sizes_of(config), (config.lora_query, config.lora_key, config.lora_value)
    tensors, ranks = {}, {}

    def put(module: str, a: torch.Tensor, b: torch.Tensor) -> None:
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.float().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.float().contiguous()
        ranks[module.split(".", 3)[3] if ".layers." in module else module] = len(a)

    for name in sorted(key.removesuffix(".lora_A") for key in adapter if key.endswith(".lora_A")):
        a, b = adapter[f"{name}.lora_A"], adapter[f"{name}.lora_B"]
        if name == "lm_head":
            put(head_key(hf).removesuffix(".weight"), a, b)
            continue
        layer, module = name.removeprefix("transformer.h.").split(".", 1)
        if phi3 and module == "mlp.fc_2":
            continue  # done together with fc_1
        if phi3 and module == "mlp.fc_1":
            up = name.replace("fc_1", "fc_2")
            a, b = torch.cat([a, adapter[f"{up}.lora_A"]]), torch.block_diag(b, adapter[f"{up}.lora_B"])
            put(f"{stem}.{layer}.mlp.gate_up_proj", a, b)
            continue
        if module != "attn.qkv":
            put(f"{stem}.{layer}.{names[module]}", a, b)
            continue
        parts = by_projection(b, sizes, enabled)
        if neox:
            joint = to_hf.qkv_reassemble(block_diagonal(parts, sizes), config)
            put(f"{stem}.{layer}.attention.query_key_value", a, joint)
            continue
        if phi3:
            put(f"{stem}.{layer}.self_attn.qkv_proj", a, block_diagonal(parts, sizes))
            continue
        downs = iter(a.split(config.lora_r))
        for letter, part in zip("qkv", parts, strict=True):
            if part is not None:
                put(f"{stem}.{layer}.self_attn.{letter}_proj", next(downs), part)
    return tensors, ranks
