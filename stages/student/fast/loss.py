"""The loss: a sum over target tokens, divided once by the target tokens of the whole optimizer step.

A mean per micro-batch would weigh a token by the company it keeps: accumulation, length grouping and data
parallelism would each change the gradient. A sum over a global count is the same however a batch is cut.
"""

import torch
import torch.nn.functional as F

IGNORE = -100
HEAD_ELEMENTS = 1 << 26  # logits that exist at a time (128 MiB in bfloat16)
PIECE = 1 << 20  # of these, as many are in float32 at a time: they stay in a core's cache


def summed_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood in nats summed over targets (N,) that are not IGNORE; logits (N, V).

    The logarithm is taken in float32: in bfloat16 the loss is biased by about half a per cent.
    """
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum")


class HeadLoss(torch.autograd.Function):
    """`summed_nll(hidden Wᵀ + b, targets)` for a frozen head, with its gradient made on the way.

    The gradient with respect to the logits is softmax - onehot: it replaces them in place, piece by piece,
    and is multiplied back through W at once, so that of N · V numbers no more than HEAD_ELEMENTS ever exist.
    hidden (N, width) and weight (V, width) of one dtype; targets (N,) int64. Returns a float32 scalar.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        rows = max(1, HEAD_ELEMENTS // len(weight))
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight, bias)
            total += differentiate_(logits, targets[part], grad is not None)
            if grad is not None:
                torch.mm(logits, weight, out=grad[part])
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx, scale):
        (grad,) = ctx.saved_tensors
        return (grad.float() * scale).to(grad.dtype), None, None, None


def differentiate_(logits: torch.Tensor, targets: torch.Tensor, wanted: bool) -> torch.Tensor:
    """The summed loss; if `wanted`, `logits` become its gradient with respect to them."""
    total = torch.zeros((), device=logits.device)
    rows = max(1, PIECE // logits.shape[1])
    for piece, target in zip(logits.split(rows), targets.split(rows), strict=True):
        likely = torch.log_softmax(piece.float(), -1)
        total += F.nll_loss(likely, target, ignore_index=IGNORE, reduction="sum")
        if wanted:
            counted = target != IGNORE
            likely.exp_().mul_(counted[:, None])
            likely[counted.nonzero()[:, 0], target[counted]] -= 1
            piece.copy_(likely)
    return total
