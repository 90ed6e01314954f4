"""Base + adapter = merged model: added in float32, cast once, a block at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from stages.core.errors import UserError
from stages.core.files import read_json
from stages.student.formats.from_hf import EMBEDDING, HEAD, dtype_name, mapped_model
from stages.student.formats.hf_folder import read_hf_config
from stages.student.formats.litgpt import Config, LoRAConfig, LoRAGPT, LoRALinear
from stages.student.formats.lora import up_of
from stages.student.formats.weights import blocks, create_state, load_state, pieces, release

ORDER = 1e-6  # of float32 sums of the same numbers: how much their order may matter, as a share of their size


def lora_config(base: Path, adapter: Path) -> LoRAConfig:
    """Litgpt's config of the base with exactly the adapter's rank, scale and targets.

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


def adapted_model(state: dict[str, torch.Tensor], base: Path, adapter: Path) -> LoRAGPT:
    """The base, whose memory-mapped `state` this is, with its adapter beside it, ready to run."""
    # Of precision bf16-true it comes in bfloat16; sums are taken in float32.
    tensors = load_file(Path(adapter) / "adapter.safetensors")
    both = state | {name: value.float() for name, value in tensors.items()}
    return mapped_model(LoRAGPT, lora_config(base, adapter), both)


def adapted_layers(model: LoRAGPT) -> dict[str, LoRALinear]:
    """The layers that have an adapter, by the name of their weight in the base's state."""
    modules = model.named_modules()
    return {f"{name}.weight": m for name, m in modules if isinstance(m, LoRALinear) and hasattr(m, "lora_A")}


@torch.no_grad()
def merged_pieces(weight: torch.Tensor, layer: LoRALinear) -> Iterator[torch.Tensor]:
    """`W + scale · B A` in float32 (https://arxiv.org/abs/2106.09685, section 4.1), some rows at a time."""
    up, parts, done = up_of(layer), pieces(weight), 0
    # One buffer for all pieces, so a yielded piece holds until the next one: memory fresh from the system
    # costs more than the sum. addmm_ scales and adds within the product (1.7 s against 1.9 for a 1.1B model).
    exact = torch.empty(parts[0].shape)
    for rows in parts:
        some = up[done : done + len(rows)]
        yield exact[: len(rows)].copy_(rows).addmm_(some, layer.lora_A, alpha=layer.scaling)
        done += len(rows)


def merge(base: Path, adapter: Path, target: Path) -> dict:
    """Write `target`/lit_model.pth, every tensor in the base's own dtype.

    A tied head stays tied unless it was adapted. Returns the largest change of a weight (0 would mean an
    adapter that did nothing) and the dtype.
    """
    # litgpt's own merge adds in place: an adapted head that is tied would change the embedding with it.
    layers = adapted_layers(adapted_model(load_state(base), base, adapter))
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
    """Fill the mapped tensor `after` from `before` and the adapter of `layer`; the largest change."""
    if layer is None:
        after.copy_(before)
        return 0.0
    largest = 0.0
    for merged, old, new in zip(merged_pieces(before, layer), pieces(before), pieces(after), strict=True):
        new.copy_(merged)
        largest = max(largest, merged.copy_(new).sub_(old).abs_().max().item())
    return largest


def compared(base: Path, adapter: Path, merged: Path) -> LoRAGPT:
    """A model whose input (3, T) has a row for each way: with the adapter, with the float32 sum, as stored.

    So each weight is read once for all three. Raises UserError, here or while the model runs, unless `merged`
    holds this base and this adapter, cast once. The adapted layers become Compared ones.
    """
    file, config = merged / "lit_model.pth", "model_config.yaml"
    if Config.from_file(merged / config) != Config.from_file(base / config):
        raise UserError(f"{merged / config}: not the base's; run the merge stage again")
    before, after = load_state(base), load_state(merged)
    model = adapted_model(before, base, adapter)
    layers = adapted_layers(model)
    for name, like in before.items():
        stored = after.get(name)
        refusal = UserError(f"{file}: {name} is not base + adapter; run the merge stage again")
        if stored is None or (stored.shape, stored.dtype) != (like.shape, like.dtype):
            raise refusal
        if name in layers:
            model.set_submodule(name.removesuffix(".weight"), Compared(layers[name], stored, refusal))
            continue
        if not _same_bits(like, stored):
            raise refusal
        release(like)
        release(stored)
    return model


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    # torch.equal takes bfloat16 one by one: 1.5 ms for a piece of 4 MB, against 0.2 ms as 64-bit words.
    whole = a.shape[-1] * a.element_size() % 8 == 0
    return torch.equal(a.view(torch.int64), b.view(torch.int64)) if whole else torch.equal(a, b)


def _same_but_rounding(exact: torch.Tensor, stored: torch.Tensor, old: torch.Tensor) -> bool:
    """Whether `stored` is a cast of the float32 sum `exact`, or of one added in another order."""
    size = exact.abs()
    slack = size * torch.finfo(stored.dtype).eps / 2 + (size + old.abs()) * ORDER
    return bool(((exact - stored).abs() <= slack).all())


class Compared(nn.Module):
    """An adapted layer for x (3, T, in), whose rows take three ways: adapter, float32 sum, `stored` weight.

    Raises `refusal` in its forward pass where `stored` is no cast of the sum. `rounded` says, after it, that
    some sums were rounded as another kind of CPU does; damage of last bits would look alike.
    """

    def __init__(self, layer: LoRALinear, stored: torch.Tensor, refusal: UserError):
        super().__init__()
        self.layer, self.stored, self.refusal = layer, stored, refusal
        self.rounded = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted, outputs = self.layer(x[:1]), []
        weight, bias = self.layer.linear.weight, self.layer.linear.bias
        each = zip(merged_pieces(weight, self.layer), pieces(self.stored), pieces(weight), strict=True)
        for rows, stored, old in each:
            exact = F.linear(x[1:2], rows)
            if not _same_bits(rows.to(stored.dtype), stored):
                if not _same_but_rounding(rows, stored, old):
                    raise self.refusal
                self.rounded = True
            outputs.append(torch.cat([exact, F.linear(x[2:], rows.copy_(stored))]))
        release(weight)
        release(self.stored)
        y = torch.cat(outputs, dim=-1)
        return torch.cat([adapted, y if bias is None else y + bias])
