"""Which of several processes this one is, by what torchrun, srun or Lightning Fabric has set."""

import os

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def first_process() -> bool:
    """Whether this process is the one that writes; a process alone is."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
