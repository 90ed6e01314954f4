"""The only place that imports litgpt and Lightning, made light.

`import lightning` imports torchmetrics, which imports transformers, scikit-learn, scipy and matplotlib:
seconds and hundreds of megabytes that nothing here uses. It also imports torch's compiler, another second,
only to ask whether a module is a compiled one. While litgpt is imported stubs stand in for both; they are
removed afterwards, so a later import gets the real ones. Should a new release need more than the stubs have,
the real imports are used.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from torch import nn

METRICS, COMPILER, API = "torchmetrics", "torch._dynamo", "litgpt.api"
NEEDED = (
    "litgpt",
    "litgpt.lora",
    "litgpt.scripts.convert_hf_checkpoint",
    "litgpt.scripts.convert_lit_checkpoint",
)


class _Compiled(type):
    def __instancecheck__(cls, instance) -> bool:
        compiler = sys.modules.get(COMPILER)
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


def _stubs() -> Iterator[ModuleType]:
    """The stubs of what is installed and not yet imported."""
    if METRICS not in sys.modules and importlib.util.find_spec(METRICS) is not None:
        stub = ModuleType(METRICS)
        stub.__version__ = importlib.metadata.version(METRICS)
        stub.__path__, stub.__spec__ = [], ModuleSpec(METRICS, None, is_package=True)
        stub.Metric = type("Metric", (nn.Module,), {})
        stub.MetricCollection = type("MetricCollection", (nn.ModuleDict,), {})
        yield stub
    if COMPILER not in sys.modules:
        stub = ModuleType(COMPILER)
        stub.OptimizedModule = _Compiled("OptimizedModule", (), {})
        stub.disable = lambda function, *_, **__: function  # decorates a method of Lightning's Trainer
        yield stub
        stub = ModuleType(API)  # imports the compiler for litgpt's own text generation
        stub.LLM = None
        yield stub


@contextmanager
def _stubbed() -> Iterator[None]:
    stubs = {stub.__name__: stub for stub in _stubs()}
    sys.modules |= stubs
    try:
        yield
    finally:
        for name in stubs:
            _forget(name)


def _forget(*packages: str) -> None:
    for name in [n for n in sys.modules if n.startswith(tuple(f"{p}." for p in packages)) or n in packages]:
        del sys.modules[name]


def _import_all() -> None:
    for name in NEEDED:
        importlib.import_module(name)


def _load() -> None:
    if "lightning" in sys.modules:
        return _import_all()
    try:
        with _stubbed():
            _import_all()
    except (ImportError, AttributeError):
        _forget("litgpt", "lightning")
        _import_all()


_load()

from lightning.fabric import Fabric  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.lora import GPT as LoRAGPT  # noqa: E402
from litgpt.lora import Block as LoRABlock  # noqa: E402
from litgpt.lora import CausalSelfAttention as LoRAAttention  # noqa: E402
from litgpt.lora import Config as LoRAConfig  # noqa: E402
from litgpt.lora import LLaMAMLP as LoRAMLP  # noqa: E402
from litgpt.lora import (  # noqa: E402
    LoRALinear,
    LoRAQKVLinear,
    lora_filter,
    mark_only_lora_as_trainable,
    merge_lora_weights,
)
from litgpt.model import GPT, Block, RMSNorm  # noqa: E402
from litgpt.scripts import convert_hf_checkpoint as from_hf  # noqa: E402
from litgpt.scripts import convert_lit_checkpoint as to_hf  # noqa: E402
from litgpt.utils import save_config  # noqa: E402

__all__ = [
    "GPT",
    "Block",
    "Config",
    "Fabric",
    "LoRAConfig",
    "LoRAAttention",
    "LoRABlock",
    "LoRAGPT",
    "LoRALinear",
    "LoRAMLP",
    "LoRAQKVLinear",
    "RMSNorm",
    "from_hf",
    "lora_filter",
    "mark_only_lora_as_trainable",
    "merge_lora_weights",
    "save_config",
    "to_hf",
]
