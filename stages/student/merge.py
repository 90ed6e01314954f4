"""Base + adapter = merged model: added in float32, cast once, a block at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from stages.student.convert import EMBEDDING, HEAD, dtype_name, mapped_model, read_hf_config
from stages.student.litgpt_import import LoRAConfig, LoRAGPT, LoRALinear, LoRAQKVLinear
from stages.student.lowrank import up_of
from stages.student.weights import blocks, create_state, load_state, pieces
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
    """The memory-mapped base with its adapter beside it, ready to run."""
    state = load_state(base) | load_file(Path(adapter) / "adapter.safetensors")
    return mapped_model(LoRAGPT, lora_config(base, adapter), state)


def adapted_layers(model: LoRAGPT) -> dict[str, LoRALinear]:
    """The layers that have an adapter, by the name of their weight in the base's state."""
    modules = model.named_modules()
    return {f"{name}.weight": m for name, m in modules if isinstance(m, LoRALinear) and hasattr(m, "lora_A")}


@torch.no_grad()
def merged_pieces(weight: torch.Tensor, layer: LoRALinear) -> Iterator[torch.Tensor]:
    """`W + scale · B A` in float32 (https://arxiv.org/abs/2106.09685, section 4.1), some rows at a time."""
    up, done = up_of(layer), 0
    for rows in pieces(weight):
        yield (up[done : done + len(rows)] @ layer.lora_A).mul_(layer.scaling).add_(rows)
        done += len(rows)


def use_merged(model: LoRAGPT) -> None:
    """From now on the adapted layers multiply with the float32 sum, instead of with W, A and B."""
    for layer in adapted_layers(model).values():
        layer.__class__ = MERGED[type(layer)]


def _forward_merged(layer: LoRALinear, x: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.linear.weight, layer.linear.bias
    y = torch.cat([F.linear(x, rows) for rows in merged_pieces(weight, layer)], dim=-1)
    return y if bias is None else y + bias


class MergedLinear(LoRALinear):
    forward = _forward_merged


class MergedQKVLinear(LoRAQKVLinear):
    forward = _forward_merged


MERGED = {LoRALinear: MergedLinear, LoRAQKVLinear: MergedQKVLinear}


def merge(base: Path, adapter: Path, target: Path) -> dict:
    """Write `target`/lit_model.pth, every tensor in the base's own dtype.

    The head stays tied unless it was adapted: litgpt's own merge adds in place, and would change the
    embedding with it. Returns the largest change of a weight (0 would mean an adapter that did nothing) and
    the dtype.
    """
    layers = adapted_layers(adapted_model(base, adapter))
    like = load_state(base)
    names, tied = list(like), bool(read_hf_config(base).get("tie_word_embeddings"))
    if tied and HEAD in layers:
        like[HEAD] = torch.empty_like(like[HEAD])
    elif tied:
        like[HEAD] = like[EMBEDDING]
        names.remove(HEAD)
    create_state(target, like)
    largest = 0.0
    for block in blocks(names):
        before, after = load_state(base), load_state(target, shared=True)
        largest = max(largest, *(_merge(before[n], after[n], layers.get(n)) for n in block))
    return {"largest_update": round(largest, 6), "dtype": dtype_name(like)}


def _merge(before: torch.Tensor, after: torch.Tensor, layer: LoRALinear | None) -> float:
    if layer is None:
        after.copy_(before)
        return 0.0
    largest = 0.0
    for merged, old, new in zip(merged_pieces(before, layer), pieces(before), pieces(after), strict=True):
        new.copy_(merged)
        largest = max(largest, merged.copy_(new).sub_(old).abs_().max().item())
    return largest


def check_merged(base: Path, adapter: Path, merged: Path) -> None:
    """The stored model is this base and this adapter, cast once, bit for bit. Raises UserError if not."""
    layers = adapted_layers(adapted_model(base, adapter))
    for block in blocks(load_state(base)):
        before, stored = load_state(base), load_state(merged)
        for name in block:
            if name not in stored or not _is_merged(before[name], stored[name], layers.get(name)):
                raise UserError(
                    f"{merged / 'lit_model.pth'}: {name} is not base + adapter; run the merge stage again"
                )


def _is_merged(before: torch.Tensor, stored: torch.Tensor, layer: LoRALinear | None) -> bool:
    if before.shape != stored.shape or before.dtype != stored.dtype:
        return False
    if layer is None:
        return torch.equal(before, stored)
    both = zip(merged_pieces(before, layer), pieces(stored), strict=True)
    return all(torch.equal(rows.to(found.dtype), found) for rows, found in both)
