"""The saved state of a training: one file, written by the first process, from which a killed run goes on.

Tensors are gathered before they are written, and saved by name. What is trained is small (LoRA matrices or an
encoder, and AdamW's two moments of each), so a file for every process would save nothing, and one whole file
can be continued by any number of processes under any strategy. It is replaced as a whole or not at all.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from stages.core.files import atomic_path
from stages.student.formats.litgpt import Fabric


@dataclass
class State:
    """Where the run is, beside its tensors.

    step: optimizer steps done. tokens: of the rows seen. best_step, best_loss: of the best validation. stale:
    validations since then. pending: summed loss and target tokens since the last point of the curve, whose
    points are in `curve`.
    """

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    stale: int = 0
    pending: list[float] = field(default_factory=lambda: [0.0, 0])
    curve: list[dict] = field(default_factory=list)


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; of a tensor in parts, all of it. Then every process has to call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).to("cpu", copy=True)


def placed(value: torch.Tensor, like: torch.nn.Parameter) -> torch.Tensor:
    """`value` (the same in every process) on the device of `like`, and in parts where `like` is."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def adapter_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that are trained (LoRA's, where it is that), whole and on the CPU."""
    return {name: whole(value) for name, value in trained(model).items()}


def save(file: Path, fabric: Fabric, model, optimizer, **rest) -> None:
    """Write what is trained, optimizer, loss scale and `rest` (tensors, plain values), in every process."""
    moments = {
        name: {key: whole(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in trained(model).items()
    }
    adapter, scale = adapter_of(model), fabric.strategy.precision.state_dict()
    if fabric.is_global_zero:
        with atomic_path(file) as temporary:
            torch.save({"adapter": adapter, "moments": moments, "scale": scale, **rest}, temporary)


def load(file: Path, fabric: Fabric, model, optimizer) -> dict | None:
    """Continue from `file`, which the first process reads for all; returns what `save` was given, or None."""
    reads = fabric.is_global_zero and file.is_file()
    saved = torch.load(file, map_location="cpu", weights_only=True) if reads else None
    saved = fabric.broadcast(saved)
    if saved is None:
        return None
    parameters, state = trained(model), {}
    for place, (name, parameter) in enumerate(parameters.items()):
        moments = saved["moments"][name]
        state[place] = {key: placed(v, parameter) if v.dim() else v for key, v in moments.items()}
        with torch.no_grad():
            parameter.copy_(placed(saved["adapter"][name], parameter))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    fabric.strategy.precision.load_state_dict(saved["scale"])
    return saved
