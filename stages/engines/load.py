"""Choose, prepare and open an engine: the one place that knows all of them.

Light until an engine is opened: an engine's packages take seconds to import, and only one is needed.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.core.errors import UserError
from stages.core.files import read_object, verify_manifest
from stages.engines.protocol import Decoding, Engine

PACKAGES = {
    "transformers": ("torch", "transformers"),
    "openvino": ("openvino", "openvino-genai", "torch", "transformers"),  # torch: conversion
    "vllm": ("vllm",),
    "openai": ("openai",),
}


def resolve(decoding: Decoding) -> Decoding:
    """`decoding` with `precision` decided for this machine. Raises UserError for one that would not run.

    Of the knobs of a stage, which have more, those of Decoding alone.
    """
    decoding = Decoding(**decoding.model_dump(include=set(Decoding.model_fields)))
    # openvino 2026.4 divides by zero (and dies) in bf16 with one thread, in the fused MLP of Llama and Qwen.
    single = decoding.engine == "openvino" and min(decoding.threads, len(os.sched_getaffinity(0))) == 1
    if decoding.precision == "bf16" and single:
        raise UserError("engine openvino needs two CPU threads for precision bf16; raise threads, or set f32")
    if decoding.precision != "auto":
        return decoding
    fast = False
    if decoding.engine == "openvino":
        import openvino

        fast = not single and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    elif decoding.engine in ("transformers", "vllm"):
        fast = cuda_is_available()
    return decoding.model_copy(update={"precision": "bf16" if fast else "f32"})


def cuda_is_available() -> bool:
    """As torch says, which is not imported (1.5 s) where it was built for the CPU alone."""
    if version("torch").endswith("+cpu"):
        return False
    import torch

    return torch.cuda.is_available()


def check_model(directory: Path) -> None:
    """Raises UserError unless the model directory is there, with the very files that its stage wrote.

    A pull may bring others: DVC does not look into what it downloads. Takes 0.3 s for 540 MB.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: no config.json; the stage before this one makes it: run `dvc repro`")
    verify_manifest(directory, sized=["lit_model.pth"])  # which no engine reads


def prepare(directory: Path, decoding: Decoding) -> None:
    """Make what all workers share, once, before they start. Raises UserError for a missing package."""
    if decoding.engine == "openvino":
        from stages.engines.openvino_model import converted

        converted(directory)
    elif decoding.engine == "vllm":
        from stages.engines.with_vllm import require

        require()


def open_engine(directory: Path, decoding: Decoding) -> Engine:
    """Load the model of a Hugging Face `directory`; `decoding` went through `resolve`."""
    if decoding.engine == "transformers":
        from stages.engines.with_transformers import TransformersEngine as Chosen
    elif decoding.engine == "openvino":
        from stages.engines.with_openvino import OpenvinoEngine as Chosen
    elif decoding.engine == "vllm":
        from stages.engines.with_vllm import VllmEngine as Chosen
    else:
        from stages.engines.with_openai import OpenaiEngine as Chosen
    return Chosen(Path(directory), decoding)


def engine_versions(decoding: Decoding) -> dict[str, str]:
    """Versions of the packages that make the engine: another version may give other bits."""
    versions = {}
    for package in PACKAGES[decoding.engine]:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    return versions


def context_of(directory: Path) -> int:
    """Tokens that the model of a Hugging Face `directory` may read and write together. Raises UserError."""
    file = Path(directory) / "config.json"
    config = read_object(file)
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if context is None:
        raise UserError(f"{file}: no max_position_embeddings; add the length of the context")
    return context
