"""The only place that imports litgpt and Lightning, made light."""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from torch import nn

# `import lightning` imports torchmetrics, which imports transformers, scikit-learn, scipy and matplotlib; it
# also imports torch's compiler, only to ask whether a module is a compiled one. Nothing here uses them. So
# while litgpt is imported, stubs stand in for both; they are removed afterwards, and a later import gets the
# real ones. Measured (AMD EPYC, one thread, after torch): 0.3 s of CPU time and 236 MiB with the stubs, 4.3 s
# and 521 MiB without, which `finetune` and `merge` save; with transformers imported anyway, as in `base` and
# `export`, 3.5 against 4.3 s.

METRICS, COMPILER, API = "torchmetrics", "torch._dynamo", "litgpt.api"
NEEDED = (
    "litgpt",
    "litgpt.lora",
    "litgpt.scripts.convert_hf_checkpoint",
    "litgpt.scripts.convert_lit_checkpoint",
)


class _Compiled(type):
    """The type of the stub's OptimizedModule: asks the real compiler, once somebody has imported it."""

    def __instancecheck__(cls, instance) -> bool:
        compiler = sys.modules.get(COMPILER)
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


def _stubs() -> Iterator[ModuleType]:
    """A stub for each of the three modules that is installed and not yet imported."""
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
    """Stubs in sys.modules for as long as this lasts."""
    stubs = {stub.__name__: stub for stub in _stubs()}
    sys.modules |= stubs
    try:
        yield
    finally:
        for name in stubs:
            _forget(name)


def _forget(*packages: str) -> None:
    """Take packages and all that is in them out of sys.modules."""
    for name in [n for n in sys.modules if n.startswith(tuple(f"{p}." for p in packages)) or n in packages]:
        del sys.modules[name]


def _import_all() -> None:
    for name in NEEDED:
        importlib.import_module(name)


def _load() -> None:
    """Import NEEDED, with stubs where that works: a new release may need more than the stubs have."""
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
from lightning.fabric.plugins.environments import (  # noqa: E402
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.lora import GPT as LoRAGPT  # noqa: E402, N811
from litgpt.lora import Block as LoRABlock  # noqa: E402
from litgpt.lora import CausalSelfAttention as LoRAAttention  # noqa: E402
from litgpt.lora import Config as LoRAConfig  # noqa: E402
from litgpt.lora import GptNeoxMLP as LoRANeoxMLP  # noqa: E402
from litgpt.lora import LLaMAMLP as LoRALlamaMLP  # noqa: E402
from litgpt.lora import (  # noqa: E402
    LoRALinear,
    LoRAQKVLinear,
    lora_filter,
    mark_only_lora_as_trainable,
)
from litgpt.model import GPT, RMSNorm  # noqa: E402
from litgpt.scripts import convert_hf_checkpoint as from_hf  # noqa: E402
from litgpt.scripts import convert_lit_checkpoint as to_hf  # noqa: E402
from litgpt.utils import save_config  # noqa: E402

__all__ = [
    "GPT",
    "Config",
    "DDPStrategy",
    "Fabric",
    "LightningEnvironment",
    "LoRAAttention",
    "LoRABlock",
    "LoRAConfig",
    "LoRAGPT",
    "LoRALinear",
    "LoRALlamaMLP",
    "LoRANeoxMLP",
    "LoRAQKVLinear",
    "ModelParallelStrategy",
    "RMSNorm",
    "SLURMEnvironment",
    "TorchElasticEnvironment",
    "from_hf",
    "lora_filter",
    "mark_only_lora_as_trainable",
    "save_config",
    "to_hf",
]
