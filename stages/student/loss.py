"""The loss: a sum over target tokens, divided once by the target tokens of the whole optimizer step.

A mean per micro-batch would weigh a token by the company it keeps: accumulation, length grouping and data
parallelism would each change the gradient. A sum over a global count is the same however a batch is cut.
"""

import torch
import torch.nn.functional as F

IGNORE = -100


def summed_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood in nats summed over targets (N,) that are not IGNORE; logits (N, V).

    The logarithm is taken in float32: in bfloat16 the loss is biased by about half a per cent.
    """
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")
