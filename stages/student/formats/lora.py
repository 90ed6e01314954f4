"""LoRA matrices of litgpt's joint projection of query, key and value.

litgpt keeps one A (enabled · r, in) and one B (sum of the enabled outputs, r) for all three. What has to be
one product, or one module elsewhere, needs B as a block-diagonal matrix (all outputs, enabled · r).
"""

import torch

from stages.student.formats.litgpt import LoRAConfig, LoRALinear, LoRAQKVLinear


def sizes_of(shape: LoRAConfig | LoRAQKVLinear) -> list[int]:
    """Outputs of query, key and value."""
    return [shape.head_size * n for n in (shape.n_head, shape.n_query_groups, shape.n_query_groups)]


def by_projection(b: torch.Tensor, sizes: list[int], enabled: tuple[bool, ...]) -> list[torch.Tensor | None]:
    """B of query, key and value, each (size, r); None where `enabled` is false."""
    pieces = iter(b.split([size for size, on in zip(sizes, enabled, strict=True) if on]))
    return [next(pieces) if on else None for on in enabled]


def block_diagonal(parts: list[torch.Tensor | None], sizes: list[int]) -> torch.Tensor:
    """One B of all three; a projection without LoRA has rows of zeros, but no columns."""
    some = next(part for part in parts if part is not None)
    return torch.block_diag(
        *(some.new_empty(size, 0) if part is None else part for part, size in zip(parts, sizes, strict=True))
    )


def up_of(layer: LoRALinear) -> torch.Tensor:
    """The layer's B as one matrix (out, all ranks)."""
    if not isinstance(layer, LoRAQKVLinear):
        return layer.lora_B
    sizes = sizes_of(layer)
    return block_diagonal(by_projection(layer.lora_B, sizes, layer.enable_lora), sizes)
