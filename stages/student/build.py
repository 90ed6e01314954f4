"""The model to train: the base, frozen, with fresh LoRA matrices."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from stages.core.errors import UserError
from stages.student.fast.model import Student
from stages.student.formats.litgpt import LoRAConfig, LoRALinear, lora_filter, mark_only_lora_as_trainable
from stages.student.formats.weights import Unfilled, load_state
from stages.student.recipe import TARGETS, Recipe

BLOCKS = (64, 32)  # weights with one scale in 4 bits: as in QLoRA, or less where rows are narrow
# What a precision stands for: the format of the weights, and that of the products with frozen ones.
FORMATS = {
    "32-true": (torch.float32, torch.float32),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, torch.bfloat16),
}


def build(base: Path, recipe: Recipe, device: torch.device | str = "cpu") -> Student:
    """The base with fresh, seeded LoRA matrices (A random, B zero), only these trainable, on the CPU.

    With quantize nf4 its blocks are on `device`. Raises UserError for a base whose weights are not those of
    its configuration.
    """
    config = LoRAConfig.from_file(
        Path(base) / "model_config.yaml",
        lora_r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        **{f"lora_{name}": getattr(recipe, f"lora_{name}") for name in TARGETS},
    )
    # Empty first, then loaded: 0.11 s in place of 1.36 of random weights that would be overwritten (135M),
    # and no float32 copy of what is kept in bfloat16.
    with Unfilled():
        model = Student(config)
    weights, products = FORMATS[recipe.precision]
    model.to(weights)
    for layer in lora_layers(model):
        # Frozen, so casting once equals autocast's casting in every forward pass.
        layer.linear.weight.data = layer.linear.weight.data.to(products)
    model.to_empty(device="cpu")
    model.cos, model.sin = model.rope_cache(device=torch.device("cpu"))
    missing, unexpected = model.load_state_dict(load_state(base), strict=False)
    if unexpected or not all(lora_filter(name, None) for name in missing):
        raise UserError(f"{base}/lit_model.pth does not fit model_config.yaml; run the base stage again")
    mark_only_lora_as_trainable(model)
    torch.manual_seed(recipe.seed)
    for layer in lora_layers(model):
        layer.reset_parameters()
    if recipe.quantize == "nf4":
        quantize(model, products, device)
    return model


def lora_layers(model: torch.nn.Module) -> list[LoRALinear]:
    """All linear layers, whether they are adapted or not: litgpt makes each a LoRALinear."""
    return [layer for layer in model.modules() if isinstance(layer, LoRALinear)]


@contextmanager
def without_fetched_code() -> Iterator[None]:
    """Inside, the import of bitsandbytes fetches nothing, and does not ask for what would.

    On a CPU with AVX512-bf16 it has the package `kernels`, where that is installed, fetch native code from a
    hub, for answers one row at a time, which nothing here makes; else it recommends that package.
    """
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    installed = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # "not installed", says Python's own manual
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if installed is not None:
            sys.modules["kernels"] = installed


def quantize(model: Student, products: torch.dtype, device: torch.device | str) -> None:
    """4-bit NormalFloat with double quantization for the blocks' linear layers (QLoRA, arXiv 2305.14314).

    Embedding, norms and head stay as they are. `products` is the format that the layers compute in. Layer by
    layer, so that `device` never holds the unquantized blocks.
    Raises UserError where bitsandbytes is not installed, and for layers that are no whole blocks wide.
    """
    try:
        with without_fetched_code():
            from bitsandbytes.nn import Linear4bit, Params4bit
    except ModuleNotFoundError:
        raise UserError("finetune: quantize nf4 needs a package: pip install bitsandbytes") from None

    for layer in lora_layers(model.transformer):
        plain = layer.linear
        # Values with one scale. bitsandbytes 0.50.2 has a CPU kernel that reads other scales, without an
        # error, where a row of the weight is no whole blocks: an error of .18 to .40 in place of .09.
        block = next((size for size in BLOCKS if plain.in_features % size == 0), None)
        if block is None:
            raise UserError(
                f"finetune: quantize nf4 needs layers of a multiple of {BLOCKS[-1]} inputs, and this base "
                f"has {plain.in_features}; use quantize none"
            )
        options = {"quant_type": "nf4", "compress_statistics": True}
        low = Linear4bit(
            plain.in_features,
            plain.out_features,
            bias=False,
            compute_dtype=products,
            device="meta",
            **options,
        )
        low.weight = Params4bit(
            plain.weight.data, requires_grad=False, module=low, blocksize=block, **options
        )
        low.bias = plain.bias
        # In a validation its CPU kernel would repack the weight into a form without a backward pass, and the
        # next step would train wrongly without an error.
        low.support_avx512bf16_for_cpu = False
        layer.linear = low.to(device)
