"""This process: which of several it is, how its threads share cores with others', what its garbage costs."""

import atexit
import gc
import os

SPINS = "5000"  # about a tenth of a millisecond
ALLOCATIONS = 10_000  # between two looks for garbage; Python's own are 700
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def first_process() -> bool:
    """Whether this process is the one that writes; a process alone is."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def leave_idle_cores() -> None:
    """Let a thread that waits for the others go to sleep soon. To be called before torch is imported.

    libgomp's threads look for work for milliseconds before they do: where another program is busy on one of
    the cores, they keep those waiting that have work.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def collect_seldom() -> None:
    """Let Python look for unreachable cycles less often, and not at all when it ends.

    It looks through all objects there are: with torch, transformers and PEFT that takes two seconds.
    """
    gc.set_threshold(ALLOCATIONS)
    atexit.register(gc.freeze)
