"""Where a training runs: its processes, their devices and how they share the work (Lightning Fabric).

Processes come from torchrun, from srun, by hand (MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK, WORLD_SIZE), or
from this one, which starts the others of its node where `devices` is more than one.
"""

import ctypes
import logging
import os
import signal
from datetime import timedelta
from typing import NamedTuple

import torch

from stages.core.errors import UserError
from stages.student.formats.litgpt import (
    DDPStrategy,
    Fabric,
    LightningEnvironment,
    ModelParallelStrategy,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from stages.student.recipe import Recipe, Training

TIMEOUT = timedelta(minutes=10)  # a process that waits longer for another one ends with an error
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Launch(NamedTuple):
    """Processes of this node (one a device), nodes, and whether something else has started them."""

    devices: int
    nodes: int
    started: bool


def launch_of(recipe: Recipe | Training) -> Launch:
    """What the launcher's variables say; without a launcher, what the recipe says.

    The launcher wins: the same parameters run under torchrun with any number of processes.
    """
    given = os.environ
    if "SLURM_STEP_NUM_TASKS" in given and "RANK" not in given:
        adopt_slurm()
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= set(given):
        return Launch(recipe.devices, recipe.num_nodes, started=False)
    devices = int(given.get("LOCAL_WORLD_SIZE", recipe.devices))
    return Launch(devices, int(given["WORLD_SIZE"]) // devices, started=True)


def adopt_slurm() -> None:
    """Name what srun says of this step's tasks (`man srun`, output environment) as torchrun names it."""
    given = os.environ
    tasks, nodes = int(given["SLURM_STEP_NUM_TASKS"]), int(given["SLURM_STEP_NUM_NODES"])
    if tasks % nodes:
        raise UserError(f"srun: {tasks} tasks on {nodes} nodes; use --ntasks-per-node, equal on every node")
    names = {
        "RANK": given["SLURM_PROCID"],
        "LOCAL_RANK": given["SLURM_LOCALID"],
        "GROUP_RANK": given["SLURM_NODEID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(given["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(15000 + int(given["SLURM_JOB_ID"]) % 10000),
    }
    if "SLURM_CPUS_PER_TASK" in given:
        names["OMP_NUM_THREADS"] = given["SLURM_CPUS_PER_TASK"]
    for name, value in names.items():
        os.environ.setdefault(name, value)


def check(recipe: Recipe | Training, launch: Launch) -> None:
    """Raises UserError for what cannot run here."""
    cuda = torch.cuda.is_available()
    available = torch.accelerator.device_count() or len(os.sched_getaffinity(0))
    if launch.devices > available:
        kind = "devices" if torch.accelerator.is_available() else "CPU cores"
        raise UserError(f"devices {launch.devices}, but this process may use {available} {kind}")
    if isinstance(recipe, Recipe) and recipe.strategy == "fsdp" and recipe.quantize != "none":
        raise UserError("fsdp cannot split nf4 weights; use strategy ddp, or quantize none")
    if recipe.precision == "16-mixed" and (not cuda or recipe.strategy == "fsdp"):
        raise UserError("precision 16-mixed needs CUDA and no fsdp; use bf16-mixed")


def share_cores(launch: Launch) -> None:
    """One thread a core over all processes of the node, unless OMP_NUM_THREADS or torchrun has a say.

    A single process needs nothing: PyTorch goes by its affinity mask.
    """
    if launch.devices > 1:
        share = max(1, len(os.sched_getaffinity(0)) // launch.devices)
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(share))))


def make_fabric(recipe: Recipe | Training) -> Fabric:
    """The launched Fabric; code after this call runs in every process."""
    launch = launch_of(recipe)
    check(recipe, launch)
    share_cores(launch)
    for chatty in ("lightning.fabric.utilities", "lightning.pytorch"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    fabric = Fabric(
        devices=launch.devices,
        num_nodes=launch.nodes,
        strategy=strategy_of(recipe, launch),
        precision=recipe.precision,
        plugins=[TorchElasticEnvironment() if launch.started else LightningEnvironment()],
    )
    fabric.launch()
    if not launch.started and fabric.local_rank > 0:
        # NCCL would let this process wait for its dead parent until TIMEOUT, and hold the device.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return fabric


def strategy_of(recipe: Recipe | Training, launch: Launch):
    """Lightning's strategy: "auto" for one process, else ddp (each has the model) or fsdp (each has a part).

    fsdp is FSDP2 (`fully_shard`): Fabric refuses FSDP1 without CUDA.
    """
    # Nothing is broadcast: buffers and weights come from one file and one seed. It would be the frozen base.
    size = launch.devices * launch.nodes
    if size == 1:
        return "auto"
    if recipe.strategy == "fsdp":
        return ModelParallelStrategy(shard, data_parallel_size=size, tensor_parallel_size=1, timeout=TIMEOUT)
    return DDPStrategy(
        timeout=TIMEOUT, init_sync=False, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def shard(model, mesh):
    """Split every block, then what is left (embedding, head), over the processes."""
    from torch.distributed.fsdp import fully_shard  # imports sympy, which no other strategy needs

    for part in (*model.transformer.h, model):
        fully_shard(part, mesh=mesh["data_parallel"])
    return model
