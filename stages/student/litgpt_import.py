"""The only place that imports litgpt and Lightning, made light.

`import lightning` imports torchmetrics, which imports transformers, scikit-learn, scipy and matplotlib:
seconds and hundreds of megabytes that nothing here uses. While litgpt is imported a stub stands in for
torchmetrics; it is removed afterwards, so a later `import torchmetrics` gets the real one. Should a new
release need more of torchmetrics than the stub has, the real import is used.
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

STUBBED = "torchmetrics"
NEEDED = (
    "litgpt",
    "litgpt.lora",
    "litgpt.scripts.convert_hf_checkpoint",
    "litgpt.scripts.convert_lit_checkpoint",
)


@contextmanager
def _stub() -> Iterator[None]:
    stub = ModuleType(STUBBED)
    stub.__version__ = importlib.metadata.version(STUBBED)
    stub.__path__, stub.__spec__ = [], ModuleSpec(STUBBED, None, is_package=True)
    stub.Metric = type("Metric", (nn.Module,), {})
    stub.MetricCollection = type("MetricCollection", (nn.ModuleDict,), {})
    sys.modules[STUBBED] = stub
    try:
        yield
    finally:
        _forget(STUBBED)


def _forget(*packages: str) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in packages]:
        del sys.modules[name]


def _import_all() -> None:
    for name in NEEDED:
        importlib.import_module(name)


def _load() -> None:
    if "lightning" in sys.modules or STUBBED in sys.modules or importlib.util.find_spec(STUBBED) is None:
        return _import_all()
    try:
        with _stub():
            _import_all()
    except (ImportError, AttributeError):
        _forget("litgpt", "lightning", STUBBED)
        _import_all()


_load()

from lightning.fabric import Fabric  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.lora import GPT as LoRAGPT  # noqa: E402
from litgpt.lora import Block as LoRABlock  # noqa: E402
from litgpt.lora import CausalSelfAttention as LoRAAttention  # noqa: E402
from litgpt.lora import Config as LoRAConfig  # noqa: E402
from litgpt.lora import (  # noqa: E402
    LoRALinear,
    LoRAQKVLinear,
    lora_filter,
    mark_only_lora_as_trainable,
    merge_lora_weights,
)
from litgpt.model import GPT, Block  # noqa: E402
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
    "LoRAQKVLinear",
    "from_hf",
    "lora_filter",
    "mark_only_lora_as_trainable",
    "merge_lora_weights",
    "save_config",
    "to_hf",
]
